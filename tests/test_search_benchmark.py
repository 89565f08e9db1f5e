"""Measuring search by region: what counts as right, and what chance would have."""

from types import SimpleNamespace

import pytest

pytest.importorskip("faiss")

from atgnn.data.scenes import Event
from atgnn.search import Box, Match
from benchmarks.search.regions import Query, allowed, inside, judged


def event(label: str, onset: float, low: float) -> Event:
    return Event(label, (label,), onset, onset + 2, 2.0, low, low + 1000, 10.0, f"{label}.wav")


def scene(author: str, *events: Event):
    return SimpleNamespace(
        events=events, cast=SimpleNamespace(owners=(author,), events=()), samples=None
    )


SCENES = [
    scene("Ada", event("Bark", 1, 500)),
    scene("Ben", event("Bark", 4, 500), event("Rain", 4, 3000)),
    scene("Ada", event("Bark", 4, 500)),
    scene("Cho", event("Rain", 7, 3000)),
]
QUERY = Query(0, SCENES[0].events[0], frozenset(["Ada"]), Box(1, 3, 500, 1500))


def test_scenes_by_the_same_author_are_left_out():
    assert allowed(QUERY, SCENES) == [1, 3]


def test_a_match_is_right_where_its_middle_is_in_such_an_event():
    right = Match("1", 4.5, 5.5, 0.9, 600, 1400)
    other_band = Match("1", 4.5, 5.5, 0.9, 3000, 3800)
    assert inside(right, SCENES[1], "Bark", True)
    assert not inside(other_band, SCENES[1], "Bark", True)
    assert inside(other_band, SCENES[1], "Bark", False)
    assert not inside(Match("1", 0, 1, 0.9, 600, 1400), SCENES[1], "Bark", False)


def test_only_the_best_match_of_each_scene_counts():
    matches = [
        Match("2", 4.5, 5.5, 1.0, 600, 1400),  # by the query's author
        Match("3", 4.5, 5.5, 0.9, 600, 1400),  # wrong
        Match("1", 4.5, 5.5, 0.8, 600, 1400),  # right
        Match("1", 0.0, 1.0, 0.7, 600, 1400),
    ]
    places = {str(number): number for number in range(4)}
    average, first, ten, chance = judged(QUERY, matches, places, SCENES, True)
    assert (average, first, ten) == (0.5, 0.0, 0.1)
    assert chance == 0.5  # both boxes are right in scene 1 and wrong in scene 3
