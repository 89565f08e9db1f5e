"""The band that an event lies in: where in frequency its label looked."""

import numpy as np
import pytest
import soundfile
import torch
from helpers import LABELS, RATE, sound, tiny_checkpoint, tiny_model
from typer.testing import CliRunner

from atgnn import formats
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.errors import ConfigError
from atgnn.events import Event, EventSettings, Stream, detect
from atgnn.events.bands import OUTSIDE, band_of, band_places
from atgnn.events.rows import Layout
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN
from atgnn.model.evidence import row_shares
from atgnn.model.label import Drawing
from atgnn.tagger import Tagger

FINE = EventSettings(window_s=1.0, hop_s=0.3, on=0.55, off=0.45, ancestors=True, bands=True)


@pytest.fixture(scope="module", params=[False, True], ids=["windows", "moments"])
def tagger(request) -> Tagger:
    return Tagger(tiny_checkpoint(moments=request.param), "cpu")


def test_the_share_of_each_row_is_that_of_the_channels_it_won():
    model = tiny_model().eval()
    seen: list[Drawing] = []
    with torch.no_grad():
        model.scored(model.encoder(torch.randn(2, 40, 32)), seen)
    assert [one.patches.x.shape[1] for one in seen] == [4, 2]
    found = row_shares(seen, 4)
    wanted = torch.zeros(2, len(LABELS), 4)
    for drawn in seen:
        x = drawn.patches.x
        own, columns, width = x.shape[1:]
        for clip in range(2):
            for label in range(len(LABELS)):
                near = drawn.neighbours[clip, label].tolist()
                for channel in range(width):
                    flat = x[clip].reshape(-1, width)[:, channel]
                    won = min(near, key=lambda place, flat=flat: float(flat[place]))
                    rows = slice(won // columns * (4 // own), (won // columns + 1) * (4 // own))
                    wanted[clip, label, rows] += own / 4 / width / len(seen)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(2), torch.ones(2, len(LABELS)))
    with torch.no_grad():  # nothing else changes
        stages = model.encoder(torch.randn(2, 40, 32))
        assert torch.equal(model.scored(stages), model.scored(stages, []))


def test_rows_are_taken_apart_as_they_were_put_together():
    by_windows = Layout(labels=3, rows=2)
    assert by_windows.width == 9
    scores, shares = by_windows.split(np.arange(9.0))
    assert scores.tolist() == [[0, 1, 2]]
    assert shares.tolist() == [[[3, 4], [5, 6], [7, 8]]]
    by_moments = Layout(labels=2, moments=2, rows=1)
    assert by_moments.width == 10
    scores, shares = by_moments.split(np.arange(10.0))
    assert by_moments.whole(np.arange(10.0)[None]).tolist() == [[0, 1]]
    assert scores.tolist() == [[2, 3], [4, 5]]
    assert shares[:, :, 0].tolist() == [[6, 7], [8, 9]]
    assert Layout(labels=2).split(np.arange(2.0))[1] is None


def test_a_band_holds_most_of_the_evidence():
    places = band_places(tiny_checkpoint())
    hertz = places.front_end.bins_to_hertz
    one_row = band_of(places, np.array([0.0, 0.0, 5.0, 0.0]))  # row 2 is around bin 16
    share = OUTSIDE * 8
    assert one_row == pytest.approx(tuple(hertz(np.array([12 + share, 20 - share]))))
    low, high = band_of(places, np.array([0.5, 0, 0, 0.5]))
    assert (low, high) == pytest.approx(
        tuple(hertz(np.array([-1 + 2 * OUTSIDE * 5, 32 - 2 * OUTSIDE * 12])))
    )
    edges = places.band_edges()
    for row in range(4):
        low, high = band_of(places, np.eye(4)[row])
        assert edges[row] < low < high < edges[row + 1]


def test_bands_change_nothing_else_and_a_stream_s_are_those_of_the_file(tagger):
    wave = sound(9.7)
    with_bands = list(detect(tagger, (wave, RATE), FINE))
    plain = list(detect(tagger, (wave, RATE), FINE.model_copy(update={"bands": False})))
    assert len(plain) > 2
    assert [Event(e.label, e.start, e.end, e.score) for e in with_bands] == plain
    low, high = tagger.band
    assert all(low <= e.low_hz < e.high_hz <= high for e in with_bands)
    assert all(e.low_hz is None and e.high_hz is None for e in plain)
    stream = Stream(tagger, RATE, FINE)
    found = [event for chunk in np.array_split(wave, 13) for event in stream.feed(chunk)]
    assert found + stream.finish() == with_bands


def test_silence_and_the_shortest_sound_have_a_band(tagger):
    everything = EventSettings(on=0.0, off=0.0, bands=True, ancestors=True)
    for wave in (np.zeros(5 * RATE, np.float32), sound(0.01), sound(3.03)):
        for event in detect(tagger, (wave, RATE), everything):
            assert np.isfinite([event.low_hz, event.high_hz]).all()
            assert event.low_hz < event.high_hz


def test_models_without_label_nodes_have_no_bands():
    config = tiny_model().config.replace(label_blocks=(0, 0))
    names = Vocabulary.from_names(LABELS)
    encoder = Checkpoint(ATGNN(config), FrontEndConfig(n_mels=32), names, window_seconds=2.0)
    with pytest.raises(ConfigError, match="no label nodes"):
        list(detect(Tagger(encoder, "cpu"), (sound(1), RATE), FINE))


@pytest.mark.parametrize("form", ["csv", "audacity", "raven"])
def test_bands_are_written(form, tmp_path):
    model = str(tiny_checkpoint().save_pretrained(tmp_path / "model"))
    soundfile.write(tmp_path / "a.wav", sound(5), RATE)
    options = ["--events", "--window", "1", "--hop", "0.3", "--on", "0.55", "--off", "0.45"]
    command = ["tag", str(tmp_path / "a.wav"), "--model", model, *options, "--format", form]
    for more, there in (([], False), (["--bands"], True)):
        out = tmp_path / f"out-{there}"
        result = CliRunner().invoke(app, [*command, *more, "--out", str(out)])
        assert result.exit_code == 0, result.output
        (found,) = formats.read(out, form)
        assert found.events
        assert all((event.low_hz is not None) == there for event in found.events)
    wrong = CliRunner().invoke(app, [*command[:4], "--bands"])
    assert "--bands does nothing without --events" in wrong.stderr
    wrong = CliRunner().invoke(app, [*command[:5], "--reading", "moments"])
    assert "not trained to tell moments" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
