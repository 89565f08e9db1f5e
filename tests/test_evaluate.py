"""Evaluation: the numbers are those of tagging, compared with the table's labels."""

import json

import numpy as np
import pytest
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from sklearn.metrics import average_precision_score, roc_auc_score

from atgnn.data.clips import Clips
from atgnn.errors import ClipsError
from atgnn.evaluate import choose_clips, evaluate
from atgnn.tagger import Excerpt, Tagger

ROWS = [  # labels, unknown, start, end, fold, author
    ("Bark", "", "", "", 1, "ann"),
    ("Rain", "Siren", 0.5, 2.5, 1, "ann"),
    ("Siren;Rain", "", 1, "", 2, "bob"),
    ("Dog", "Rain", "", "", 2, "cem"),
    ("Siren", "", "", 3, 1, "cem"),
    ("Animal", "Dog;Bark", "", "", 2, "dee"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,labels,unknown,start,end,fold,author"]
    for index, row in enumerate(ROWS):
        write(folder / f"{index}.wav", sound(3.5, seed=index))
        lines.append(",".join(map(str, (f"{index}.wav", *row))))
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def clips(table):
    return Clips.read(table)


@pytest.fixture(scope="module")
def tagger():
    return Tagger(tiny_checkpoint(), "cpu")


def test_metrics_equal_scikit_learn_on_the_tagger_s_scores(tagger, clips):
    report = evaluate(tagger, clips, batch_size=3)
    scores = np.stack([tagger.scores(Excerpt(c.path, c.start, c.end)) for c in clips])
    animal, bark, dog, rain, siren = range(5)
    truth = np.zeros((6, 5))
    truth[0, [bark, dog, animal]] = 1  # a bark is a dog is an animal
    truth[1, rain], truth[1, siren] = 1, np.nan
    truth[2, [siren, rain]] = 1
    truth[3, [dog, animal]], truth[3, rain] = 1, np.nan
    truth[4, siren] = 1
    truth[5, animal] = 1
    truth[5, [dog, bark]] = np.nan
    aps, aucs = [], []
    for label, one in enumerate(report.metrics.per_class):
        known = ~np.isnan(truth[:, label])
        assert one.label == LABELS[label]
        assert one.known == known.sum()
        aps.append(average_precision_score(truth[known, label], scores[known, label]))
        aucs.append(roc_auc_score(truth[known, label], scores[known, label]))
        assert one.average_precision == pytest.approx(aps[-1], abs=1e-9)
    assert report.metrics.mean_ap == pytest.approx(np.mean(aps), abs=1e-9)
    assert report.metrics.auc == pytest.approx(np.mean(aucs), abs=1e-9)
    assert report.metrics.accuracy is None
    assert report.accuracy_interval is None
    assert report.intervals.mean_ap.groups == 4


def test_single_label_models_get_an_accuracy_and_an_interval_over_authors(tmp_path):
    tagger = Tagger(tiny_checkpoint(("Rain", "Siren"), activation="softmax"), "cpu")
    guesses = [int(tagger.scores((sound(1, seed=i), RATE)).argmax()) for i in range(6)]
    truth = [guesses[0], 1 - guesses[1], *guesses[2:]]  # one of six is wrong, and bob's
    lines = ["filename,label,author"]
    for index, label in enumerate(truth):
        write(tmp_path / f"{index}.wav", sound(1, seed=index), subtype="FLOAT")
        lines.append(f"{index}.wav,{tagger.labels[label]},{'bob' if index < 3 else 'ann'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    report = evaluate(tagger, Clips.read(tmp_path / "t.csv"))
    assert report.metrics.accuracy == pytest.approx(5 / 6)
    interval = report.accuracy_interval
    assert interval.groups == 2
    assert 0 < interval.low < 5 / 6 < interval.high < 1
    assert any("only 2 authors" in note for note in report.notes)


def test_unknown_labels_are_refused_or_ignored(clips, tagger):
    foreign = Clips(clips.table.assign(labels=[("Bark", "Cello"), *clips.labels[1:]]))
    with pytest.raises(ClipsError, match=r"1 label .*Cello.*--ignore-unknown-labels"):
        evaluate(tagger, foreign)
    report = evaluate(tagger, foreign, ignore_unknown_labels=True)
    assert report.ignored_labels == ("Cello",)
    assert report.metrics == evaluate(tagger, clips).metrics


def test_choosing_clips(clips):
    assert len(choose_clips(clips, fold=1)) == 3
    assert choose_clips(clips) is clips
    with pytest.raises(ClipsError, match=r"fold 7.*folds: 1, 2"):
        choose_clips(clips, fold=7)
    with pytest.raises(ClipsError, match="no column 'split'"):
        choose_clips(clips, split="test")
    assert choose_clips(clips, fold=2, label_column="author").labels[0] == ("bob",)


def test_report_is_plain_json_and_a_table(clips, tagger):
    done = []
    report = evaluate(tagger, choose_clips(clips, fold=1), progress=done.append)
    assert done == [1, 2, 3]
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["clips"] == 3
    assert data["mean_ap"] == pytest.approx(report.metrics.mean_ap)
    assert len(data["per_class"]) == 5
    assert data["left_out"] == []


def test_no_clips(clips, tagger):
    with pytest.raises(ClipsError, match="no clips"):
        evaluate(tagger, clips.subset([]))
