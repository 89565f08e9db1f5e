"""``atgnn learn`` and ``atgnn packs`` from the shell's side: files, messages, exit codes."""

import json
from pathlib import Path

import pytest
from helpers import tiny_checkpoint, write
from test_learn import HISSES, WHISTLES, few_sounds_by_rule  # noqa: F401
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.packs import LabelPack


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, and folders of clips."""
    folder = tmp_path_factory.mktemp("place")
    tiny_checkpoint().save_pretrained(folder / "model")
    for name, clips in (("whistles", WHISTLES), ("hisses", HISSES)):
        for number, (samples, rate) in enumerate(clips):
            write(folder / name / f"{number}.wav", samples, rate)
    return folder


def run(place: Path, *words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_learn_then_tag(place):
    pack, options = place / "w.pack", ("--model", place / "model", "--cache", place / "cache")
    done = run(
        place, "learn", "whistle", place / "whistles", "--not", place / "hisses", "--out", pack,
        *options,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "learned from 5 clips and 5 without it" in done.stdout
    hint = f"`atgnn tag SOUND --model {place / 'model'} --pack {pack}`"
    assert hint in done.stdout.replace("\n", "")
    tagged = run(
        place, "tag", place / "whistles" / "0.wav", "--model", place / "model", "--pack", pack,
        "--json", "--threshold", 0,
    )  # fmt: skip
    assert "whistle" in {tag["label"] for tag in json.loads(tagged.stdout)["tags"]}
    again = run(place, "learn", "whistle", place / "whistles", "--out", pack, *options)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_two_labels_into_one_pack_and_packs_together(place):
    options = ("--model", place / "model", "--cache", place / "cache")
    both = place / "both.pack"
    done = run(
        place, "learn", "whistle", place / "whistles", "--also", f"hiss={place / 'hisses'}",
        "--out", both, *options,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert LabelPack.read(both).names == ("whistle", "hiss")
    more = place / "more.pack"
    done = run(place, "learn", "third", place / "hisses", "--pack", both, "--out", more, *options)
    assert done.exit_code == 0, done.output
    assert LabelPack.read(more).names == ("whistle", "hiss", "third")
    shown = run(place, "packs", both, "--out", place / "copy.pack")
    assert "whistle: counts as present from" in shown.stdout
    assert f"written to {place / 'copy.pack'}" in shown.stderr
    assert LabelPack.read(place / "copy.pack").names == ("whistle", "hiss")


def test_a_bad_clip_is_named_and_the_others_are_used(place):
    (place / "mixed").mkdir()
    write(place / "mixed" / "good.wav", *WHISTLES[0])
    (place / "mixed" / "bad.wav").write_text("words")
    done = run(
        place, "learn", "mixed", place / "mixed", "--out", place / "mixed.pack",
        "--model", place / "model", "--cache", place / "cache",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "bad.wav: holds text" in done.stderr
    assert "one clip cannot be left out" in done.stdout
    assert LabelPack.read(place / "mixed.pack").names == ("mixed",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Rain", "whistles"], "a label 'Rain' already"),
        (["x", "nowhere.wav"], "nowhere.wav: cannot be read (No such file"),
        (["x", "empty"], "no sounds in this folder"),
        (["x", "whistles", "--also", "y"], "expected LABEL=CLIPS"),
        (["x", "whistles", "--not", "whistles"], "given both as 'x' and as not"),
        (["x", "whistles", "--pack", "gone.pack"], "gone.pack: no such file"),
    ],
)
def test_what_cannot_be_learned_is_one_line(place, monkeypatch, words, message):
    monkeypatch.chdir(place)
    (place / "empty").mkdir(exist_ok=True)
    done = run(place, "learn", *words, "--out", "n.pack", "--model", "model", "--cache", "cache")
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "n.pack").exists()


def test_tagging_with_another_models_pack_is_one_line(place):
    other = place / "other"
    tiny_checkpoint(labels=("A", "B")).save_pretrained(other)
    pack = place / "o.pack"
    made = run(
        place, "learn", "o", place / "whistles", "--out", pack, "--model", other,
        "--cache", place / "cache",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    done = run(
        place, "tag", place / "whistles" / "0.wav", "--model", place / "model", "--pack", pack
    )
    assert done.exit_code == 2
    assert "made for another model" in done.stderr
