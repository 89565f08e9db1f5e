"""`atgnn prepare`: from a data set on disk to a packed folder and a report that is right."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data.fsd50k import read_fsd50k
from atgnn.data.store import SAMPLES, PackedWaveforms
from atgnn.data.tables import read_table
from atgnn.labels import Ontology, Vocabulary
from atgnn.prepare.run import Options, check, prepare
from atgnn.training.division import divide, read_clips
from atgnn.training.recipe import DataSettings, load_recipe

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def load(out):
    return json.loads((out / "report.json").read_text())


@pytest.fixture
def many(tmp_path):
    """A table of 1,000 clips; number 500 is no sound, number 600 has no samples."""
    write(tmp_path / "0.wav", sound(0.02))
    for i in range(1, 1000):
        if i not in (500, 600):
            os.link(tmp_path / "0.wav", tmp_path / f"{i}.wav")
    (tmp_path / "500.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    soundfile.write(tmp_path / "600.wav", np.zeros(0, np.float32), RATE)
    rows = [f"{i}.wav,{('Dog', 'Rain')[i % 2]},{'author'}{i % 300},{('train', 'test')[i % 2]}"
            for i in range(1000)]  # fmt: skip
    rows[7] = "7.wav,Dog,author1,train"
    rows.append("lost.wav,Dog,author1,train")
    (tmp_path / "t.csv").write_text("\n".join(["path,labels,author,split", *rows]))
    return tmp_path / "t.csv"


def test_bad_files_among_a_thousand_are_lines_and_counts(many, tmp_path):
    out = tmp_path / "out"
    result = run("table", many, "--out", out, "--threads", 2)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("atgnn:")]
    assert len(lines) == 2
    assert "500.wav" in lines[0]
    assert "600.wav: holds no samples" in lines[1]
    report = load(out)
    numbers = ("listed", "found", "missing", "packed", "classes", "unlabelled")
    assert [report[name] for name in numbers] == [1001, 1000, 1, 998, 2, 0]
    assert report["hours"] == pytest.approx(998 * 0.02 / 3600, abs=1e-4)
    assert report["label_counts"] == {"Dog": 499, "Rain": 499}
    assert report["source_rates"] == {str(RATE): 998}
    assert [bad["path"].rsplit("/")[-1] for bad in report["unreadable"]] == ["500.wav", "600.wav"]
    (crossing,) = report["crossings"]
    assert (crossing["column"], crossing["division"]) == ("author", "split")
    assert (crossing["groups"], crossing["of"]) == (1, 300)  # row 7 alone changed sides
    assert crossing["examples"] == ["author1 in test, train"]
    text = (out / "report.md").read_text()
    assert "found 1000 of 1001 listed clips (99.9 %), 1 missing" in text
    assert "## Unreadable files, left out: 2" in text
    assert "Of 300 values of author, in several splits (5 clips): 1" in text
    assert (out / "missing.csv").read_text() == "name,split,start,end\nlost.wav,,0,\n"
    assert "found 1000 of 1001 listed clips" in " ".join(result.stdout.split())


def test_the_same_command_again_only_reports(many, tmp_path):
    out = tmp_path / "out"
    assert run("table", many, "--out", out).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    time = (out / SAMPLES).stat().st_mtime_ns
    (out / "report.md").unlink()
    assert run("table", many, "--out", out).exit_code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (out / SAMPLES).stat().st_mtime_ns == time
    result = run("table", many, "--out", out, "--rate", 8000)
    assert result.exit_code == 2
    assert "is packed already, from other clips or with other settings" in result.stderr


def test_ctrl_c_says_how_to_go_on(many, tmp_path, monkeypatch):
    import atgnn.terminal

    class Stop:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def __call__(self, done):
            if done == 100:
                raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(atgnn.terminal, "counter", lambda total: Stop())
        result = run("table", many, "--out", out)
    assert result.exit_code == 130
    assert "stopped: the same command goes on where it was" in result.stderr
    assert not out.exists()
    seen = []
    prepare(read_table(many), out, Options(), seen.append)
    assert seen[0] == 101


def test_check_finds_a_changed_sample(many, tmp_path):
    out = tmp_path / "out"
    run("table", many, "--out", out)
    result = run("check", out)
    assert result.exit_code == 0
    assert "998 clips, 0.01 h, all as they were written" in result.stdout
    content = bytearray((out / SAMPLES).read_bytes())
    content[2 * 320 * 3] ^= 1
    (out / SAMPLES).write_bytes(content)
    result = run("check", out)
    assert result.exit_code == 2
    assert "1 of 998 clips are not as they were written, among them 3.wav" in result.stderr
    result = run("check", tmp_path)
    assert result.exit_code == 2
    assert "holds no packed waveforms" in result.stderr


def test_classes_without_clips_and_clips_without_labels(tmp_path):
    write(tmp_path / "a.wav")
    write(tmp_path / "b.wav", sound(0.5, 44_100), 44_100)
    (tmp_path / "t.csv").write_text("path,labels,fold\na.wav,Rain,1\nb.wav,,2\n")
    labels = tmp_path / "labels.csv"
    labels.write_text("index,mid,name\n0,,Dog\n1,,Rain\n")
    out = tmp_path / "out"
    assert run("table", tmp_path / "t.csv", "--out", out, "--labels", labels).exit_code == 0
    report = load(out)
    assert report["empty_classes"] == ["Dog"]
    assert report["unlabelled"] == 1
    assert report["source_rates"] == {"16000": 1, "44100": 1}
    assert [(s["name"], s["packed"], s["empty_classes"]) for s in report["splits"]] == [
        ("1", 1, 1),
        ("2", 1, 2),
    ]
    assert Vocabulary.from_csv(out / "labels.csv").names == ("Dog", "Rain")


def test_audiosets_real_lists_with_one_clip_in_a_hundred(shared_data, tmp_path):
    lists = {
        split: shared_data / "labels" / f"audioset_{part}_segments.csv"
        for split, part in (("balanced", "balanced_train"), ("eval", "eval"))
    }
    write(tmp_path / "tiny.wav", sound(0.02, 8000), 8000)
    (tmp_path / "sounds").mkdir()
    mids, here = set(), {}
    for split, path in lists.items():
        with path.open(newline="") as file:
            rows = list(csv.reader(file))[1::100]
        here[split] = len(rows)
        for name, start, end, labels in rows:
            mids |= set(labels.split(","))
            os.link(tmp_path / "tiny.wav", tmp_path / "sounds" / f"Y{name}_{start}_{end}.wav")
    os.unlink(next((tmp_path / "sounds").iterdir()))
    (broken,) = sorted((tmp_path / "sounds").iterdir())[:1]
    broken.unlink()
    broken.write_bytes(b"RIFF, cut off")
    options = [part for path in lists.values() for part in ("--list", path)]
    result = run("audioset", tmp_path / "sounds", *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = load(tmp_path / "out")
    assert report["listed"] == 22160 + 20371
    assert report["found"] == sum(here.values()) - 1 == 425
    assert report["missing"] == 42531 - 425
    assert report["packed"] == 424
    assert len(report["unreadable"]) == 1
    assert {s["name"]: s["listed"] for s in report["splits"]} == {"balanced": 22160, "eval": 20371}
    assert sum(s["packed"] for s in report["splits"]) == 424
    assert report["classes"] == 527
    assert 0 <= len(report["empty_classes"]) - (527 - len(mids)) <= 10  # two clips fewer
    assert report["crossings"] == []
    with (tmp_path / "out" / "missing.csv").open() as file:
        assert sum(1 for _ in file) == 1 + report["missing"]
    packed = PackedWaveforms.open(tmp_path / "out")
    assert packed.clips.targets(Vocabulary.audioset()).shape == (424, 527)


def test_whole_videos_are_suspected_and_cut(tmp_path):
    write(tmp_path / "--PJHxphWEs.wav", sound(4.0))
    (tmp_path / "eval_segments.csv").write_text('--PJHxphWEs, 1.000, 2.500, "/m/09x0r"\n')
    result = run("audioset", tmp_path, "--out", tmp_path / "whole")
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "whole")["too_long"] == 1
    assert "prepare them with --whole-videos" in (tmp_path / "whole" / "report.md").read_text()
    run("audioset", tmp_path, "--out", tmp_path / "cut", "--whole-videos")
    report = load(tmp_path / "cut")
    assert report["too_long"] == 0
    assert PackedWaveforms.open(tmp_path / "cut").lengths.tolist() == [round(1.5 * RATE)]


@pytest.mark.parametrize("prefix", ["FSD50K.", ""])
def test_the_miniature_fsd50k_is_prepared(shared_data, tmp_path, prefix):
    from benchmarks.miniature.make import make

    rows = make(shared_data, tmp_path / "raw", clips=60, seconds=0.3, prefix=prefix)
    listing = read_fsd50k(tmp_path / "raw")
    assert not listing.oddities
    report = prepare(listing, tmp_path / "out")
    assert report.packed == report.listed == len(rows) == 60
    assert {split.name: split.packed for split in report.splits} == {
        name: sum(row.split == name for row in rows) for name in ("train", "val", "eval")
    }
    assert report.crossings == (), "whole authors are on one side"
    assert report.source_rates == {44_100: 60}
    clips = read_clips(DataSettings(clips=(str(tmp_path / "out"),)))
    vocabulary = Vocabulary.from_csv(tmp_path / "out" / "labels.csv")
    assert vocabulary.mids == Vocabulary.fsd50k().mids
    plain = clips.targets(vocabulary)
    np.testing.assert_array_equal(plain, clips.targets(vocabulary, Ontology.audioset()))
    assert sorted(clips.table["group"]) == sorted(row.author for row in rows)
    assert check(tmp_path / "out").rate == RATE


def test_the_recipe_divides_what_was_prepared(shared_data, tmp_path):
    from benchmarks.miniature.make import make

    rows = make(shared_data, tmp_path / "raw", clips=40, seconds=0.1, seed=1)
    prepare(read_fsd50k(tmp_path / "raw"), tmp_path / "out")
    division = divide(load_recipe("fsd50k", [f"data.clips={tmp_path / 'out'}"]))
    assert len(division.vocabulary) == 200
    assert division.validation is not None
    for clips, split in ((division.train, "train"), (division.validation, "val")):
        stems = sorted(path.stem for path in clips.paths)
        assert stems == sorted(row.fname for row in rows if row.split == split)
    marked = sum(len(row.labels) for row in rows if row.split == "train")
    assert division.train_targets.sum() == marked


def test_paths_are_absolute_wherever_the_command_is_given(tmp_path, monkeypatch):
    write(tmp_path / "data" / "sub" / "--PJHxphWEs.wav", sound(0.1))
    (tmp_path / "data" / "eval_segments.csv").write_text('--PJHxphWEs, 1.0, 2.0, "/m/09x0r"\n')
    monkeypatch.chdir(tmp_path)
    assert run("audioset", "data", "--out", "out").exit_code == 0
    place = tmp_path / "data" / "sub" / "--PJHxphWEs.wav"
    assert PackedWaveforms.open("out").clips.paths == [place]
    monkeypatch.chdir(tmp_path / "data")
    assert run("audioset", ".", "--out", "../out").exit_code == 0, "the same, seen from elsewhere"


def test_the_miniature_is_the_same_each_time_and_closed(shared_data):
    from benchmarks.miniature.make import choose

    rows = choose(shared_data)
    assert rows == choose(shared_data)
    assert len(rows) > 900
    splits = {}
    for row in rows:
        splits.setdefault(row.author, set()).add(row.split)
    assert all(len(where) == 1 for where in splits.values())
    share = sum(row.split == "eval" for row in rows) / len(rows)
    assert 0.1 < share < 0.45


def test_esc10_as_it_lies_here_keeps_folds_and_sources(shared_data, tmp_path):
    """A few clips, by links, and the real list."""
    with (shared_data / "esc10" / "meta.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "audio").mkdir()
    kept = rows[::45]
    for row in kept:
        os.symlink(shared_data / "esc10" / "audio" / row["filename"],
                   tmp_path / "audio" / row["filename"])  # fmt: skip
    os.symlink(shared_data / "esc10" / "meta.csv", tmp_path / "meta.csv")
    result = run("esc50", tmp_path, "--out", tmp_path / "out", "--only-esc10", "--longest", 1)
    assert result.exit_code == 0, result.output
    report = load(tmp_path / "out")
    assert (report["name"], report["listed"], report["packed"]) == ("ESC-10", 400, len(kept))
    packed = PackedWaveforms.open(tmp_path / "out")
    assert packed.longest == 1
    assert packed.lengths.max() == RATE
    table = packed.clips.table
    assert table["fold"].tolist() == [int(row["fold"]) for row in kept]
    assert table["category"].tolist() == [row["category"] for row in kept]
    assert table["group"].tolist() == [row["source_id"] for row in kept]
    assert table["author"].tolist() == [row["author"] for row in kept]


def test_folders_and_manifests_are_packed(tmp_path):
    for number, place in enumerate(("train/Dog/a.wav", "test/Rain/b.wav")):
        write(tmp_path / "sounds" / place, sound(0.1, seed=number))
    out = tmp_path / "folder"
    assert run("folder", tmp_path / "sounds", "--out", out, "--rate", 8000).exit_code == 0
    packed = PackedWaveforms.open(out)
    assert packed.rate == 8000
    assert packed.clips.labels == [("Rain",), ("Dog",)]
    assert packed.clips.table["split"].tolist() == ["test", "train"]
    data = [{"wav": "/elsewhere/Dog/a.wav", "labels": "/m/0bt9lr"},
            {"wav": "/elsewhere/Dog/z.wav", "labels": "/m/0bt9lr"}]  # fmt: skip
    (tmp_path / "tr.json").write_text(json.dumps({"data": data}))
    out = tmp_path / "manifest"
    result = run("manifest", f"train={tmp_path / 'tr.json'}", "--audio", tmp_path / "sounds",
                 "--out", out, "--labels", "audioset")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = load(out)
    assert (report["listed"], report["packed"], report["classes"]) == (2, 1, 527)


def test_containers_without_pyav_are_counted_and_said_to_need_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    write(tmp_path / "Dog" / "0.wav", sound(0.1))
    for number in range(25):
        (tmp_path / "Dog" / f"{number}.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(4000))
    result = run("folder", tmp_path, "--out", tmp_path.parent / "packed-m4a")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("atgnn:")]
    assert len(lines) == 21
    assert "and 5 more unreadable files, all in" in lines[-1]
    report = load(tmp_path.parent / "packed-m4a")
    assert (report["packed"], len(report["unreadable"])) == (1, 25)
    text = (tmp_path.parent / "packed-m4a" / "report.md").read_text()
    assert "25 of the unreadable need a package that is not installed" in text


def test_sources_that_cross_folds_are_found_beside_authors(tmp_path):
    rows = ["a,1,s1,ann", "b,2,s1,ben", "c,2,s2,ann"]
    for row in rows:
        write(tmp_path / f"{row[0]}.wav", sound(0.1))
    header = "filename,fold,category,src_file,author"
    listed = [f"{name}.wav,{fold},dog,{source},{author}"
              for name, fold, source, author in (row.split(",") for row in rows)]  # fmt: skip
    (tmp_path / "esc50.csv").write_text("\n".join([header, *listed]))
    assert run("esc50", tmp_path, "--out", tmp_path / "out").exit_code == 0
    found = [(c["column"], c["groups"], c["clips"]) for c in load(tmp_path / "out")["crossings"]]
    assert sorted(found) == [("author", 1, 2), ("group", 1, 2)]


def test_what_is_not_there_is_one_line(tmp_path):
    for arguments, words in (
        (["fsd50k", tmp_path], "no folder FSD50K.ground_truth"),
        (["audioset", tmp_path], "no list of segments"),
        (["esc50", tmp_path], "has no meta/esc50.csv"),
        (["table", tmp_path / "t.csv"], "no table of clips"),
        (["folder", tmp_path / "none"], "no such folder"),
        (["manifest", tmp_path / "m.json"], "no manifest at"),
    ):
        result = run(*arguments, "--out", tmp_path / "out")
        assert result.exit_code in (1, 2)
        (line,) = result.stderr.splitlines()
        assert words in line
        assert not (tmp_path / "out").exists()
