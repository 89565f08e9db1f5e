"""The model inside the package, on sounds that it never heard."""

import csv
from pathlib import Path

import atgnn
from atgnn import Tagger
from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
from atgnn.shipped import shipped_models

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = Path(atgnn.__file__).parent / "pretrained" / DEFAULT_MODEL


def test_it_ships_and_is_small():
    assert DEFAULT_MODEL in shipped_models()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 30e6


def test_its_card_says_what_it_is():
    checkpoint = Checkpoint.from_pretrained()
    about = checkpoint.provenance
    assert 0 < about.metrics["mAP"] <= 1
    assert about.training_data
    assert "CC BY" in about.licence
    assert all(label.mid for label in checkpoint.vocabulary)
    assert checkpoint.thresholds is not None
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{about.metrics['mAP']:.4f}" in card


def test_every_recording_is_attributed():
    with open(FOLDER / "ATTRIBUTION.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 500
    assert all(row["author"] and row["license"] for row in rows)
    assert not any("ampling" in row["license"] for row in rows)


def test_it_names_the_example():
    (first, *_) = Tagger.from_pretrained().tag(EXAMPLES / "rooster.ogg").tags  # above its threshold
    assert first.label == "Crowing_and_cock-a-doodle-doo"


def test_it_opens_no_connection(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Tagger.from_pretrained().tag(EXAMPLES / "rooster.ogg", top=1).tags
