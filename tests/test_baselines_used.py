"""Every baseline does what a model does: it trains, tags, is saved, loaded, listed and timed."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from fences import ROOT
from helpers import LABELS, sound, write
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.labels import Vocabulary
from atgnn.networks import KINDS, build, network_names, network_preset, own_front_end
from atgnn.tagger import Tagger
from atgnn.training.recipe import load_recipe

#: A small network of each preset's kind; all else follows from the preset.
TINY: dict[str, dict[str, object]] = {
    "lite0": {"width": 0.25},
    "psla": {"width": 0.25, "depth": 0.4},
    "ast": {"width": 16, "depth": 1, "heads": 2, "nominal_frames": 64},
    "audio-transformer": {
        "encoder": 16,
        "width": 8,
        "heads": 2,
        "layers": 2,
        "inner": 8,
        "pool_after": [1],
    },
    "wav2clip": {"width": 4, "blocks": [1, 1], "hidden": [8]},
    "small-cnn": {"channels": [4, 8]},
    "cnn14": {"channels": [4, 8], "hidden": 8},
    "cnn14-16k": {"channels": [4, 8], "hidden": 8},
    "fsd50k-vgg": {"channels": [[4], [8]], "hidden": 8},
}


NEEDS = {"ast": "transformers"}


@pytest.fixture(params=TINY)
def name(request):
    """Every preset there; skipped where a package that it is made of is missing."""
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


def test_no_kind_is_left_out():
    assert {network_preset(name).kind for name in TINY} == set(KINDS) - {"atgnn"}


def checkpoint(name: str) -> Checkpoint:
    """Random weights, behind the front end that the system hears."""
    torch.manual_seed(0)
    front_end = own_front_end(name)
    changes = {**TINY[name], "num_labels": len(LABELS), "n_mels": front_end.n_mels}
    model = build(network_preset(name, **changes)).eval()
    return Checkpoint(model, front_end, Vocabulary.from_names(LABELS))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two labels, four short clips each."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(8):
        label = ("Rain", "Siren")[number % 2]
        write(folder / label / f"{number}.wav", sound(0.5 + 0.1 * (number % 3), seed=number))
    return folder


def test_trained_saved_loaded_and_tagging(name, clips, tmp_path):
    values = {
        "name": "test",
        "model": {"preset": name, **TINY[name]},
        "front_end": {"preset": "own"},
        "data": {"clips": str(clips), "validation_share": 0.25},
        "augment": {"masks": 0},
        "optim": {"epochs": 1, "batch_size": 3, "warmup_steps": 1},
        "workers": 0,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_recipe(path).front_end_config() == own_front_end(name)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    run("train", str(path), "--out", str(tmp_path / "run"))
    model = str(tmp_path / "run" / "model")
    assert Checkpoint.from_pretrained(model).model.config.kind == network_preset(name).kind
    shown = run("tag", str(clips / "Siren" / "1.wav"), "--model", model, "--top", "2")
    assert "Siren" in shown
    assert "mAP" in run("evaluate", model, str(clips))


def test_a_checkpoint_holds_it(name, tmp_path):
    one = checkpoint(name)
    again = Checkpoint.from_pretrained(one.save_pretrained(tmp_path / "m"))
    assert (again.model.config, again.front_end) == (one.model.config, one.front_end)
    recording = (sound(1.1), 16_000)
    first, second = (Tagger(c, "cpu").scores(recording) for c in (one, again))
    np.testing.assert_array_equal(first, second)
    assert one.front_end.summary in one.card()


def test_the_list_of_models_has_every_preset_and_the_documentation_its_figures():
    arguments = ["models", "--json", "--classes", "527", "--frames", "1000"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == network_names()
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    shown = re.findall(r"(?m)^\| `([\w-]+)` \|.*\| ([\d.]+) M \|.*\| ([\d.]+) \|$", page)
    assert len(shown) > 5
    for name, parameters, gmacs in shown:
        assert f"{rows[name]['trainable_parameters'] / 1e6:.2f}" == parameters, name
        assert f"{rows[name]['gmacs']:.2f}" == gmacs, name
