"""Reports, comparisons, collections and false alarms: from scores and clips to pages."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import LABELS, sound, tiny_checkpoint, write
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, open_clips
from atgnn.errors import AtgnnError, AudioError, ClipsError
from atgnn.evaluate import (
    collection_negatives,
    compare,
    evaluate_table,
    false_alarms,
    leave_one_collection_out,
    owners_of,
    rank,
    write_report,
)
from atgnn.evaluate.pages import Bar, Fact, Page, Table
from atgnn.evaluate.written import comparison_page, report_page
from atgnn.labels import Vocabulary
from atgnn.scoring import ScoresError, ScoreTable
from atgnn.tagger import Tagger

NAMES = ("Rain", "Siren", "Dog")


def made_clips(tmp_path, number=60, authors=20, **columns):
    """Clips of generated tables; the files are empty, as scores come from elsewhere."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(number):
        path = tmp_path / f"{index}.wav"
        path.touch()
        paths.append(path)
    labels = [
        tuple(name for name in NAMES[:2] if generator.random() < 0.4)
        + (("Dog",) if index < 6 else ())
        for index in range(number)
    ]
    table = pd.DataFrame(
        {
            "path": paths,
            "labels": labels,
            "unknown": [()] * number,
            "start": 0.0,
            "end": np.nan,
            "collection": ["one"] * number,
            "group": [f"author {index % authors}" for index in range(number)],
            "author": [f"author {index % authors}" for index in range(number)],
            **columns,
        }
    )
    return Clips(table)


def made_scores(clips, seed=0, skill=1.0, labels=NAMES, activation="sigmoid"):
    generator = np.random.default_rng(seed)
    truth = clips.targets(Vocabulary.from_names(labels), outside="drop")
    values = 1 / (1 + np.exp(-(generator.normal(size=truth.shape) + skill * truth - 1)))
    zeros, ends = np.zeros(len(clips)), np.full(len(clips), np.nan)
    paths = tuple(map(str, clips.paths))
    return ScoreTable(paths, zeros, ends, labels, values, activation, f"model {seed}")


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    return made_clips(tmp_path / "clips")


@pytest.fixture
def report(clips):
    return evaluate_table(made_scores(clips), clips, resamples=200)


class Seen(HTMLParser):
    """What a page fetches, and whether its tags match."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    seen = Seen()
    seen.feed(html.replace("/>", ">"))
    assert seen.open == []
    return seen


# --------------------------------------------------------------------------- one model


def test_report_says_which_labels_each_mean_is_over(report, clips):
    truth = clips.targets(Vocabulary.from_names(NAMES))
    aps = [average_precision_score(truth[:, i], report.scores[:, i]) for i in range(len(NAMES))]
    assert report.metrics.mean_ap == pytest.approx(np.mean(aps))
    assert report.metrics.mean_ap_enough == pytest.approx(np.mean(aps[:2]))
    assert report.metrics.too_few == ("Dog",)
    one = report.intervals.per_class[0]
    assert 0 < one.low < aps[0] < one.high < 1
    assert report.intervals.per_class[2] is None
    facts = {fact.name: fact for fact in report_page(report, pictures=False).facts}
    assert "3 labels with a positive clip" in facts["mAP"].detail
    assert facts["mAP"].value == f"{np.mean(aps):.3f}"
    assert "2 labels" in facts["mAP, 10+ independent positives"].detail


def test_no_average_precision_under_ten_independent_positives(report):
    page = report_page(report, pictures=False)
    shown, rare = page.blocks
    assert [row[0] for row in shown.rows] == ["Rain", "Siren"] or len(shown.rows) == 2
    assert rare.rows == (("Dog", "6", "6", "60"),)
    dog = report.to_dict()["per_class"][2]
    assert dog["average_precision"] is None
    assert dog["positives"] == 6
    assert f"{report.metrics.per_class[2].average_precision:.3f}" not in page.markdown()


def test_folder_of_a_report(report, tmp_path):
    file = write_report(report, tmp_path / "out")
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == [
        "precision-recall-1.png",
        "reliability.png",
        "report.html",
        "report.json",
        "report.md",
    ]
    seen = parsed(file.read_text())
    assert len(seen.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    assert seen.tags.count("svg") == 2
    markdown = (file.parent / "report.md").read_text()
    for name in re.findall(r"\]\(([^)]+)\)", markdown):
        assert (file.parent / name).read_bytes().startswith(b"\x89PNG")
    data = json.loads((file.parent / "report.json").read_text())
    assert data["mean_ap"] == pytest.approx(report.metrics.mean_ap)
    assert data["intervals"]["mean_ap"]["groups"] == 20
    assert 0 < data["calibration_error"] < 1


def test_a_report_replaces_only_a_report_and_only_if_told(report, tmp_path):
    folder = tmp_path / "out"
    first = write_report(report, folder).read_bytes()
    with pytest.raises(AtgnnError, match=r"holds a report.*--force"):
        write_report(report, folder)
    assert write_report(report, folder, force=True).read_bytes() == first  # and the same bytes
    (folder / "remarks.txt").write_text("written beside it")
    with pytest.raises(AtgnnError, match=r"something else than a report \(remarks\.txt\)"):
        write_report(report, folder, force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(AtgnnError, match="something else"):
        write_report(report, tmp_path / "other", force=True)
    with pytest.raises(AtgnnError, match="is a file"):
        write_report(report, tmp_path / "other" / "thesis.txt")


def test_names_cannot_break_a_page():
    table = Table("<b>", ("label", "n"), (("a|b <script>", "1_2"),), "*note*")
    page = Page("A & B", "x", (Fact("<i>", "1", "&"),), ("n|",), (table,))
    html = page.html()
    assert "<script>" not in html
    assert "a|b &lt;script&gt;" in html
    parsed(html)
    assert "| a\\|b \\<script> | 1\\_2 |" in page.markdown()


def test_bars_stay_inside_and_are_coloured_by_zero():
    def drawn(*values, **where):
        return Page(
            "", "", (), (), (Table("t", ("a", "b"), (("x", Bar(*values, **where)),)),)
        ).html()

    assert 'class="bar"' in drawn(0.2, 0.5, 0.7)
    assert 'class="bar gain"' in drawn(0.1, 0.2, 0.3, first=-1, last=1, zero=0)
    assert 'class="bar loss"' in drawn(-0.3, -0.2, -0.1, first=-1, last=1, zero=0)
    assert 'class="bar even"' in drawn(-0.3, 0.2, 0.5, first=-1, last=1, zero=0)
    assert 'x1="4.0" x2="176.0"' in drawn(-5, 0.5, 7)


def test_accuracy_of_models_that_choose_one_label(tmp_path):
    clips = made_clips(tmp_path)
    clips = Clips(clips.table.assign(labels=[(NAMES[i % 3],) for i in range(len(clips))]))
    report = evaluate_table(made_scores(clips, activation="softmax"), clips, resamples=200)
    interval = report.intervals.accuracy
    assert interval.low < report.metrics.accuracy < interval.high
    assert "accuracy" in {fact.name for fact in report_page(report, pictures=False).facts}


def test_truth_is_completed_by_the_ontology_unless_asked_not_to(tmp_path):
    clips = made_clips(tmp_path)
    clips = Clips(clips.table.assign(labels=[("Bark",)] * 30 + [("Rain",)] * 30))
    scores = made_scores(clips, labels=("Bark", "Dog", "Rain"))
    assert evaluate_table(scores, clips).metrics.per_class[1].positives == 30
    assert evaluate_table(scores, clips, as_marked=True).metrics.per_class[1].positives == 0


# --------------------------------------------------------------------------- bad input


def test_labels_that_the_scores_lack_are_refused_or_named(clips):
    scores = made_scores(clips, labels=("Rain", "Siren"))
    with pytest.raises(ClipsError, match=r"1 label of the clips.*Dog"):
        evaluate_table(scores, clips)
    report = evaluate_table(scores, clips, ignore_unknown_labels=True)
    assert report.ignored_labels == ("Dog",)
    assert "Dog" in report_page(report, pictures=False).markdown()


def test_clips_without_scores_are_refused_or_counted(clips):
    some = made_scores(clips.subset(range(50)))
    with pytest.raises(
        ScoresError, match=r"10 of 60 clips have no scores.*--fold or --split.*--skip-bad"
    ):
        evaluate_table(some, clips)
    report = evaluate_table(some, clips, skip_bad=True)
    assert report.metrics.clips == 50
    assert len(report.left_out_clips) == 10
    assert "10 clips left out" in report_page(report, pictures=False).markdown()
    with pytest.raises(ClipsError, match="none has scores"):
        evaluate_table(made_scores(clips.subset(range(5))), clips.subset([9]), skip_bad=True)


def test_a_label_without_positives_is_named_and_in_no_mean(tmp_path):
    clips = made_clips(tmp_path)
    scores = made_scores(clips, labels=(*NAMES, "Cello"))
    report = evaluate_table(scores, clips)
    assert report.metrics.left_out == ("Cello",)
    assert "in no mean: Cello" in report_page(report, pictures=False).markdown()


def test_nothing_positive_at_all_still_makes_a_report(tmp_path):
    clips = made_clips(tmp_path)
    clips = Clips(clips.table.assign(labels=[()] * len(clips)))
    report = evaluate_table(made_scores(clips), clips)
    assert report.intervals.mean_ap is None
    assert report.to_dict()["mean_ap"] is None
    assert write_report(report, tmp_path / "out").is_file()


def test_owners_fall_back_from_author_to_recording_to_clip(tmp_path):
    clips = made_clips(tmp_path, 4, 2, source_id=["s1", "s1", "s2", ""])
    bare = clips.table.assign(group=["ann", None, None, None], author=["ann", "", "", ""])
    owned = owners_of(Clips(bare))
    assert owned.owners.count == 4
    assert owned.noun == "authors"
    assert any("1 clip names no" in note for note in owned.notes)
    recordings = owners_of(Clips(bare.assign(group=bare["source_id"]).drop(columns="author")))
    assert (recordings.noun, recordings.owners.count) == ("recordings", 3)
    nobody = owners_of(Clips(bare.drop(columns=["group", "author", "source_id"])))
    assert (nobody.noun, nobody.owners.count) == ("clips", 4)
    odd = Clips(bare.drop(columns=["group", "author", "source_id"]))
    odd.table["path"] = [tmp_path / f"{row};bark.wav" for row in range(4)]
    assert (owners_of(odd).owners.count, owners_of(odd).owners.spread) == (4, 1)
    assert any("too narrow" in note for note in nobody.notes)


def test_one_author_gets_intervals_over_recordings_or_none(tmp_path):
    clips = made_clips(tmp_path, source_id=[f"s{index % 9}" for index in range(60)])
    one = Clips(clips.table.assign(group="ann", author="ann"))
    report = evaluate_table(made_scores(one), one, resamples=200)
    assert report.intervals.mean_ap.low < report.metrics.mean_ap
    assert any("one author's" in note for note in report.notes)
    same = Clips(one.table.assign(source_id="s"))
    report = evaluate_table(made_scores(same), same)
    assert report.intervals is None
    assert any("there is no interval" in note for note in report.notes)
    assert write_report(report, tmp_path / "out").is_file()


def test_mixtures_are_said_to_be_mixtures(tmp_path):
    clips = made_clips(tmp_path)
    mixed = [f"a{i % 20};a{(7 * i + 3) % 20}" for i in range(60)]
    report = evaluate_table(made_scores(clips), Clips(clips.table.assign(group=mixed)))
    assert any("mixtures of up to 2 authors" in note for note in report.notes)
    assert report.intervals.mean_ap.groups == 20
    # Independent positives are mixtures without a common author: 20 authors make 10 at most.
    assert max(one.independent for one in report.metrics.per_class) <= 10


# --------------------------------------------------------------------------- two models


def test_a_comparison_is_paired(clips, tmp_path):
    worse, better = made_scores(clips, 0, 1.0), made_scores(clips, 0, 1.2)
    found = compare(worse, better, clips, names=("old", "new"), resamples=300)
    gain = found.differences["mean_ap_enough"]
    own = [evaluate_table(one, clips).metrics.mean_ap_enough for one in (worse, better)]
    assert gain.mean == pytest.approx(own[1] - own[0])
    assert 0 < gain.low < gain.mean < gain.high
    # Both share their noise: the difference is known better than either figure.
    alone = evaluate_table(worse, clips).intervals.mean_ap_enough
    assert gain.high - gain.low < 0.7 * (alone.high - alone.low)
    assert found.wins["better"] == 2
    assert 1 <= found.wins["surely_better"] <= 2
    assert [one.label for one in found.labels] == ["Rain", "Siren"] or len(found.labels) == 2
    assert found.differences.keys() == {"mean_ap", "mean_ap_enough", "auc", "lwlrap"}
    file = write_report(found, tmp_path / "out")
    assert "new against old" in file.read_text()
    parsed(file.read_text())
    data = json.loads((file.parent / "report.json").read_text())
    assert data["wins"]["worse"] == 0


def test_a_model_against_itself_differs_by_nothing(clips):
    found = compare(made_scores(clips), made_scores(clips), clips)
    for one in found.differences.values():
        assert (one.mean, one.low, one.high) == (0, 0, 0)
    assert found.wins["equal"] == 2
    assert found.wins["surely_better"] == 0


def test_several_models_are_put_in_order(clips):
    tables = [made_scores(clips, seed, skill) for seed, skill in ((1, 0.2), (2, 3.0), (3, 1.0))]
    found = rank(tables, clips, names=("weak", "strong", "middling"), resamples=300)
    assert [one.name for one in found.models] == ["strong", "middling", "weak"]
    best, second, last = found.models
    assert best.behind is None
    assert second.behind.mean == pytest.approx(second.metrics.mean_ap - best.metrics.mean_ap)
    assert last.behind.high < 0
    assert best.intervals.mean_ap.low < best.metrics.mean_ap < best.intervals.mean_ap.high
    # the same draws as of two, so the same interval of the same difference
    pair = compare(tables[1], tables[0], clips, resamples=300).differences["mean_ap"]
    assert (pair.low, pair.high) == pytest.approx((last.behind.low, last.behind.high))
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert "per_class" not in data["models"][0]["metrics"]


def test_several_models_share_labels_and_clips(clips):
    tables = [made_scores(clips, 1), made_scores(clips, 2, labels=("Siren", "Rain"))]
    tables.append(made_scores(clips, 3))
    found = rank(tables, clips, names="abc", resamples=100, ignore_unknown_labels=True)
    assert found.dropped_labels == ("Dog",)
    assert len(found.models[0].metrics.per_class) == 2
    silent = clips.subset([i for i, labels in enumerate(clips.labels) if not labels])
    with pytest.raises(ClipsError, match="nothing to compare"):
        rank(tables, silent, names="abc")


def test_models_are_compared_on_what_both_know(clips):
    first = made_scores(clips, labels=("Rain", "Dog", "Siren", "Cello"))
    second = made_scores(clips, labels=("Siren", "Rain", "Dog"))
    found = compare(first, second, clips)
    assert found.dropped_labels == ("Cello",)
    assert "Cello" in comparison_page(found).markdown()
    with pytest.raises(ClipsError, match="share no label"):
        compare(first, made_scores(clips, labels=("Owl",)), clips)
    silent = Clips(clips.table.assign(labels=[()] * len(clips)))
    with pytest.raises(ClipsError, match="nothing to compare"):
        compare(first, second, silent)


# --------------------------------------------------------------------------- collections


def test_negatives_of_the_same_collections_only():
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, np.nan], [0, 0, 0]])
    own = collection_negatives(targets, np.array(["a", "a", "b", "b", "c"]))
    nan = np.nan
    expected = [[1, nan, nan], [0, nan, nan], [nan, 1, nan], [nan, 0, nan], [nan, nan, nan]]
    np.testing.assert_array_equal(own, expected)  # the third has no negative where it is
    assert (targets[:, 0] == [1, 0, 0, 0, 0]).all()  # and the input is as it was


def test_a_shortcut_helps_only_against_other_collections(tmp_path):
    """Scores that only tell the collection look good against all, and are chance at home."""
    where = ["one"] * 30 + ["two"] * 30
    clips = made_clips(tmp_path, 60, 30, collection=where)
    labels = [("Rain",) if i < 30 and i % 3 == 0 else () for i in range(60)]
    clips = Clips(clips.table.assign(labels=labels))
    values = np.where(np.array(where) == "one", 0.9, 0.1)[:, None].astype(np.float32)
    base = made_scores(clips, labels=("Rain",))
    scores = ScoreTable(base.paths, base.starts, base.ends, ("Rain",), values)
    pooled = evaluate_table(scores, clips)
    own = evaluate_table(scores, clips, negatives="collection")
    assert pooled.metrics.auc == pytest.approx(0.8)
    assert own.metrics.auc == pytest.approx(0.5)
    assert own.metrics.per_class[0].known == 30
    assert any("only clips of collections" in note for note in own.notes)
    assert own.to_dict()["negatives"] == "collection"


def test_leaving_a_collection_out_keeps_authors_apart(tmp_path):
    where = ["one"] * 20 + ["two"] * 20 + ["three"] * 20
    labels = [("Rain",)] * 20 + [("Rain", "Siren")] * 20 + [("Dog",)] * 20
    clips = made_clips(tmp_path, 60, 60, collection=where)
    table = clips.table.assign(labels=labels)
    table.loc[25, "group"] = table.loc[3, "group"]  # an author of two collections
    found = {
        one.collection: one
        for one in leave_one_collection_out(Clips(table), Vocabulary.from_names(NAMES))
    }
    assert set(found) == {"one", "two"}
    assert found["one"].labels == found["two"].labels == ("Rain",)
    assert found["one"].test.sum() == 20
    assert found["one"].train.sum() == 39
    assert not found["one"].train[25]
    alone = Clips(table.iloc[:20])
    with pytest.raises(ClipsError, match="no label occurs in two collections"):
        list(leave_one_collection_out(alone, Vocabulary.from_names(NAMES)))


# --------------------------------------------------------------------------- false alarms


@pytest.fixture(scope="module")
def tagger():
    return Tagger(tiny_checkpoint(thresholds=(0.2, 0.4, 0.5, 0.6, 0.99)), "cpu")


def test_false_alarms_are_windows_over_the_model_s_thresholds(tagger, tmp_path):
    lines = ["path,labels,unknown,author"]
    rows = [("", "", "ann"), ("Cello", "", "bob"), ("Bark", "", "cem"), ("", "Rain", "dee")]
    for index, (labels, unknown, author) in enumerate(rows):
        write(tmp_path / f"{index}.wav", sound(5, seed=index), subtype="FLOAT")
        lines.append(f"{index}.wav,{labels},{unknown},{author}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    clips = Clips.read(tmp_path / "t.csv")
    found = false_alarms(tagger, clips)
    over = [
        tagger.window_scores(clips.paths[row]) >= [0.2, 0.4, 0.5, 0.6, 0.99] for row in (0, 1, 3)
    ]
    over[2][:, LABELS.index("Rain")] = False  # nobody knows
    hits = np.concatenate(over)
    assert (found.clips, found.windows, found.excluded) == (3, 9, 1)
    assert found.minutes == pytest.approx(0.25)
    assert found.alarmed == hits.any(axis=1).sum() > 0
    assert found.per_hour.mean == pytest.approx(found.alarmed * 3600 / 15)
    assert found.own_thresholds
    alarms = {one.label: one for one in found.labels}
    for label, name in enumerate(LABELS):
        assert alarms[name].alarms == hits[:, label].sum()
    assert alarms["Rain"].per_hour == pytest.approx(alarms["Rain"].alarms * 3600 / 10)
    packed = PackedWaveforms.write(clips, tmp_path / "packed", 16_000)
    again = false_alarms(tagger, open_clips(packed.folder, labelled=False))
    assert again.windows == found.windows
    assert again.alarmed == found.alarmed


def test_silence_bounds_the_rate(tmp_path):
    never = Tagger(tiny_checkpoint(thresholds=(1.0,) * 5), "cpu")
    write(tmp_path / "sounds" / "a.wav", sound(4))
    write(tmp_path / "sounds" / "office" / "b.wav", sound(4))
    found = false_alarms(never, open_clips(tmp_path / "sounds", labelled=False))
    assert found.alarmed == 0
    assert found.per_hour.high == pytest.approx(-np.log(0.05) * 3600 / 8)
    assert found.clips == 2


def test_background_that_is_none(tagger, tmp_path):
    write(tmp_path / "Bark" / "a.wav", sound(1))
    with pytest.raises(ClipsError, match="no background: 1 clip, "):
        false_alarms(tagger, open_clips(tmp_path, labelled=False))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError):
        false_alarms(tagger, open_clips(tmp_path / "other", labelled=False))
    with pytest.raises(ClipsError, match="none of 1 background clips"):
        false_alarms(tagger, open_clips(tmp_path / "other", labelled=False), skip_bad=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AtgnnError):
        open_clips(tmp_path / "empty", labelled=False)


# --------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a table of sounds, one of them broken, packed sounds, and score files."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_checkpoint().save_pretrained(folder / "model")
    lines = ["path,labels,author,fold"]
    for index in range(8):
        write(folder / "sounds" / f"{index}.wav", sound(1.5, seed=index))
        lines.append(f"{index}.wav,{LABELS[index % 5]},a{index % 4},{1 + index % 2}")
    table = folder / "sounds" / "clips.csv"
    table.write_text("\n".join(lines))
    clips = Clips.read(table)
    PackedWaveforms.write(clips, folder / "packed", 16_000)
    tagger = Tagger(Checkpoint.from_pretrained(model), "cpu")
    ScoreTable.of(tagger, clips, source="tiny").write(folder / "scores.parquet")
    (folder / "sounds" / "8.wav").write_bytes(b"RIFFnothing")
    (folder / "sounds" / "bad.csv").write_text("\n".join([*lines, "8.wav,Rain,a9,1"]))
    write(folder / "background" / "hum.wav", sound(3, seed=50))
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


def test_evaluate_a_model_a_score_file_and_packed_clips_alike(made):
    model, table = made / "model", made / "sounds" / "clips.csv"
    first = run("evaluate", model, table, "--json", "--fold", 1)
    second = run("evaluate", "--scores", made / "scores.parquet", table, "--json", "--fold", 1)
    packed = run("evaluate", model, made / "packed", "--json", "--fold", 1)
    assert first.exit_code == second.exit_code == packed.exit_code == 0, first.output
    one, two, three = (json.loads(result.stdout) for result in (first, second, packed))
    assert (one.pop("model"), two.pop("model")) == (str(model), "tiny")
    assert one == two
    assert three["clips"] == one["clips"] == 4
    assert three["mean_ap"] == pytest.approx(one["mean_ap"])


def test_evaluate_passes_over_bad_clips_when_told(made):
    table = made / "sounds" / "bad.csv"
    stopped = run("evaluate", made / "model", table)
    assert stopped.exit_code == 1
    assert "8.wav" in stopped.output
    result = run("evaluate", made / "model", table, "--skip-bad", "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["clips"] == 8
    (reason,) = data["left_out_clips"]
    assert "8.wav" in reason


def test_evaluate_writes_a_report_with_false_alarms(made, tmp_path):
    result = run(
        "evaluate", made / "model", made / "sounds" / "clips.csv", "--report", tmp_path / "r",
        "--background", made / "background",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "false alarms an hour" in result.output
    assert "False alarms" in (tmp_path / "r" / "report.md").read_text()
    again = run(
        "evaluate", made / "model", made / "sounds" / "clips.csv", "--report", tmp_path / "r"
    )
    assert again.exit_code == 2
    assert "--force" in again.output


def test_compare_two_score_files(made, tmp_path):
    scores, table = made / "scores.parquet", made / "sounds" / "clips.csv"
    result = run("compare", scores, scores, table, "--report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "mAP, all labels" in result.output
    assert (tmp_path / "r" / "report.html").is_file()
    data = json.loads(run("compare", scores, scores, table, "--json").stdout)
    assert data["differences"]["mean_ap"]["mean"] == 0


def test_compare_three_score_files(made, tmp_path):
    scores, table = made / "scores.parquet", made / "sounds" / "clips.csv"
    result = run("compare", scores, scores, scores, table, "--report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "behind" in (tmp_path / "r" / "report.md").read_text()
    assert "+0.000" in (tmp_path / "r" / "report.md").read_text()
    assert (tmp_path / "r" / "report.html").is_file()
    data = json.loads(run("compare", scores, scores, scores, table, "--json").stdout)
    assert len(data["models"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "only"], "expected MODEL CLIPS"),
        (["evaluate", "a", "b", "--scores", "c"], "expected MODEL CLIPS"),
        (
            ["evaluate", "a", "--scores", "c", "--background", "d"],
            "--background does nothing with --scores",
        ),
        (["evaluate", "a", "--scores", "none.parquet"], "no score file none.parquet"),
        (["compare", "none.parquet", "b", "c"], "no score file none.parquet"),
    ],
)
def test_wrong_commands_are_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


# --------------------------------------------------------------------------- the probe


def test_the_probe_finds_shortcuts_and_nothing_where_there_are_none():
    if not (Path(__file__).parents[1] / "benchmarks" / "everyday").is_dir():
        pytest.skip("benchmarks come with a checkout only")
    from benchmarks.everyday.probe import FEATURES, marks, probe

    wave = np.concatenate([np.zeros(1600), sound(1.0), np.zeros(3200)])
    found = dict(zip(FEATURES, marks(wave), strict=True))
    assert found["duration"] == pytest.approx(1.3)
    assert found["zeros"] == pytest.approx(0.3 / 1.3, abs=0.01)
    assert found["silence before"] == pytest.approx(0.1, abs=0.01)
    assert found["silence after"] == pytest.approx(0.2, abs=0.01)
    dull = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)
    assert marks(dull)[4] < 2000 < found["bandwidth"]
    assert np.isfinite(marks(np.zeros(0))).all()
    generator = np.random.default_rng(0)
    length = generator.random(120)
    truth = np.stack([length > 0.7, generator.random(120) < 0.3], axis=1).astype(float)
    scores = probe(length[:, None], truth, np.arange(120) % 4, 0)
    assert average_precision_score(truth[:, 0], scores[:, 0]) > 0.95
    assert average_precision_score(truth[:, 1], scores[:, 1]) < 0.55
