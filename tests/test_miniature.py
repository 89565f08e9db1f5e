"""The miniature FSD50K: labels are hidden as said, and the whole way can be gone."""

import numpy as np
import pandas
import pytest

pytest.importorskip("lightning")
from atgnn.data.clips import Clips
from benchmarks.miniature.run import hide, reachable, run


def table(labels, split):
    columns = {
        "path": [f"/nowhere/{row}.wav" for row in range(len(labels))],
        "labels": labels,
        "unknown": [()] * len(labels),
        "start": 0.0,
        "end": np.nan,
        "collection": "c",
        "split": split,
    }
    return Clips(pandas.DataFrame(columns))


def test_training_labels_are_hidden_and_no_others():
    whole = [("Bark", "Dog", "Domestic_animals_and_pets", "Animal")] * 400
    clips = table(whole, ["train", "eval"] * 200)
    hidden = hide(clips, 0.25, 0)
    assert hidden.labels[1::2] == whole[1::2]
    left = np.array([len(names) for names in hidden.labels[::2]])
    assert 0.7 < left.mean() / 4 < 0.8
    assert left.min() >= 1
    assert hide(clips, 1.0, 0).labels[0] != ()
    assert hidden.labels == hide(clips, 0.25, 0).labels


def test_what_enhancement_could_find_at_best():
    truth = table([("Bark", "Dog", "Animal"), ("Rain", "Bark")], ["train"] * 2)
    given = table([("Animal",), ("Rain",)], ["train"] * 2)
    assert reachable(truth, given) == 0  # Dog is two levels below Animal, Rain says nothing of Bark
    assert reachable(truth, table([("Bark",), ("Rain",)], ["train"] * 2)) == 2


@pytest.mark.slow
def test_the_whole_way(shared_data, tmp_path):
    few = ["optim.epochs=2", "keep_epochs=2", "optim.warmup_steps=2"]
    results = run(shared_data, tmp_path, 60, few, False, 0)
    assert set(results["restored"]) == {"hidden", "mean", "median", "p25", "p10", "p5"}
    assert results["restored"]["mean"]["recall"] <= results["restored"]["p5"]["recall"]
    assert 0 < results["eval"]["student, mean weights"]["mAP"] <= 1
    assert (tmp_path / "results.json").is_file()
