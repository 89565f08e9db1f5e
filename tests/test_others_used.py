"""What was imported does what our own score files do: compared, enhanced with, learned from."""

import json

import numpy as np
import pytest
import torch
from helpers import write
from run_helpers import RATE, tiny_recipe
from typer.testing import CliRunner

pytest.importorskip("lightning")
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import ConfigError
from atgnn.evaluate import compare
from atgnn.labels import Vocabulary
from atgnn.others import import_scores
from atgnn.scoring import ScoreTable
from atgnn.training.distill import teacher_loss
from atgnn.training.run import train

AUDIOSET = Vocabulary.audioset()
LABELS = ("Dog", "Gull_and_seagull", "Rain")  # AudioSet has no gulls


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """High tones are dogs, some of which bark; low ones rain. The last clip is a gull as well."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    rows = ["path,labels,author,split"]
    for number in range(16):
        label, pitch = (("Dog", 3000), ("Rain", 300))[number % 2]
        time = np.arange(RATE // 2) / RATE
        wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))
        write(folder / f"{number}.wav", wave.astype(np.float32))
        labels = f"{label};Gull_and_seagull" if number > 13 else label
        rows.append(f"{number}.wav,{labels},author{number},train")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def theirs(clips, tmp_path_factory):
    """Logits of AudioSet's classes from a tool that knows dogs and rain; dog 0 barks."""
    folder = tmp_path_factory.mktemp("theirs")
    logits = np.full((16, 527), -6, np.float16)
    names = []
    for number in range(16):
        names.append(f"{number}.mp3")
        logits[number, AUDIOSET.index(("Dog", "Rain")[number % 2])] = 3
    logits[0, AUDIOSET.index("Bark")] = 4
    np.save(folder / "passt.npy", logits)
    (folder / "names.json").write_text(json.dumps(names))
    return folder


def imported(theirs, clips, out, *more):
    command = ["import", str(theirs / "passt.npy"), "--names", str(theirs / "names.json")]
    command += ["--clips", str(clips), "--logits", "--out", str(out), *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return out


def test_it_is_compared_with_ours(clips, theirs, tmp_path):
    table = ScoreTable.read(imported(theirs, clips, tmp_path / "s.parquet", "--to", "fsd50k"))
    rows = Clips.read(clips)
    chance = np.random.default_rng(1).random((16, 2)).astype(np.float32)
    ours = ScoreTable([str(p) for p in rows.paths], np.zeros(16), np.full(16, np.nan), LABELS[::2],
                      chance)  # fmt: skip
    found = compare(ours, table, rows, ignore_unknown_labels=True, resamples=100)
    assert found.metrics[1].mean_ap == 1
    assert found.differences["mean_ap"].low > 0
    assert "Gull_and_seagull" in found.ignored_labels
    ours.write(tmp_path / "ours.parquet")
    command = ["compare", str(tmp_path / "ours.parquet"), str(tmp_path / "s.parquet"), str(clips)]
    command += ["--ignore-unknown-labels", "--resamples", "100", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"][1]["mean_ap"] == 1


def test_it_enhances_labels(clips, theirs, tmp_path):
    scores = imported(theirs, clips, tmp_path / "s.parquet", "--to", "fsd50k")
    command = ["enhance", "--clips", str(clips), "--scores", str(scores)]
    command += ["--out", str(tmp_path / "more.csv")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "Gull_and_seagull" in refused.output
    # Bark has no clip, so no threshold: with one, the dog that barks is found.
    text = clips.read_text().replace("\n2.wav,Dog", "\n2.wav,Dog;Bark")
    table = clips.parent / "barks.csv"
    table.write_text(text)
    command[2] = str(table)
    result = CliRunner().invoke(app, [*command, "--ignore-unknown-labels"])
    assert result.exit_code == 0, result.output
    labels = Clips.read(tmp_path / "more.csv").labels
    assert set(labels[0]) == {"Dog", "Bark"}
    assert set(labels[15]) == {"Rain", "Gull_and_seagull"}


def test_it_teaches_a_model(clips, theirs, tmp_path):
    scores = imported(theirs, clips, tmp_path / "s.parquet", "--to", "fsd50k")
    settings = tiny_recipe(
        clips, f"distill.scores={scores}", "distill.partial=true", "optim.epochs=1"
    )
    folder = train(settings, tmp_path / "run")
    assert Checkpoint.from_pretrained(folder).vocabulary.names == LABELS
    assert "Taught by the scores of passt." in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="lack 1 of 3 labels, the first is 'Gull_and_seagull'"):
        train(tiny_recipe(clips, f"distill.scores={scores}"), tmp_path / "whole")


def test_labels_without_a_teacher_have_no_part_in_its_loss():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    taught = torch.tensor([[0.9, torch.nan], [0.2, torch.nan]])
    loss = teacher_loss(logits, taught, "multi_label", 2.0)
    alone = teacher_loss(logits[:, :1], taught[:, :1], "multi_label", 2.0)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, 0] != 0).all()


def test_partial_scores_are_for_independent_labels(theirs, tmp_path):
    write(tmp_path / "sounds" / "Dog" / "0.wav")
    write(tmp_path / "sounds" / "Cat" / "1.wav")
    names = tmp_path / "names.txt"
    names.write_text("0.wav\n1.wav\n")
    np.save(tmp_path / "two.npy", np.load(theirs / "passt.npy")[:2])
    table = import_scores(
        [tmp_path / "two.npy"], names=names, logits=True, activation="softmax",
        clips=Clips.read(tmp_path / "sounds"), to=Vocabulary.from_names(["Dog"]),
    ).table  # fmt: skip
    table.write(tmp_path / "s.parquet")
    changes = (f"distill.scores={tmp_path / 's.parquet'}", "distill.partial=true")
    with pytest.raises(ConfigError, match=r"distill\.partial is for labels that are independent"):
        train(
            tiny_recipe(
                tmp_path / "sounds", *changes, "task=single_label", "data.validation_share=0",
                "select=last",
            ),
            tmp_path / "run",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="partial does nothing without scores"):
        tiny_recipe(tmp_path / "sounds", "distill.partial=true")


def test_a_score_file_that_was_mapped_needs_no_names(clips, theirs, tmp_path):
    first = imported(theirs, clips, tmp_path / "s.parquet")
    again = import_scores([first], to=Vocabulary.from_names(["Rain", "Dog"])).table
    assert again.labels == ("Rain", "Dog")
    assert again.paths == ScoreTable.read(first).paths
