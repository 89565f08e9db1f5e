"""What every baseline is asked: to be saved and loaded, to train, tag and be evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers import LABELS, sound, write
from typer.testing import CliRunner

from atgnn.baselines.base import Baseline
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.tagger import Tagger


def command(*arguments: str) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def check_saved_and_loaded(model: Baseline, front_end: FrontEndConfig, folder: Path) -> Checkpoint:
    """A checkpoint in `folder` holds `model`, which has as many labels as `LABELS`."""
    one = Checkpoint(model, front_end, Vocabulary.from_names(LABELS))
    again = Checkpoint.from_pretrained(one.save_pretrained(folder))
    assert type(again.model) is type(model)
    assert again.model.config == model.config
    assert again.digest() == one.digest()
    wave = sound(1.0)
    first, second = (Tagger(c, "cpu").scores((wave, 16_000)) for c in (one, again))
    np.testing.assert_array_equal(first, second)
    return one


def recipe(folder: Path, model: dict[str, Any], front_end: dict[str, Any], **more: Any) -> Path:
    """A recipe in `folder`, of two labels with four short clips each."""
    for label in ("Rain", "Siren"):
        for number in range(4):
            seed = number + (10 if label == "Siren" else 0)
            write(folder / "clips" / label / f"{number}.wav", sound(0.6, seed=seed))
    values = {
        "name": "test",
        "model": model,
        "front_end": front_end,
        "data": {"clips": str(folder / "clips"), "validation_share": 0.25},
        "optim": {"epochs": 1, "batch_size": 3, "warmup_steps": 1},
        "workers": 0,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def check_train_tag_evaluate(recipe: Path) -> Path:
    """One epoch, then the run's model names a file's sound and is evaluated; its folder."""
    run, clips = recipe.parent / "run", recipe.parent / "clips"
    command("train", str(recipe), "--out", str(run))
    model = str(run / "model")
    assert "Siren" in command("tag", str(clips / "Siren" / "1.wav"), "--model", model, "--top", "2")
    assert "mAP" in command("evaluate", model, str(clips))
    return run
