"""Label enhancement: the published rules one by one, and hidden labels that come back."""

import csv
import math

import numpy as np
import pandas
import pytest
import torch
from helpers import RATE, write
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import ClipsError, ConfigError
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.labels import Node, Ontology, Vocabulary
from atgnn.scoring import ScoresError, ScoreTable
from atgnn.training.enhance import NO_SOURCES, Relations, enhance, label_thresholds, recovery

# Things > Animal > Dog > Bark, Animal > Cat; Voice is abstract, between Things and Speech.
NODES = [
    ("t", "Things", ["a", "v"], []),
    ("a", "Animal", ["d", "c"], ["blacklist"]),
    ("d", "Dog", ["b"], []),
    ("b", "Bark", [], []),
    ("c", "Cat", [], []),
    ("v", "Voice", ["s"], ["abstract"]),
    ("s", "Speech", [], []),
]
SMALL = Ontology(
    Node(id=i, name=name, children=children, restrictions=limits)
    for i, name, children, limits in NODES
)
NAMES = ("Animal", "Bark", "Cat", "Dog", "Speech", "Things", "Voice")
ANIMAL, BARK, CAT, DOG, SPEECH, THINGS, VOICE = range(7)
MIDS = {"Animal": "a", "Bark": "b", "Cat": "c", "Dog": "d"} | {
    "Speech": "s",
    "Things": "t",
    "Voice": "v",
}
WORDS = Vocabulary.from_names(NAMES, MIDS)


def table(labels, unknown=None, split=None):
    columns = {
        "path": [f"/nowhere/{row}.wav" for row in range(len(labels))],
        "labels": [tuple(one) for one in labels],
        "unknown": [tuple(one) for one in unknown or [()] * len(labels)],
        "start": 0.0,
        "end": np.nan,
        "collection": "c",
    }
    if split is not None:
        columns["split"] = split
    return Clips(pandas.DataFrame(columns))


def scored(clips, values, names=NAMES):
    paths = [str(path) for path in clips.paths]
    empty = np.zeros(len(paths))
    return ScoreTable(paths, empty, np.full(len(paths), np.nan), names, values)


def enhanced(labels, values, **more):
    clips = table(labels, more.pop("unknown", None), more.pop("split", None))
    return enhance(clips, scored(clips, values), vocabulary=WORDS, ontology=SMALL, **more)


def scores(rows, **given):
    """Scores (rows, 7): 0 but for ``name=[value a row]``."""
    values = np.zeros((rows, len(NAMES)))
    for name, column in given.items():
        values[:, NAMES.index(name)] = column
    return values


# ---------------------------------------------------------------------- relations


@pytest.mark.parametrize(
    ("vocabulary", "children", "ancestors"),
    [(Vocabulary.fsd50k(), 156, 304), (Vocabulary.audioset(), 378, 767)],
    ids=["fsd50k", "audioset"],
)
def test_the_real_ontology_has_the_published_pairs(vocabulary, children, ancestors):
    graph = Ontology.audioset()
    assert sum(node.restrictions == ("abstract",) for node in graph) == 22
    found = Relations.of(vocabulary, no_sources=())
    assert sum(map(len, found.children)) == children
    assert sum(map(len, found.ancestors)) == ancestors
    assert len(found) == children + ancestors


def test_fsd50k_s_exceptions():
    words, found = Vocabulary.fsd50k(), Relations.of(Vocabulary.fsd50k())
    assert (sum(map(len, found.children)), sum(map(len, found.ancestors))) == (138, 300)
    exceptions = {words.mids.index(mid) for mid in NO_SOURCES}
    assert len(exceptions) == 5
    reached = {other for others in (*found.children, *found.ancestors) for other in others}
    never = {words.names[place] for place in exceptions - reached}
    assert never == {"Human_voice", "Human_group_actions", "Respiratory_sounds"}
    for place in exceptions:
        assert found.children[place] == found.ancestors[place] == ()


def test_names_alone_give_the_same_relations():
    for words in (Vocabulary.fsd50k(), Vocabulary.audioset()):
        assert Relations.of(Vocabulary.from_names(words.names)) == Relations.of(words)


def test_abstract_nodes_lead_nowhere_and_blacklisted_ones_do():
    found = Relations.of(WORDS, SMALL)
    assert found.children[ANIMAL] == (DOG, CAT)
    assert found.children[THINGS] == (ANIMAL, VOICE)
    assert found.children[VOICE] == ()
    assert set(found.ancestors[BARK]) == {DOG, ANIMAL, THINGS}
    assert found.ancestors[SPEECH] == ()  # Voice leads nowhere, so Things is out of reach
    unknown = Relations.of(Vocabulary.from_names(["My machine", "Bark"]))
    assert unknown.children == unknown.ancestors == ((), ())


# ---------------------------------------------------------------------- rules


def test_children_are_added_one_level_down_and_ancestors_all_the_way_up():
    labels = [["Animal"], ["Bark"], ["Bark"], ["Dog"], ["Animal"], ["Things"]]
    high = scores(6, Animal=0.9, Bark=0.9, Dog=0.9, Things=0.9)
    for name in ("Animal", "Bark", "Dog", "Things"):  # the carriers score low: the threshold
        for row, names in enumerate(labels):
            if name in names:
                high[row, NAMES.index(name)] = 0.5
    result = enhanced(labels, high)
    got = [set(names) for names in result.clips.labels]
    assert got[0] == {"Animal", "Dog", "Things"}  # no Bark: two levels down; no cascade
    assert got[1] == {"Bark", "Dog", "Animal", "Things"}
    assert got[3] == {"Dog", "Bark", "Animal", "Things"}
    assert got[5] == {"Things", "Animal"}  # Voice: no clip, so no threshold
    assert result.type1[DOG] == 2  # both Animals
    assert result.type2[DOG] == 2  # both Barks
    assert result.added[DOG] == 4
    assert "Voice" in result.without_clips
    assert math.isnan(result.thresholds[VOICE])
    assert result.clips.labels[1][0] == "Bark"  # the original labels come first


def test_thresholds_are_strict_and_of_the_carriers_alone():
    labels = [["Dog"], ["Dog"], ["Animal"], ["Animal"]]
    values = scores(4, Dog=[0.2, 0.6, 0.4, 0.41], Animal=[0, 0, 1, 1])
    result = enhanced(labels, values)
    assert result.thresholds[DOG] == pytest.approx(0.4, abs=1e-6)
    assert result.clips.labels[2] == ("Animal",)  # equal is not above
    assert result.clips.labels[3] == ("Animal", "Dog")


@pytest.mark.parametrize(
    ("method", "expected"),
    [("mean", 0.5), ("median", 0.3), ("p25", 0.2), ("p10", 0.14), ("p5", 0.12)],
)
def test_the_published_statistics(method, expected):
    carried = np.array([0.1, 0.2, 0.3, 0.9, 1.0])
    targets = np.array([[1], [1], [1], [1], [1], [0], [np.nan]], np.float32)
    given = np.concatenate([carried, [7, 7]])[:, None]
    np.testing.assert_allclose(label_thresholds(targets, given, method), [expected], atol=1e-9)
    assert np.isnan(label_thresholds(targets[5:], given[5:], method)).all()


def test_what_is_unknown_may_be_added_and_stays_unknown_otherwise():
    labels = [["Dog"], ["Animal"], ["Animal"]]
    values = scores(3, Dog=[0.3, 0.5, 0.1], Animal=[0, 1, 1])
    result = enhanced(labels, values, unknown=[[], ["Dog", "Cat"], ["Dog"]])
    assert result.clips.labels[1:] == [("Animal", "Dog"), ("Animal",)]
    assert list(result.clips.table["unknown"])[1:] == [("Cat",), ("Dog",)]


def test_only_training_rows_change_and_only_they_set_thresholds():
    labels = [["Dog"], ["Animal"], ["Animal"], ["Dog"]]
    values = scores(4, Dog=[0.3, 0.5, 0.5, 1.0], Animal=1)
    result = enhanced(labels, values, split=["train", "train", "val", "val"])
    assert result.clips.labels[1:3] == [("Animal", "Dog"), ("Animal",)]
    assert result.thresholds[DOG] == pytest.approx(0.3, abs=1e-6)
    assert (result.training, result.changed) == (2, 1)
    only = scored(table(labels), values)
    part = ScoreTable(only.paths[:2], only.starts[:2], only.ends[:2], NAMES, only.values[:2])
    whole = table(labels, split=["train", "train", "val", "val"])
    again = enhance(whole, part, vocabulary=WORDS, ontology=SMALL)  # others need no scores
    assert again.clips.labels == result.clips.labels
    other = enhanced(labels, values, split=["a", "b", "c", "c"], splits=["a", "b"])
    assert other.training == 2


# ---------------------------------------------------------------------- bad input


def test_scores_that_do_not_fit():
    clips = table([["Dog"], ["Animal"]])
    good = scored(clips, scores(2))
    with pytest.raises(ScoresError, match="1 of 3 clips have no scores"):
        enhance(table([["Dog"]] * 3), good)
    with pytest.raises(ClipsError, match="'Cello' is not among the 7 labels"):
        enhance(table([["Cello"], ["Dog"]]), good)
    with pytest.raises(ScoresError, match=r"lack .* of 200 labels"):
        enhance(clips, good, vocabulary=Vocabulary.fsd50k())
    with pytest.raises(ConfigError, match="'p30': choose from mean, median, p25"):
        enhance(clips, good, method="p30")
    with pytest.raises(ClipsError, match=r"split train or .*; there are: dev, test; .*--split"):
        enhance(table([["Dog"], ["Animal"]], split=["dev", "test"]), good)


# ---------------------------------------------------------------------- labels come back

LEAVES = {"Bark": 700.0, "Meow": 1500.0, "Guitar": 330.0, "Siren": 2600.0, "Rain": None}


def synthetic(rng, clips):
    """Clips of one or two tones or noise, (N, samples), with all their labels."""
    time = np.arange(RATE // 2) / RATE
    waves, labels = [], []
    graph, names = Ontology.audioset(), set()
    for _ in range(clips):
        chosen = rng.choice(list(LEAVES), rng.integers(1, 3), replace=False)
        wave = 0.01 * rng.standard_normal(len(time))
        for leaf in chosen:
            if LEAVES[leaf] is None:
                wave += 0.1 * rng.standard_normal(len(time))
            else:
                wave += 0.2 * np.sin(2 * np.pi * LEAVES[leaf] * rng.uniform(0.93, 1.07) * time)
        above = {graph[mid].name for leaf in chosen for mid in graph.ancestors(leaf)}
        labels.append(sorted({*chosen, *above}))
        names |= {*labels[-1]}
        waves.append(wave)
    return np.array(waves, np.float32), labels, sorted(names & set(Vocabulary.audioset().names))


def hide(labels, rng, share):
    """Leave out some of what is there, never all of a clip."""
    return [
        [name for name in names if rng.random() >= share] or [names[rng.integers(len(names))]]
        for names in labels
    ]


def linear_teacher(waves, targets):
    """Probabilities of a logistic regression on the mean log-mel spectrum, in 32 bands."""
    features, _ = FrontEnd(FrontEndConfig())(torch.from_numpy(waves), None)
    inputs = features.mean(1).unflatten(1, (32, 4)).amax(2).numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    columns = [model.fit(inputs, column).predict_proba(inputs)[:, 1] for column in targets.T]
    return np.stack(columns, 1)


def test_hidden_labels_come_back():
    rng = np.random.default_rng(0)
    waves, whole, names = synthetic(rng, 400)
    whole = [[name for name in one if name in names] for one in whole]
    given = table(hide(whole, rng, 0.25))
    words = Vocabulary.from_names(names)
    teacher = scored(given, linear_teacher(waves, given.targets(words)), names)
    back = {}
    for method in ("mean", "p25", "p5"):
        result = enhance(given, teacher, method=method)
        back[method] = recovery(table(whole), given, result.clips)
        assert back[method].added == result.added.sum()
    assert back["mean"].hidden > 300
    for method, least in (("mean", 0.2), ("p25", 0.4), ("p5", 0.7)):
        assert back[method].recall > least, method
        assert back[method].precision > 0.95, method
    assert back["mean"].recall < back["p25"].recall < back["p5"].recall
    guesses = scored(given, rng.random((len(given), len(names))), names)
    blind = recovery(table(whole), given, enhance(given, guesses).clips)
    assert blind.precision < 0.8  # the ontology alone does not know


def test_the_command(tmp_path):
    rows = ["path,labels,split"]
    for row, labels in enumerate(("Dog;Bark", "Dog", "Dog", "Bark")):
        write(tmp_path / f"{row}.wav")
        rows.append(f"{row}.wav,{labels},{'val' if row == 2 else 'train'}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    clips = Clips.read(tmp_path / "clips.csv")
    values = [[0.5, 0.5], [0.6, 0.5], [0.9, 0.9], [0.5, 0.9]]
    scored(clips, values, ("Bark", "Dog")).write(tmp_path / "s.parquet")
    command = ["enhance", "--clips", str(tmp_path / "clips.csv")]
    command += ["--scores", str(tmp_path / "s.parquet"), "--out", str(tmp_path / "new.csv")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 labels added to 2 of 3 training clips, 1 other clips unchanged" in result.output
    assert Clips.read(tmp_path / "new.csv").labels == [
        ("Dog", "Bark"),
        ("Dog", "Bark"),
        ("Dog",),
        ("Bark", "Dog"),
    ]
    with (tmp_path / "new.report.csv").open(newline="") as file:
        report = {row["label"]: row for row in csv.DictReader(file)}
    assert report["Bark"]["added_as_child"] == report["Dog"]["added_as_ancestor"] == "1"
    assert float(report["Bark"]["threshold"]) == pytest.approx(0.5)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "--force" in again.output
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


def test_an_enhanced_table_trains_from_packed_sounds_alone(tmp_path):
    pytest.importorskip("lightning")
    from atgnn.data.store import PackedWaveforms
    from atgnn.training.division import divide
    from atgnn.training.loaders import make_loaders
    from atgnn.training.recipe import load_recipe

    for row in range(4):
        write(tmp_path / "sounds" / f"{row}.wav", np.full(RATE, row / 10, np.float32))
    (tmp_path / "clips.csv").write_text(
        "path,labels,split\n" + "".join(f"sounds/{r}.wav,Dog,train\n" for r in range(4))
    )
    clips = Clips.read(tmp_path / "clips.csv")
    PackedWaveforms.write(clips, tmp_path / "packed", RATE)
    scored(clips, np.full((4, 2), 0.5), ("Bark", "Dog")).write(tmp_path / "s.parquet")
    command = ["enhance", "--clips", str(tmp_path / "packed"), "--out", str(tmp_path / "new.csv")]
    assert (
        CliRunner().invoke(app, [*command, "--scores", str(tmp_path / "s.parquet")]).exit_code == 0
    )
    for row in range(4):
        (tmp_path / "sounds" / f"{row}.wav").unlink()
    recipe = [f"data.clips={tmp_path / 'new.csv'}", "data.validation_share=0"]
    with pytest.raises(ClipsError, match="names 4 sound files, 4 not there"):
        divide(load_recipe("folder", recipe))
    packed = load_recipe("folder", [*recipe, f"data.packed={tmp_path / 'packed'}"])
    loader, _ = make_loaders(packed, divide(packed))
    levels = {int(loader.dataset.waveforms[row][0]) for row in range(4)}
    assert len(levels) == 4
