"""Nodes lie where the sound is that they answer to."""

import numpy as np
import pytest
import torch
from helpers import RATE, tiny_model

from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.model.geometry import NodePlaces

FRONT_END = FrontEndConfig(n_mels=32)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize(("seconds", "hertz"), [(0.6, 500.0), (1.5, 3000.0)])
def test_a_node_answers_most_to_the_sound_at_its_place(stage, seconds, hertz):
    model = tiny_model()
    places = NodePlaces(model.config, FRONT_END, stage)
    time = np.arange(2 * RATE) / RATE
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(len(time))
    blip = 0.3 * np.sin(2 * np.pi * hertz * time) * (np.abs(time - seconds) < 0.05)
    mel, _ = FrontEnd(FRONT_END)(torch.tensor(np.stack([quiet, quiet + blip])).float())
    with torch.inference_mode():  # the first block is a convolution and nodes that listen around
        stem = model.encoder.stem(model_input(mel))
    grid = stem.x[1] - stem.x[0] if stage == 0 else deeper(model, stem)
    change = grid.square().sum(-1)
    row, column = np.unravel_index(int(change.argmax()), change.shape)
    edges, bands = places.time_edges(change.shape[1]), places.band_edges()
    assert change.shape == (places.rows, places.columns(len(time)))
    assert edges[column] - 0.05 <= seconds <= edges[column + 1] + 0.05
    assert bands[max(0, row - 1)] <= hertz <= bands[min(places.rows, row + 2)]


def model_input(mel):
    from atgnn.model.layers import Patches

    return Patches(mel[..., None].transpose(1, 2), None)


def deeper(model, stem):
    with torch.inference_mode():
        out = model.encoder.stages[1].entry(stem).x
    return out[1] - out[0]


def test_edges_surround_centres_and_stay_inside_the_band():
    places = NodePlaces(tiny_model().config, FRONT_END, 0)
    times, edges = places.times(9), places.time_edges(9)
    assert np.all(edges[:-1] < times)
    assert np.all(times < edges[1:])
    np.testing.assert_allclose(places.column_at(times), np.arange(9), atol=1e-9)
    bands = places.band_edges()
    assert np.all(np.diff(bands) > 0)
    assert (bands[0], bands[-1]) == FRONT_END.band
    assert len(bands) == places.rows + 1
    np.testing.assert_allclose(FRONT_END.bins_to_hertz(np.arange(32)), FRONT_END.mel_centres)
    with pytest.raises(ValueError, match="stages 0 to 1"):
        NodePlaces(tiny_model().config, FRONT_END, 2)
