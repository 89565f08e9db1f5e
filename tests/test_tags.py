"""Choosing tags from scores, and writing them."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from atgnn.errors import ConfigError, printable
from atgnn.labels import Ontology, Vocabulary
from atgnn.tags import DEFAULT_TOP, Selector, Tag, Tagging

NAMES = ("Animal", "Dog", "Bark", "Rain", "Wind", "Siren", "Chirp_and_tweet")
VOCABULARY = Vocabulary.from_names(NAMES)


def choose(scores: dict[str, float], thresholds=None, **how) -> list[str]:
    row = np.array([scores.get(name, 0.0) for name in NAMES], dtype=np.float32)
    tagging = Selector(VOCABULARY, thresholds).tagging("x.wav", 1.0, row, **how)
    assert [tag.score for tag in tagging] == sorted((t.score for t in tagging), reverse=True)
    for tag in tagging:
        assert tag.score == pytest.approx(scores.get(tag.label, 0.0))
    return [tag.label for tag in tagging]


def test_threshold_keeps_what_reaches_it_and_drops_ancestors():
    scores = {"Animal": 0.9, "Dog": 0.8, "Bark": 0.5, "Rain": 0.6, "Wind": 0.4}
    assert choose(scores, threshold=0.5) == ["Rain", "Bark"]
    assert choose(scores, threshold=0.5, ancestors=True) == ["Animal", "Dog", "Rain", "Bark"]
    assert choose(scores, threshold=0.55) == ["Dog", "Rain"], "Dog stays: no Bark above it"
    assert choose(scores, threshold=0.3, top=2) == ["Dog", "Rain"], "cut off before Bark"
    assert choose(scores, threshold=0.3, top=1) == ["Animal"]
    assert choose(scores, threshold=0.95) == []


def test_own_thresholds_count_when_nothing_is_asked_for():
    thresholds = (0.5, 0.5, 0.9, 0.1, 0.5, 0.5, 0.5)
    scores = {"Dog": 0.6, "Bark": 0.8, "Rain": 0.2}
    assert choose(scores, thresholds) == ["Dog", "Rain"]
    assert choose(scores, thresholds, threshold=0.7) == ["Bark"]
    assert choose(scores, thresholds, top=1) == ["Bark"], "the best, whatever its threshold"
    assert len(choose(scores)) == DEFAULT_TOP, "no thresholds: the best few"


def test_top_drops_ancestors_without_letting_a_whisper_hide_them():
    assert choose({"Animal": 0.9, "Dog": 0.8, "Bark": 0.7, "Rain": 0.1}, top=2) == ["Bark", "Rain"]
    assert choose({"Animal": 0.9, "Dog": 0.8, "Bark": 0.01, "Rain": 0.1}, top=2) == ["Dog", "Rain"]
    assert choose({"Animal": 0.9, "Rain": 0.8, "Dog": 0.6}, top=1) == ["Animal"]
    for rain in (0.001, 0.3, 0.7):  # an unrelated label has no say in it
        scores = {"Dog": 0.9, "Bark": 0.5, "Rain": rain}
        assert choose(scores, top=1) == choose(scores, top=1, threshold=0) == ["Dog"]
    assert choose({"Bark": 0.9, "Dog": 0.8, "Animal": 0.7, "Rain": 0.1}, top=2) == ["Bark", "Rain"]
    assert choose({"Animal": 0.9, "Dog": 0.8}, top=2, ancestors=True) == ["Animal", "Dog"]


@pytest.mark.parametrize("how", [{"top": 3}, {"threshold": 0.4}, {"top": 2, "threshold": 0.2}, {}])
def test_no_tag_is_an_ancestor_of_another_and_none_is_lost(how):
    above = Ontology.audioset().ancestors_within(VOCABULARY)
    random = np.random.default_rng(3)
    for _ in range(200):
        row = random.random(len(NAMES)).astype(np.float32)
        plain = Selector(VOCABULARY).tagging(None, 1.0, row, **how)
        chosen = [VOCABULARY.index(tag.label) for tag in plain]
        implied = {a for index in chosen for a in above[index]}
        assert not implied & set(chosen)
        every = Selector(VOCABULARY).tagging(None, 1.0, row, ancestors=True, **how)
        if plain.best.label not in [tag.label for tag in plain] and every.tags:
            assert VOCABULARY.index(plain.best.label) in implied
        if "threshold" in how:
            assert all(row[index] >= how["threshold"] for index in chosen)
        if "top" in how:
            assert len(chosen) <= how["top"]


def test_json_has_these_keys_and_no_others():
    tagging = Tagging("über\n.wav", 2.00049, (Tag("Chirp_and_tweet", 0.5),), Tag("Rain", 0.9))
    text = tagging.to_json()
    assert "\n" not in text
    assert text.isascii()
    assert json.loads(text) == {
        "path": "über\n.wav",
        "duration": 2.0,
        "tags": [{"label": "Chirp_and_tweet", "score": 0.5}],
    }


def rendered(thing: object) -> str:
    out = io.StringIO()
    Console(file=out, width=60).print(thing)
    return out.getvalue()


def test_an_empty_tagging_says_so_and_names_the_nearest():
    empty = Tagging("a.wav", 5.0, (), Tag("Rain", 0.21))
    assert empty.to_dict()["tags"] == []
    for text in (rendered(empty), str(empty)):
        assert "no label reached" in text
        assert "Rain 0.21" in text
    assert "(Rain 0.21)" in rendered(empty.line())


def test_tables_show_path_length_labels_and_scores():
    tagging = Tagging("a.wav", 7200.0, (Tag("Dog", 0.93), Tag("Rain", 0.4)), Tag("Dog", 0.93))
    for text in (rendered(tagging), rendered(tagging.line(20))):
        for part in ("a.wav", "2:00:00", "Dog", "0.93", "Rain", "0.40"):
            assert part in text
    assert str(tagging).splitlines() == ["a.wav (2:00:00)", "0.93  Dog", "0.40  Rain"]


def test_paths_are_shown_in_one_printable_line():
    assert printable("a\nb\x1b[31m.wav").isprintable()
    assert printable(b"\xff.wav".decode("utf-8", "surrogateescape")) == "\\udcff.wav"
    assert printable("né à.wav") == "né à.wav"


@pytest.mark.parametrize("how", [{"top": 0}, {"threshold": 1.5}, {"threshold": float("nan")}])
def test_a_choice_that_makes_no_sense_is_refused(how):
    with pytest.raises(ConfigError, match="give"):
        choose({}, **how)
