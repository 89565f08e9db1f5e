"""Review: what is shown, what is written down, what is learned from it."""

import json
import os
import threading
from pathlib import Path

import pytest
from helpers import RATE, tiny_checkpoint, write
from test_learn import HISSES, WHISTLES, few_sounds_by_rule, hiss, whistle  # noqa: F401
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.errors import (
    AtgnnError,
    AtgnnWarning,
    CheckpointError,
    ClipsError,
    ConfigError,
    LabelError,
)
from atgnn.learn import learn
from atgnn.packs import LabelPack
from atgnn.review import ReviewSession, ReviewStore, Segment, Verdict, ask, player


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, a pack, a cache, and a folder of recordings that nobody labelled."""
    folder = tmp_path_factory.mktemp("review")
    checkpoint = tiny_checkpoint()
    checkpoint.save_pretrained(folder / "model")
    learned = learn(checkpoint, {"whistle": WHISTLES[:3]}, HISSES[:3], cache=folder / "cache")
    learned.pack.write(folder / "kept.pack")
    for number in range(3):
        write(folder / "field" / f"w{number}.wav", whistle(10 + number, 3.0)[0])
        write(folder / "field" / f"h{number}.wav", hiss(10 + number, 2.0)[0])
    return folder


@pytest.fixture
def pack(place, tmp_path) -> Path:
    path = tmp_path / "w.pack"
    path.write_bytes((place / "kept.pack").read_bytes())
    return path


@pytest.fixture
def session(place, pack) -> ReviewSession:
    checkpoint = Checkpoint.from_pretrained(place / "model")
    return ReviewSession(checkpoint, pack, cache=place / "cache")


def recordings(place: Path) -> list[str]:
    return sorted(str(path) for path in (place / "field").iterdir())


# ------------------------------------------------------------------ what is shown


def test_the_best_and_the_least_certain_come_first(place, session):
    best = session.segments(recordings(place), "best", 4)
    assert [segment.score for segment in best] == sorted((s.score for s in best), reverse=True)
    assert Path(best[0].path).name.startswith("w")
    everything = session.segments(recordings(place), "best", 99)
    assert len(everything) == 9  # windows of 2 s: three recordings of two, three of one
    doubtful = session.segments(recordings(place), "uncertain", 99)
    assert {one.place for one in doubtful} == {one.place for one in everything}
    assert doubtful != everything


def test_what_was_judged_is_not_shown_again_unless_taken_back(place, session):
    first = session.segments(recordings(place), "best", 1)[0]
    session.judge(first, "accept", "Ada")
    assert first.place not in {one.place for one in session.segments(recordings(place))}
    session.judge(first, "withdraw", "Ada")
    assert session.segments(recordings(place), "best", 1)[0].place == first.place


def test_less_than_a_millisecond_is_no_segment(session, tmp_path):
    path = write(tmp_path / "a.wav", whistle(3, 2.0 + 4 / RATE)[0])
    assert [(one.start, one.end) for one in session.segments([str(path)])] == [(0.0, 2.0)]


def test_of_one_recording_only_a_few_segments_are_shown(place, session, tmp_path):
    long = write(tmp_path / "long.wav", whistle(3, 12.0)[0])
    assert len(session.segments([str(long)])) == 3


def test_unreadable_recordings_are_named(place, session, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("words")
    failures = []
    assert session.segments([str(bad), *recordings(place)], "best", 1, failures)
    assert [failure.path for failure in failures] == [str(bad)]


# ------------------------------------------------------------------ what is written down


def test_a_verdict_says_who_when_and_with_which_model(place, session, pack):
    segment = session.segments(recordings(place), "best", 1)[0]
    session.judge(segment, "reject", " Ada ")
    line = json.loads(Path(f"{pack}.reviews.jsonl").read_text())
    assert line["who"] == "Ada"
    assert line["model"] == session.pack.model
    assert line["pack"] == session.pack.digest()
    assert line["score"] == segment.score
    assert line["when"].endswith("+00:00")
    with pytest.raises(ConfigError, match="say who judges"):
        session.judge(segment, "accept", "  ")


def said(number: int, verdict: str = "accept") -> Verdict:
    return Verdict(
        label="x", path=f"{number}.wav", start=0, end=1, verdict=verdict, score=0.5, who="Ada",
        when="now", model="m", pack="p",
    )  # fmt: skip


def test_a_line_cut_off_by_a_crash_is_passed_over(tmp_path):
    store = ReviewStore(tmp_path / "r.jsonl")
    store.add(said(1))
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + whole[:40])
    assert len(list(store.history("x"))) == 1
    store.add(said(2))
    assert [one.path for one in store.history("x")] == ["1.wav", "2.wav"]


def test_several_people_write_at_once(tmp_path):
    def work(part: int) -> None:
        for number in range(10):
            ReviewStore(tmp_path / "r.jsonl").add(said(10 * part + number))

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ReviewStore(tmp_path / "r.jsonl").standing("x")) == 40


def test_the_last_verdict_counts(tmp_path):
    store = ReviewStore(tmp_path / "r.jsonl")
    for verdict in ("accept", "reject"):
        store.add(said(1, verdict))
    store.add(said(2))
    store.add(said(2, "withdraw"))
    assert [(one.path, one.verdict) for one in store.standing("x").values()] == [
        ("1.wav", "reject")
    ]
    assert not store.standing("y")


def test_a_store_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(AtgnnError, match="the verdict cannot be written"):
        ReviewStore(tmp_path / "folder.jsonl").add(said(1))


# ------------------------------------------------------------------ what is learned


def test_a_refit_learns_and_keeps_where_the_label_looks(place, session, pack):
    before = LabelPack.read(pack)
    rejected = session.segments(recordings(place), "best", 2)
    for segment in rejected:
        session.judge(segment, "reject", "Ada")
    about = session.refit()
    after = LabelPack.read(pack)
    assert torch_equal(before, after, "embedding")
    assert torch_equal(before, after, "rows")
    assert not torch_equal(before, after, "summary")
    assert about.reviews[-1].rejected == 2
    assert about.reviews[-1].who == ("Ada",)
    assert about.lessons == before.labels[0].lessons
    again = {
        one.place: one.score
        for one in ReviewSession(
            session.checkpoint, pack, store=pack.with_name("other"), cache=place / "cache"
        ).segments(recordings(place), "best", 99)
    }
    assert all(again[segment.place] < segment.score for segment in rejected)


def torch_equal(one: LabelPack, other: LabelPack, name: str) -> bool:
    return bool((one.weights[name] == other.weights[name]).all())


def test_clips_that_are_no_longer_kept_are_asked_for(place, pack, tmp_path):
    checkpoint = Checkpoint.from_pretrained(place / "model")
    empty = ReviewSession(checkpoint, pack, cache=tmp_path / "empty")
    with pytest.raises(ClipsError, match="6 of the 6 clips behind 'whistle' are no longer kept"):
        empty.refit()
    assert empty.refit([*WHISTLES[:3], *HISSES[:3]]).separation is not None


def test_packs_that_do_not_fit_are_refused(place, pack, tmp_path):
    checkpoint = Checkpoint.from_pretrained(place / "model")
    with pytest.raises(LabelError, match="no label 'x'"):
        ReviewSession(checkpoint, pack, "x", cache=tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        ReviewSession(tiny_checkpoint(labels=("A", "B")), pack, cache=tmp_path)
    session = ReviewSession(checkpoint, pack, cache=tmp_path)
    with pytest.raises(ConfigError, match="order 'worst'"):
        session.segments([], "worst")


def test_what_was_heard_is_not_heard_again(place, session, tmp_path, monkeypatch):
    sounds = [str(write(tmp_path / name, whistle(7)[0])) for name in ("a.wav", "b.wav")]
    first = session.segments(sounds, "best")
    heard: list[list[str]] = []
    hear = session._listening().score_many

    def spy(paths, **how):
        heard.append(list(paths))
        return hear(heard[-1], **how)

    monkeypatch.setattr(session._listening(), "score_many", spy)
    assert session.segments(sounds, "best") == first
    write(tmp_path / "b.wav", whistle(8, 1.5)[0])
    session.segments(sounds, "best")
    assert heard == [[], [str(tmp_path / "b.wav")]]


def test_the_model_that_is_given_stays_where_it_is(place, session):
    session.checkpoint.model.to("meta")  # as one that another tagger has on a GPU
    assert session.segments(recordings(place), "best", 1)
    assert next(session.checkpoint.model.parameters()).device.type == "meta"


def test_names_that_are_no_text_are_named_before_anybody_judges(session, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    try:
        os.rename(write(tmp_path / "cafe.wav", whistle(1)[0]), path)
    except OSError:
        pytest.skip("this file system takes names of text alone")
    failures: list = []
    assert session.segments([path], failures=failures) == []
    assert "verdicts need its name in UTF-8" in str(failures[0])
    with pytest.raises(AtgnnError, match=r"judged by Ada.*choose another"):
        session.judge(Segment(path, 0, 1, 0.5), "accept", "Ada")


def test_verdicts_on_what_is_gone_are_left_out(place, session, tmp_path):
    for name, seed, verdict in (("here.wav", 20, "accept"), ("gone.wav", 21, "reject")):
        path = write(tmp_path / name, whistle(seed)[0])
        session.judge(Segment(str(path), 0.0, 1.0, 0.5), verdict, "Ada")
    path.unlink()
    with pytest.warns(AtgnnWarning, match=r"1 verdict .*left out: gone\.wav"):
        about = session.refit()
    assert (about.reviews[-1].accepted, about.reviews[-1].rejected) == (1, 0)


# ------------------------------------------------------------------ the terminal


def test_answers_in_a_terminal(place, session):
    segments = session.segments(recordings(place), "best", 4)
    shown: list[str] = []
    played: list[Segment] = []
    lines = ["p\n", "y\n", "what?\n", "N\n", "u\n", "y\n", "s\n", "q\n"]
    count = ask(session, segments, "Ada", lines, shown.append, played.append)
    assert count == 2
    assert played == [segments[0]]
    verdicts = session.store.standing("whistle")
    assert [verdicts[one.place].verdict for one in segments[:2]] == ["accept", "accept"]
    assert segments[2].place not in verdicts
    assert sum("y: yes" in line for line in shown) == 2
    assert len(list(session.store.history("whistle"))) == 4


def test_segments_are_played_by_a_command(place, session, tmp_path):
    segment = session.segments(recordings(place), "best", 1)[0]
    script = tmp_path / "play.sh"
    script.write_text(f"#!/bin/sh\nwc -c < $1 > {tmp_path}/size\n")
    play = player(f"sh {script}")
    assert play is not None
    play(segment)
    assert int((tmp_path / "size").read_text()) > 16_000
    broken = player("no-such-program-here")
    assert broken is not None
    with pytest.raises(ConfigError, match="cannot be run"):
        broken(segment)
    with pytest.raises(ConfigError, match="--play is empty"):
        player(" ")
    with pytest.raises(ConfigError, match="No closing quotation"):
        player("aplay 'x")
    assert player(None) is None


def test_the_command(place, pack):
    words = [
        "review", place / "field", "--pack", pack, "--label", "whistle", "--who", "Ada",
        "--model", place / "model", "--cache", place / "cache", "--count", 3,
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words], input="y\nn\n")
    assert done.exit_code == 0, done.output
    assert "1 accepted, 1 rejected" in done.stdout
    assert LabelPack.read(pack).labels[0].reviews[-1].accepted == 1
    none = CliRunner().invoke(app, [str(word) for word in words], input="")
    assert "nothing was judged" in none.stdout
    only = CliRunner().invoke(app, [str(word) for word in [*words[:-1], 0]])
    assert only.exit_code == 0, only.output
    assert len(LabelPack.read(pack).labels[0].reviews) == 2


def test_somebody_without_a_name_is_asked_for_one(place, pack, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    words = ["review", place / "field", "--pack", pack, "--model", place / "model"]
    words += ["--cache", place / "cache"]
    done = CliRunner().invoke(app, [str(word) for word in words], input="y\n")
    assert done.exit_code == 2
    assert "say who judges (--who)" in done.output
