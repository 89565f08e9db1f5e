"""A folder of recordings into Parquet: shards, resuming, what goes wrong on the way."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import LABELS, RATE, sound, tiny_checkpoint, write

from atgnn import archive
from atgnn.archive import ArchiveSettings, Shard, tag_archive
from atgnn.archive import journal as journals
from atgnn.archive import run as running
from atgnn.archive import store as storing
from atgnn.archive.work import make_rows
from atgnn.errors import AtgnnError, AtgnnWarning, AudioError, ConfigError, LabelError
from atgnn.events import EventSettings
from atgnn.tagger import Tagger

pytest.importorskip("pyarrow", reason='tagging archives needs pyarrow: pip install ".[archive]"')

SECONDS = {
    "a/20190412_053000.WAV": 0.5,
    "a/20190412_054000.WAV": 2.5,
    "b/eins.wav": 4.2,
    "b/zwei.flac": 1.0,
    'ü/drei\t"3".wav': 3.0,
    "vier.ogg": 0.7,
    "zz.wav": 2.0,
}
BAD = "b/bad.wav"


@pytest.fixture(scope="module")
def tagger():
    return Tagger(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Seven recordings and a file that is none."""
    folder = tmp_path_factory.mktemp("archive")
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        write(folder / name, sound(seconds, seed=seed))
    (folder / BAD).write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def whole(tagger, sounds, tmp_path_factory):
    """The results of a run without interruptions."""
    results = tmp_path_factory.mktemp("results")
    tag_archive(tagger, sounds, results)
    return results


@pytest.fixture
def copied(sounds, tmp_path):
    """An archive to change."""
    return Path(shutil.copytree(sounds, tmp_path / "archive"))


class Spy:
    """Tags here, and remembers what it was given."""

    def __init__(self, tagger, settings=None):
        self.tagger, self.settings = tagger, settings or ArchiveSettings()
        self.given = []

    def __call__(self, some):
        self.given = [one.path for one in some]
        return make_rows(self.tagger, some, self.settings)


def scores_of(results):
    return archive.read(results, ["path", "scores"])["scores"].tolist()


def check_same(results, expected):
    """The same rows; scores may differ by rounding, as a window's batch is not always the same."""
    mine, theirs = archive.read(results), archive.read(expected)
    columns = ["path", "digest", "bytes", "recorded_at", "duration", "best", "windows"]
    assert mine[columns].equals(theirs[columns])
    for one, other in zip(mine["tags"], theirs["tags"], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert [tag["label"] for tag in one] == [tag["label"] for tag in other]
    for one, other in zip(scores_of(results), scores_of(expected), strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.abs(one - other).max() <= 2e-4


# ------------------------------------------------------------------ the table


def test_rows_say_what_atgnn_tag_says(tagger, sounds, whole):
    table = archive.read(whole).set_index("path")
    assert sorted(table.index) == sorted([*SECONDS, BAD])
    for name, seconds in SECONDS.items():
        row, tagging = table.loc[name], tagger.tag(sounds / name)
        assert row["duration"] == pytest.approx(seconds, abs=1e-3)
        assert [tag["label"] for tag in row["tags"]] == [tag.label for tag in tagging.tags]
        scores = [tag["score"] for tag in row["tags"]]
        assert scores == pytest.approx([tag.score for tag in tagging.tags], abs=1e-4)
        assert row["best"] == tagging.best.label
        assert row["error"] is None or row["error"] != row["error"]
    first = table.loc["a/20190412_053000.WAV"]
    assert (str(first["recorded_at"]), first["recorded_from"]) == ("2019-04-12 05:30:00", "name")


def test_tables_of_tags_and_windows(tagger, sounds, whole):
    tags = archive.tags(whole)
    assert tags[tags["path"] == "zz.wav"]["label"].tolist() == [
        tag.label for tag in tagger.tag(sounds / "zz.wav")
    ]
    windows = archive.windows(whole, ["Rain", "Dog"])
    mine = windows[windows["path"] == "b/eins.wav"]
    assert mine["start"].tolist() == [0, 2, 4]
    assert mine["end"].tolist() == pytest.approx([2, 4, 4.2])
    expected = tagger.window_scores(sounds / "b/eins.wav")
    assert mine["Dog"].to_numpy() == pytest.approx(expected[:, LABELS.index("Dog")], abs=2e-4)
    later = windows[windows["path"] == "a/20190412_054000.WAV"]
    assert [str(time) for time in later["time"]] == ["2019-04-12 05:40:00", "2019-04-12 05:40:02"]
    assert windows[windows["path"] == "zz.wav"]["time"].isna().all()
    assert set(archive.windows(whole).columns) >= set(LABELS)
    with pytest.raises(LabelError, match=r"no label 'Dogg'.*did you mean 'Dog'"):
        archive.windows(whole, ["Dogg"])
    with pytest.raises(AtgnnError, match=r"no column 'tag'.*did you mean 'tags'"):
        archive.read(whole, ["tag"])


def test_events_are_those_of_atgnn_events(tagger, sounds, tmp_path):
    from atgnn.events import detect

    settings = EventSettings(window_s=1.0, hop_s=0.5, on=0.7)
    tag_archive(tagger, sounds, tmp_path / "r", ArchiveSettings(events=settings))
    table = archive.events(tmp_path / "r")
    for name in SECONDS:
        expected = sorted(
            detect(tagger, sounds / name, settings), key=lambda one: (one.start, one.end, one.label)
        )
        mine = table[table["path"] == name]
        assert mine["label"].tolist() == [event.label for event in expected]
        assert mine["start"].tolist() == [event.start for event in expected]
        assert mine["score"].tolist() == pytest.approx([event.score for event in expected])
    stamped = table[table["path"] == "a/20190412_054000.WAV"]
    assert (stamped["time"] - np.datetime64("2019-04-12T05:40:00")).dt.total_seconds().tolist() == (
        stamped["start"].tolist()
    )


def test_events_that_were_not_asked_for(whole):
    with pytest.raises(AtgnnError, match="made without events: tag the archive with --events"):
        archive.events(whole)


def test_a_bad_file_is_passed_over_and_said_everywhere(tagger, sounds, tmp_path):
    heard = []
    report = tag_archive(tagger, sounds, tmp_path / "r", on_failure=heard.append)
    assert (report.recordings, report.tagged, report.failed) == (8, 7, 1)
    assert len(heard) == 1
    assert heard[0].endswith("bad.wav: holds text, not sound")
    row = archive.read(tmp_path / "r").set_index("path").loc[BAD]
    assert row["error"] == heard[0]
    assert row["tags"] is None
    assert heard[0] in report.log.read_text()


def test_a_damaged_file_is_noted_in_the_log(tagger, tmp_path):
    path = write(tmp_path / "in" / "cut.flac", sound(6.0))
    path.write_bytes(path.read_bytes()[:-60_000])
    with pytest.warns(match="damaged"):
        report = tag_archive(tagger, path.parent, tmp_path / "r")
    assert report.failed == 0
    assert "warning: " in report.log.read_text()
    assert "cut.flac: damaged" in report.log.read_text()


def test_results_inside_the_archive_are_no_recordings(tagger, copied):
    results = copied / "results"
    tag_archive(tagger, copied, results)
    archive.export_segments(results, copied, 1)
    report = tag_archive(tagger, copied, results, resume=True)
    assert (report.recordings, report.tagged) == (8, 0)


def test_times_move_with_names(tagger, copied, tmp_path):
    """A time from a file's name is that of its new name."""
    tag_archive(tagger, copied, tmp_path / "r")
    (copied / "zz.wav").rename(copied / "20200101_120000.wav")
    tag_archive(tagger, copied, tmp_path / "r", resume=True)
    row = archive.read(tmp_path / "r").set_index("path").loc["20200101_120000.wav"]
    assert str(row["recorded_at"]) == "2020-01-01 12:00:00"


# ------------------------------------------------------------------ shards


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_union_of_shards_is_the_single_run(tagger, sounds, whole, tmp_path, count):
    reports = [
        tag_archive(tagger, sounds, tmp_path / "r", shard=Shard(number + 1, count))
        for number in range(count)
    ]
    assert sum(report.recordings for report in reports) == 8
    check_same(tmp_path / "r", whole)


def test_a_shard_is_a_function_of_the_path_alone():
    """Whatever else is there, and wherever the archive lies."""
    shards = [Shard(number, 4) for number in (1, 2, 3, 4)]
    paths = [f"site{i % 7}/{i}.wav" for i in range(4000)]
    shares = [sum(shard.holds(path) for path in paths) for shard in shards]
    assert sum(shares) == 4000
    assert min(shares) > 900
    assert Shard(4, 4).holds("a/20190412_053000.WAV"), "files must not change machines"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/4", "shard '0/4' does not exist: shards of 4 are numbered from 1 to 4"),
        ("5/4", "shard '5/4' does not exist: shards of 4 are numbered from 1 to 4"),
        ("1/0", "shard '1/0' does not exist: give i/n with n of 1 or more"),
        ("1", "shard '1': give i/n, such as 1/4"),
        ("-1/4", "give i/n"),
        ("a/b", "give i/n"),
    ],
)
def test_shards_that_do_not_exist(text, message):
    with pytest.raises(ConfigError) as refused:
        Shard.parse(text)
    assert message in str(refused.value)


def test_shards_of_two_divisions_do_not_mix(tagger, sounds, tmp_path):
    tag_archive(tagger, sounds, tmp_path, shard=Shard(1, 2))
    with pytest.raises(AtgnnError, match="holds shards of 2, not of 3: divide the archive as"):
        tag_archive(tagger, sounds, tmp_path, shard=Shard(1, 3))


def test_shards_that_are_missing_are_said(tagger, sounds, tmp_path):
    tag_archive(tagger, sounds, tmp_path, shard=Shard(2, 3))
    with pytest.warns(AtgnnWarning, match="unfinished or missing: shard 1/3, 3/3"):
        archive.read(tmp_path)


def test_shards_of_two_models_do_not_go_together(tagger, sounds, tmp_path):
    other = Tagger(tiny_checkpoint(thresholds=(0.5,) * 5), "cpu")
    tag_archive(tagger, sounds, tmp_path, shard=Shard(1, 2))
    tag_archive(other, sounds, tmp_path, shard=Shard(2, 2))
    with pytest.raises(AtgnnError, match="shards 1/2 and 2/2 were made with other thresholds"):
        archive.read(tmp_path)


# ------------------------------------------------------------------ resuming


def test_nothing_is_done_twice(tagger, copied, whole, tmp_path):
    tag_archive(tagger, copied, tmp_path / "r")
    spy = Spy(tagger)
    report = tag_archive(tagger, copied, tmp_path / "r", resume=True, worker=spy)
    assert spy.given == [BAD], "what failed is tried again"
    assert (report.known, report.tagged, report.failed) == (7, 0, 1)
    check_same(tmp_path / "r", whole)


def test_new_changed_and_renamed_files(tagger, copied, tmp_path):
    tag_archive(tagger, copied, tmp_path / "r")
    before = archive.read(tmp_path / "r").set_index("path")
    (copied / "zz.wav").rename(copied / "aa.wav")  # renamed
    write(copied / "b/eins.wav", sound(4.2, seed=50))  # changed, the same size
    write(copied / "new.wav", sound(1.0, seed=51))
    os.utime(copied / "vier.ogg")  # touched
    spy = Spy(tagger)
    report = tag_archive(tagger, copied, tmp_path / "r", resume=True, worker=spy)
    assert spy.given == [BAD, "b/eins.wav", "new.wav"]
    assert (report.known, report.moved, report.gone) == (6, 1, 0)
    table = archive.read(tmp_path / "r").set_index("path")
    assert set(table.index) == {*SECONDS, BAD, "aa.wav", "new.wav"} - {"zz.wav"}
    assert table.loc["aa.wav", "digest"] == before.loc["zz.wav", "digest"]
    assert table.loc["b/eins.wav", "digest"] != before.loc["b/eins.wav", "digest"]
    tag_archive(tagger, copied, tmp_path / "fresh")
    check_same(tmp_path / "r", tmp_path / "fresh")
    spy = Spy(tagger)
    tag_archive(tagger, copied, tmp_path / "r", resume=True, worker=spy)
    assert spy.given == [BAD]


def test_a_change_that_hides_is_found_when_asked_for(tagger, copied, tmp_path):
    """The same size and the same time of change: only reading the file tells."""
    tag_archive(tagger, copied, tmp_path / "r")
    state = (copied / "zz.wav").stat()
    write(copied / "zz.wav", sound(2.0, seed=52))
    os.utime(copied / "zz.wav", ns=(state.st_atime_ns, state.st_mtime_ns))
    spy = Spy(tagger)
    tag_archive(tagger, copied, tmp_path / "r", resume=True, worker=spy)
    assert spy.given == [BAD]
    tag_archive(tagger, copied, tmp_path / "r", resume=True, verify=True, worker=spy)
    assert spy.given == [BAD, "zz.wav"]


def test_a_file_that_moves_to_another_shard(tagger, copied, tmp_path):
    for number in (1, 2):
        tag_archive(tagger, copied, tmp_path / "r", shard=Shard(number, 2))
    home = 1 if Shard(1, 2).holds("zz.wav") else 2
    away = 3 - home
    name = next(name for name in (f"moved{i}.wav" for i in range(99)) if Shard(away, 2).holds(name))
    (copied / "zz.wav").rename(copied / name)
    for number in (away, home):
        spy = Spy(tagger)
        tag_archive(tagger, copied, tmp_path / "r", shard=Shard(number, 2), resume=True, worker=spy)
        assert name not in spy.given
    paths = archive.read(tmp_path / "r")["path"].tolist()
    assert name in paths
    assert "zz.wav" not in paths


def test_results_of_files_that_are_gone_stay(tagger, copied, tmp_path):
    """Many delete recordings once they are tagged."""
    tag_archive(tagger, copied, tmp_path / "r")
    (copied / "zz.wav").unlink()
    (copied / BAD).unlink()
    write(copied / "new.wav", sound(1.0, seed=51))
    report = tag_archive(tagger, copied, tmp_path / "r", resume=True)
    assert report.gone == 1
    assert set(archive.read(tmp_path / "r")["path"]) == {*SECONDS, "new.wav"}


def test_what_is_there_is_not_replaced_unasked(tagger, sounds, tmp_path):
    tag_archive(tagger, sounds, tmp_path / "r")
    content = (tmp_path / "r/shard-1-of-1.parquet").read_bytes()
    with pytest.raises(AtgnnError, match="--resume goes on with them, --force begins anew"):
        tag_archive(tagger, sounds, tmp_path / "r")
    assert (tmp_path / "r/shard-1-of-1.parquet").read_bytes() == content
    spy = Spy(tagger)
    tag_archive(tagger, sounds, tmp_path / "r", force=True, worker=spy)
    assert len(spy.given) == 8


def test_another_model_or_other_settings_are_refused(tagger, sounds, tmp_path):
    tag_archive(tagger, sounds, tmp_path / "r")
    other = Tagger(tiny_checkpoint(), "cpu")
    with __import__("torch").no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(AtgnnError, match=r"was made with another model: give the same to go on"):
        tag_archive(other, sounds, tmp_path / "r", resume=True)
    settings = ArchiveSettings(top=2, events=EventSettings(window_s=1.0, hop_s=0.5))
    with pytest.raises(AtgnnError) as refused:
        tag_archive(tagger, sounds, tmp_path / "r", settings, resume=True)
    for part in ("window_s 2.0 (now 1.0)", "top null (now 2)", "events null (now {", "--force"):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    tag_archive(other, sounds, tmp_path / "r", force=True)


def test_a_file_written_to_meanwhile_is_not_kept(tagger, copied, tmp_path):
    class Writing(Spy):
        def __call__(self, some):
            with (copied / "zz.wav").open("ab") as file:
                file.write(b"more")
            return super().__call__(some)

    report = tag_archive(tagger, copied, tmp_path / "r", worker=Writing(tagger))
    assert report.failed == 2
    assert "zz.wav: was written to while it was tagged" in report.log.read_text()
    assert tag_archive(tagger, copied, tmp_path / "r", resume=True).failed == 1


def test_known_recordings_count_as_looked_at(tagger, sounds, whole, tmp_path):
    results = shutil.copytree(whole, tmp_path / "r")
    seen = []
    how = {"resume": True, "verify": True, "looked": lambda done, total: seen.append(done)}
    tag_archive(tagger, sounds, results, **how)
    assert seen == [*range(1, 9)]


def test_ways_to_begin_that_contradict_one_another_are_refused(tagger, sounds, whole, tmp_path):
    results = Path(shutil.copytree(whole, tmp_path / "r"))
    with pytest.raises(ConfigError, match="give one of them"):
        tag_archive(tagger, sounds, results, resume=True, force=True)
    with pytest.raises(ConfigError, match="give resume as well"):
        tag_archive(tagger, sounds, results, verify=True)
    check_same(results, whole)


def test_events_that_do_not_fit_the_model_are_refused_before_anything_is_written(tagger, tmp_path):
    write(tmp_path / "in/a.wav")
    settings = ArchiveSettings(events=EventSettings(on={"Rian": 0.5}))
    with pytest.raises(LabelError, match="did you mean 'Rain'"):
        tag_archive(tagger, tmp_path / "in", tmp_path / "r", settings)
    assert not (tmp_path / "r").exists()


def test_windows_are_where_they_were_heard_whatever_the_step(tagger, tmp_path):
    write(tmp_path / "in/a.wav", sound(9.0))
    settings = ArchiveSettings(events=EventSettings(window_s=0.5, hop_s=1 / 7))
    tag_archive(tagger, tmp_path / "in", tmp_path / "r", settings)
    (scores,) = tagger.score_many([tmp_path / "in/a.wav"], window=0.5, hop=1 / 7)
    np.testing.assert_allclose(archive.windows(tmp_path / "r")["start"], scores.starts, atol=1e-9)


# ------------------------------------------------------------------ interrupted
# ------------------------------------------------------------------ interrupted


def interrupt(folder, model, results, how, after):
    """`atgnn tag` in a process of its own that gets a signal after so many recordings."""
    script = """
import os, signal, sys
from contextlib import contextmanager
from atgnn import terminal
how, after = getattr(signal, sys.argv.pop(1)), int(sys.argv.pop(1))
@contextmanager
def pace():
    yield lambda done: os.kill(os.getpid(), how) if done.files == after else None
terminal.pace = pace
from atgnn.cli import main
main()
"""
    command = [sys.executable, "-c", script, how, str(after), "tag", str(folder)]
    command += ["--out", str(results), "--model", str(model), "--device", "cpu"]
    return subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_what_is_done_is_kept_whatever_stops_it(tagger, sounds, whole, model, tmp_path, how):
    result = interrupt(sounds, model, tmp_path / "r", how, 3)
    if how == "SIGINT":
        assert result.returncode == 130
        assert result.stderr.splitlines()[-1] == (
            "atgnn: stopped: 3 of 8 recordings are done and kept, --resume goes on"
        )
    else:
        assert result.returncode == -signal.SIGKILL
    with pytest.warns(AtgnnWarning, match="unfinished"):
        assert len(archive.read(tmp_path / "r")) == 3
    spy = Spy(tagger)
    report = tag_archive(tagger, sounds, tmp_path / "r", resume=True, worker=spy)
    assert len(spy.given) == 8 - (3 if BAD not in spy.given else 2)
    assert report.known + report.tagged + report.failed == 8
    check_same(tmp_path / "r", whole)
    assert not list((tmp_path / "r").glob("*.parts"))


class Stop(Exception):
    pass


def stop_after(tagger, sounds, results, count, **how):
    """Leave a run in the middle, as a crash does."""

    def progress(done):
        if done.files == count:
            raise Stop

    with pytest.raises(Stop):
        tag_archive(tagger, sounds, results, resume=True, progress=progress, **how)


def test_many_interruptions_and_many_parts(tagger, sounds, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "PART_ROWS", 2)
    monkeypatch.setattr(storing, "GROUPS_HELD", 1)
    for _ in range(4):
        stop_after(tagger, sounds, tmp_path / "r", 2)
    assert len(list((tmp_path / "r").glob("*.parts/part-*.parquet"))) >= 3
    tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    check_same(tmp_path / "r", whole)


def test_half_a_row_is_cut_off(tagger, sounds, whole, tmp_path):
    """What kill -9, or a power cut, may leave of the last row."""
    for cut in (1, 200):
        results = tmp_path / f"r{cut}"
        stop_after(tagger, sounds, results, 3)
        journal = results / "shard-1-of-1.parts/journal"
        journal.write_bytes(journal.read_bytes()[:-cut])
        with pytest.warns(AtgnnWarning):
            assert len(archive.read(results)) == 2
        spy = Spy(tagger)
        tag_archive(tagger, sounds, results, resume=True, worker=spy)
        assert len(spy.given) in (6, 7)  # with the bad one, if it was among the two
        check_same(results, whole)


def test_a_journal_without_a_head_holds_nothing(tagger, sounds, whole, tmp_path):
    stop_after(tagger, sounds, tmp_path / "r", 3)
    (tmp_path / "r/shard-1-of-1.parts/journal").write_bytes(b"\x05\0\0")
    tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    check_same(tmp_path / "r", whole)


def test_killed_between_a_part_and_its_journal(tagger, sounds, whole, tmp_path):
    """The rows are in both then, and count once."""
    stop_after(tagger, sounds, tmp_path / "r", 3)
    journal = tmp_path / "r/shard-1-of-1.parts/journal"
    old = journal.read_bytes()
    stop_after(tagger, sounds, tmp_path / "r", 1)  # its rows have become a part
    journal.write_bytes(old)
    with pytest.warns(AtgnnWarning):
        assert len(archive.read(tmp_path / "r")) == 3
    tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    check_same(tmp_path / "r", whole)


def test_killed_between_the_table_and_its_parts(tagger, sounds, whole, tmp_path, monkeypatch):
    stop_after(tagger, sounds, tmp_path / "r", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    assert list((tmp_path / "r").glob("*.parts/part-*.parquet"))
    with pytest.warns(AtgnnWarning):
        check_same(tmp_path / "r", whole)
    tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    check_same(tmp_path / "r", whole)
    assert not list((tmp_path / "r").glob("*.parts"))


def test_killed_while_the_table_was_being_written(tagger, sounds, whole, tmp_path):
    results = Path(shutil.copytree(whole, tmp_path / "r"))
    (results / ".shard-1-of-1.parquet.4321.part").write_bytes(b"half a table")
    tag_archive(tagger, sounds, results, resume=True)
    assert sorted(path.name for path in results.iterdir()) == [
        "shard-1-of-1.log", "shard-1-of-1.parquet"
    ]  # fmt: skip


def test_a_journal_that_was_taken_away_is_not_written_to(tmp_path, monkeypatch):
    """Its last holder removes it between another's opening and locking."""

    def late(file):
        (tmp_path / "journal").unlink()
        return True

    monkeypatch.setattr("atgnn.archive.journal.lock", late)
    with pytest.raises(BlockingIOError):
        journals.Journal(tmp_path / "journal")


def test_a_damaged_shard_does_not_stop_the_others(tagger, sounds, tmp_path):
    for number in (1, 2):
        tag_archive(tagger, sounds, tmp_path / "r", shard=Shard(number, 2))
    (tmp_path / "r/shard-2-of-2.parquet").write_bytes(b"damaged")
    assert tag_archive(tagger, sounds, tmp_path / "r", shard=Shard(1, 2), resume=True).known


def test_two_processes_do_not_share_a_shard(tagger, sounds, tmp_path):
    class Nested(Spy):
        def __call__(self, some):
            with pytest.raises(AtgnnError, match="another process is working on shard 1/1"):
                tag_archive(tagger, sounds, tmp_path / "r", resume=True)
            return super().__call__(some)

    assert tag_archive(tagger, sounds, tmp_path / "r", worker=Nested(tagger)).tagged == 7


# ------------------------------------------------------------------ what goes wrong


def full(*args, **more):
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = r"cannot be written \(No space left on device\); what is done is kept"


def test_a_full_disk_is_one_line_and_loses_nothing(tagger, sounds, whole, tmp_path, monkeypatch):
    from atgnn.archive import journal

    plain, written = journal.write_all, []

    def filling(file, content):
        if len(written) == 7:  # in the middle of the third row
            full()
        written.append(len(content))
        plain(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", filling)
        with pytest.raises(AtgnnError, match=FULL):
            tag_archive(tagger, sounds, tmp_path / "r")
    with pytest.warns(AtgnnWarning):
        assert len(archive.read(tmp_path / "r")) == 2
    tag_archive(tagger, sounds, tmp_path / "r", resume=True)
    check_same(tmp_path / "r", whole)


def test_a_disk_that_fills_up_at_the_end(tagger, sounds, whole, tmp_path, monkeypatch):
    for name in ("write_table", "ParquetWriter"):
        with monkeypatch.context() as patch:
            patch.setattr(storing.pq, name, full)
            with pytest.raises(AtgnnError, match=FULL):
                tag_archive(tagger, sounds, tmp_path / "r", resume=True)
        with pytest.warns(AtgnnWarning):
            assert len(archive.read(tmp_path / "r")) == 8
    spy = Spy(tagger)
    tag_archive(tagger, sounds, tmp_path / "r", resume=True, worker=spy)
    assert spy.given == [BAD]
    check_same(tmp_path / "r", whole)


def test_a_place_that_cannot_be_written(tagger, sounds, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AtgnnError, match="cannot be written"):
        tag_archive(tagger, sounds, tmp_path / "file/results")


def test_folders_without_sounds(tagger, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("none")
    with pytest.raises(AudioError, match="no sounds in this folder"):
        tag_archive(tagger, tmp_path / "in", tmp_path / "r")
    with pytest.raises(AtgnnError, match="no such folder"):
        tag_archive(tagger, tmp_path / "none", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_names_that_are_no_text_and_links_to_nowhere(tagger, tmp_path):
    folder = tmp_path / "in"
    write(folder / "good.wav")
    (folder / "nowhere.wav").symlink_to(tmp_path / "nothing")
    name = os.fsencode(folder) + b"/caf\xe9.wav"
    try:
        shutil.copy(folder / "good.wav", name)
    except OSError:
        pytest.skip("this file system takes names of text alone")
    report = tag_archive(tagger, folder, tmp_path / "r")
    assert (report.tagged, report.failed) == (2, 1)
    assert archive.read(tmp_path / "r")["path"].tolist() == [
        r"caf\xe9.wav", "good.wav", "nowhere.wav"
    ]  # fmt: skip
    assert tag_archive(tagger, folder, tmp_path / "r", resume=True).known == 2


def test_damaged_results_are_one_line(tagger, sounds, whole, tmp_path):
    results = Path(shutil.copytree(whole, tmp_path / "r"))
    table = results / "shard-1-of-1.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    for use in (archive.read, lambda r: tag_archive(tagger, sounds, r, resume=True)):
        with pytest.raises(AtgnnError, match=r"is not a readable Parquet file.*remove it") as error:
            use(results)
        assert "\n" not in str(error.value)
    storing.pq.write_table(storing.pa.table({"path": ["a.wav"]}), table)
    with pytest.raises(AtgnnError, match="holds no results of an archive"):
        archive.read(results)
    with pytest.raises(AtgnnError, match="holds no results of an archive"):
        archive.read(tmp_path)


def test_a_later_version_is_named(whole, tmp_path):
    results = Path(shutil.copytree(whole, tmp_path / "r"))
    table = storing.pq.read_table(results / "shard-1-of-1.parquet")
    about = json.loads(table.schema.metadata[storing.KEY]) | {"version": 2}
    table = table.replace_schema_metadata({storing.KEY: json.dumps(about)})
    storing.pq.write_table(table, results / "shard-1-of-1.parquet")
    with pytest.raises(AtgnnError, match="is of version 2, this atgnn knows 1"):
        archive.read(results)


# ------------------------------------------------------------------ clips to listen to


def test_the_best_clips_of_every_label(tagger, sounds, whole, tmp_path):
    import pandas
    import soundfile

    out = archive.export_segments(whole, sounds, 3, tmp_path / "clips")
    table = pandas.read_csv(out / "segments.csv")
    windows = archive.windows(whole)
    assert table["label"].unique().tolist() == list(LABELS)
    for label, some in table.groupby("label"):
        best = windows.sort_values(label, ascending=False, kind="stable")[:3]
        assert some["rank"].tolist() == [1, 2, 3]
        assert some["score"].tolist() == pytest.approx(best[label].tolist(), abs=1e-4)
    for row in table.itertuples():
        clip, rate = soundfile.read(out / row.file, dtype="float32")
        source, _ = soundfile.read(sounds / row.source, dtype="float32")
        assert rate == RATE
        expected = source[round(row.start * rate) : round(row.end * rate)]
        assert np.abs(clip - expected).max() < 1e-4
    timed = table[table["source"] == "a/20190412_054000.WAV"].iloc[0]
    assert timed["time"].startswith("2019-04-12T05:40:0")
    assert sorted(path.suffix for path in out.rglob("*.*")) == [".csv", *[".flac"] * 15]


def test_more_clips_than_there_are_windows_and_labels_no_folder_takes(tmp_path):
    labels = ("Heart sounds, heartbeat", "Hubbub/noise", "ü:ber", "..", "Dog")
    tagger = Tagger(tiny_checkpoint(labels), "cpu")
    write(tmp_path / "in/one.wav", sound(3.0), 48_000)
    tag_archive(tagger, tmp_path / "in", tmp_path / "r")
    out = archive.export_segments(tmp_path / "r", tmp_path / "in", 9)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        "Dog", "Heart_sounds_heartbeat", "Hubbub_noise", "_", "ü_ber"
    ]  # fmt: skip
    assert len(list(out.rglob("*.flac"))) == 5


def test_names_that_are_long_or_no_text_and_ultrasound_have_clips(tmp_path):
    label, name = "ü" * 200, "音" * 70
    tagger = Tagger(tiny_checkpoint((label, "Dog")), "cpu")
    write(tmp_path / "in" / name / "a.wav", sound(0.5, seed=1))
    write(tmp_path / "in/bats.wav", sound(0.1, 1_000_000), 1_000_000)
    write(tmp_path / "in/cafe.wav", sound(0.5, seed=2))
    try:
        os.rename(tmp_path / "in/cafe.wav", os.fsencode(tmp_path) + b"/in/caf\xe9.wav")
    except OSError:
        pytest.skip("this file system takes names of text alone")
    tag_archive(tagger, tmp_path / "in", tmp_path / "r")
    missing = []
    how = {"on_failure": missing.append}
    out = archive.export_segments(tmp_path / "r", tmp_path / "in", 3, **how)
    assert missing == []
    assert len(list(out.rglob("*.flac"))) == 6


def test_an_archive_that_is_not_there_leaves_the_clips_as_they_are(tagger, copied, tmp_path):
    tag_archive(tagger, copied, tmp_path / "r")
    out = archive.export_segments(tmp_path / "r", copied, 1)
    with pytest.raises(AtgnnError, match="no such folder: give the archive"):
        archive.export_segments(tmp_path / "r", tmp_path / "elsewhere", 1)
    assert len(list(out.rglob("*.flac"))) == 5


def test_an_export_replaces_only_an_export(tagger, copied, tmp_path):
    tag_archive(tagger, copied, tmp_path / "r")
    out = archive.export_segments(tmp_path / "r", copied, 2)
    (copied / "zz.wav").unlink()
    missing = []
    archive.export_segments(tmp_path / "r", copied, 9, on_failure=missing.append)
    assert missing
    assert all("zz.wav: no such file" in line for line in missing)
    assert len(list(out.rglob("*.flac"))) == 9 * 5 - len(missing)
    (tmp_path / "mine").mkdir()
    with pytest.raises(AtgnnError, match="holds no segments: give another name"):
        archive.export_segments(tmp_path / "r", copied, 2, tmp_path / "mine")
    with pytest.raises(ConfigError, match="give 1 or more"):
        archive.export_segments(tmp_path / "r", copied, 0)


# ------------------------------------------------------------------ many at once, and a cluster


def test_memory_of_the_best_is_bounded():
    from atgnn.archive.segments import _Best

    random = np.random.default_rng(0)
    best, every = _Best(3, 4), []
    for number in range(300):
        scores = np.round(random.random((2, 3)), 4).astype(np.float32)
        best.add({"path": f"{number:03}"}, scores)
        every += [(-float(scores[w, 1]), f"{number:03}", w) for w in (0, 1)]
    assert [(-score, path, w) for score, path, w in best.of(1)] == sorted(every)[:4]
    assert len(best.rows) <= 4 * 4 * 3 + 1


@pytest.mark.slow
def test_a_cluster_gives_what_one_machine_does(tagger, sounds, whole, model, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason='needs Ray: pip install ".[ray]"')
    from atgnn.archive import cluster
    from atgnn.archive.cluster import RayWorkers

    monkeypatch.setattr(cluster, "BLOCK", 3)
    workers = RayWorkers(str(model), ArchiveSettings(), "local", workers=2, device="cpu")
    stop_after(tagger, sounds, tmp_path / "r", 2)  # a single machine begins, a cluster goes on
    report = tag_archive(tagger, sounds, tmp_path / "r", resume=True, worker=workers)
    assert report.known + report.tagged + report.failed == 8
    check_same(tmp_path / "r", whole)
    tag_archive(tagger, sounds, tmp_path / "c", worker=workers)
    check_same(tmp_path / "c", whole)


class RayError(Exception):
    pass


def cluster_that(monkeypatch, **does):
    """A stand-in for the package `ray`."""
    from types import SimpleNamespace

    from atgnn.archive import cluster

    def init(**settings):
        if "init" in does:
            raise does["init"]

    def nodes():
        raise does["nodes"]

    context = SimpleNamespace(get_current=lambda: SimpleNamespace())
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=init,
        nodes=nodes,
        shutdown=lambda: does["shut"].append(1),
        exceptions=SimpleNamespace(RayError=RayError),
        data=SimpleNamespace(DataContext=context),
    )
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    return cluster.RayWorkers("m", ArchiveSettings())


def test_a_cluster_that_is_not_there(tagger, sounds, tmp_path, monkeypatch):
    reason = ConnectionError("Could not find any running Ray instance.\nmore")
    with pytest.raises(ConfigError) as refused:
        tag_archive(tagger, sounds, tmp_path, worker=cluster_that(monkeypatch, init=reason))
    assert "no Ray cluster at 'auto' (Could not find any running" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_cluster_that_gives_up(tagger, sounds, tmp_path, monkeypatch):
    shut = []
    worker = cluster_that(monkeypatch, nodes=RayError("Trace\nNoModel: m\n"), shut=shut)
    with pytest.raises(AtgnnError) as stopped:
        tag_archive(tagger, sounds, tmp_path, worker=worker)
    assert str(stopped.value) == (
        "the Ray cluster could not go on (NoModel: m); what came of it is kept: set it right, and "
        "--resume goes on"
    )
    assert shut == [1]


def test_without_ray_the_extra_is_named(monkeypatch):
    from atgnn.archive import cluster
    from atgnn.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[ray\]"'):
        cluster._ray()


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    import importlib

    from atgnn.archive import arrow
    from atgnn.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[archive\]"'):
        importlib.reload(arrow)


# ------------------------------------------------------------------ the command


def test_the_command(model, copied, tmp_path, capfd, monkeypatch):
    from atgnn.cli import app

    def call(*arguments):
        code = 0
        try:
            app([str(argument) for argument in arguments], standalone_mode=True)
        except SystemExit as stop:
            code = stop.code
        text = capfd.readouterr()
        return code, text.out, text.err.splitlines()

    base = ["tag", copied, "--out", tmp_path / "r", "--model", model]
    code, out, lines = call(*base, "--shard", "1/1", "--resume", "--export-segments", 2)
    assert code == 1, "a file could not be read"
    assert "8 recordings: 7 tagged (13.9 s of sound); 1 could not be read, see " in out
    assert f"Results are in {tmp_path}/r/shard-1-of-1.parquet" in out
    assert [line for line in lines if "bad.wav: holds text" in line]
    assert (tmp_path / "r/segments/segments.csv").is_file()
    (copied / BAD).unlink()
    code, out, lines = call(*base, "--resume")
    assert (code, lines) == (0, [])
    assert "7 recordings: 0 tagged (0.0 s of sound); 7 known from before\n" in out
    assert call(*base)[2] == [
        f"atgnn: {tmp_path}/r holds results of shard 1/1: --resume goes on with them, --force "
        "begins anew"
    ]
    assert call("segments", tmp_path / "r", copied, "--count", 1)[0] == 0
    refused = {
        ("tag", copied, "--resume"): "--resume is for a whole archive: give --out RESULTS",
        ("tag", copied, "--export-segments", 3): "--export-segments is for a whole archive",
        (*base, "--shard", "2/1"): "shard '2/1' does not exist",
        (*base, copied): "--out is for one folder of recordings, 2 paths came",
        ("tag", copied / "zz.wav", *base[2:]): "--out is for one folder of recordings, the file",
        (*base, "--workers", 2): "--workers are of a Ray cluster: give --ray as well",
        (*base, "--json"): "--json is for the screen, --out writes Parquet",
    }
    for arguments, message in refused.items():
        code, out, lines = call(*arguments)
        assert (code, len(lines)) == (2, 1), arguments
        assert message in lines[0]


def test_time_left_is_shown(monkeypatch, capsys):
    from atgnn import terminal

    now = iter([0.0, 10.0, 30.0, 70.0, 70.0, 70.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    with terminal.pace() as progress:
        progress(running.Done(1, 10, 100, 1000))
        progress(running.Done(3, 10, 300, 1000))
        progress(running.Done(7, 10, 700, 1000))
    assert capsys.readouterr().err == "atgnn: 7 of 10 recordings, 30.0 s left\n"
