"""Vocabularies and the ontology, against the label files of the field."""

import csv
import json

import numpy as np
import pytest

from atgnn.errors import AtgnnError, LabelError
from atgnn.labels import Label, Node, Ontology, Vocabulary, most_specific


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.audioset()


def names_of(ontology: Ontology, mids: tuple[str, ...]) -> set[str]:
    return {ontology[mid].name for mid in mids}


def test_packaged_vocabularies_are_the_official_ones(shared_data):
    """Same labels in the same order as the original files, identifiers included."""
    for vocabulary, file in (
        (Vocabulary.audioset(), "audioset_class_labels_indices.csv"),
        (Vocabulary.fsd50k(), "fsd50k_class_labels_indices.csv"),
    ):
        with (shared_data / "labels" / file).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [(label.name, label.mid) for label in vocabulary] == [
            (row["display_name"], row["mid"]) for row in rows
        ]


def test_packaged_ontology_is_the_official_one(shared_data, ontology):
    original = Ontology.from_json(shared_data / "labels" / "audioset_ontology.json")
    assert len(original) == len(ontology) == 632
    assert list(original) == list(ontology)
    assert sum(node.restrictions == ("abstract",) for node in ontology) == 22


def test_vocabulary_sizes_and_presets():
    assert len(Vocabulary.audioset()) == 527
    assert Vocabulary.audioset()[0] == Label(name="Speech", mid="/m/09x0r")
    assert len(Vocabulary.fsd50k()) == 200
    bark = Vocabulary.fsd50k()[Vocabulary.fsd50k().index("Chirp_and_tweet")]
    assert bark.mid == "/m/07pggtn"
    assert bark.title == "Chirp, tweet"


def test_reads_fsd50k_vocabulary_without_a_header(shared_data):
    read = Vocabulary.from_csv(shared_data / "labels" / "fsd50k_vocabulary_derived.csv")
    assert read == Vocabulary.fsd50k()


def test_reads_a_label_file_in_index_order(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text('index,mid,display_name\n1,/m/05tny_,Bark\n0,,"My own, sound"\n')
    vocabulary = Vocabulary.from_csv(file)
    assert vocabulary.names == ("My own, sound", "Bark")
    assert vocabulary.mids == (None, "/m/05tny_")


def test_every_label_of_the_clips_has_its_identifier(shared_data):
    with (shared_data / "labels" / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    vocabulary = Vocabulary.from_names(row["label"] for row in rows)
    assert vocabulary.mids == tuple(row["mid"] for row in rows)
    assert [label.title for label in vocabulary] == [row["audioset_name"] for row in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "not a label file"),
        ("", "not a label file"),
        ("0,Bark,/m/05tny_\n0,Dog,/m/0bt9lr\n", "index '0' of entry 2 is not new"),
        ("0,Bark,/m/05tny_\n2,Dog,/m/0bt9lr\n", "must be 0 to 1"),
        ("0,Bark,/m/05tny_\n1,Bark,/m/05tny_\n", "'Bark' is listed twice"),
        ("index,mid,display_name\n0,/m/05tny_\n", "has 2 columns, not 3"),
        ("index,mid,display_name\n", "at least one label"),
    ],
)
def test_a_bad_label_file_is_one_line(tmp_path, text, message):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        Vocabulary.from_csv(file)
    assert "\n" not in str(caught.value)


def test_a_missing_label_file_is_a_label_error(tmp_path):
    with pytest.raises(LabelError, match="cannot read"):
        Vocabulary.from_csv(tmp_path / "none.csv")
    (tmp_path / "long.csv").write_text(f"name\n{'x' * 200_000}\n")  # no cell of a CSV file is
    with pytest.raises(LabelError, match="cannot read"):
        Vocabulary.from_csv(tmp_path / "long.csv")
    with pytest.raises(LabelError, match=r"no vocabulary 'fsd5k': .*did you mean 'fsd50k'"):
        Vocabulary.named("fsd5k")


def test_index_and_the_nearest_name():
    vocabulary = Vocabulary.from_names(["Bark", "Chirp_and_tweet", "Rain"])
    assert vocabulary.index("Rain") == 2
    assert "Rain" in vocabulary
    assert "rain" not in vocabulary
    with pytest.raises(LabelError, match="did you mean 'Chirp_and_tweet'"):
        vocabulary.index("Chirp, tweet")
    with pytest.raises(LabelError, match=r"'Barc' is not among the 3 labels.*'Bark'"):
        vocabulary.index("Barc")
    with pytest.raises(LabelError) as caught:
        vocabulary.index("xyzzy")
    assert "did you mean" not in str(caught.value)
    assert isinstance(caught.value, AtgnnError)


def test_encode_has_three_states():
    vocabulary = Vocabulary.from_names(["Bark", "Dog", "Rain", "Wind"])
    targets = vocabulary.encode(["Bark", "Dog"], unknown=["Dog", "Rain"])
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [1, 1, np.nan, 0])
    with pytest.raises(LabelError, match="expected a list"):
        vocabulary.encode("Bark")
    with pytest.raises(LabelError, match="Cat"):
        vocabulary.encode(["Cat"])


def test_dict_round_trip_and_damage():
    vocabulary = Vocabulary.from_names(["Bark", "my own sound"])
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again != Vocabulary.from_names(["my own sound", "Bark"])
    for damaged in ({}, {"labels": [{"mid": "/m/05tny_"}]}, {"labels": [{"name": "a", "x": 1}]}):
        with pytest.raises(LabelError) as caught:
            Vocabulary.from_dict(damaged)
        assert "\n" not in str(caught.value)


def test_a_vocabulary_is_frozen_and_never_empty():
    with pytest.raises(LabelError, match="at least one"):
        Vocabulary([])
    with pytest.raises(LabelError, match="twice"):
        Vocabulary.from_names(["Bark", "Bark"])
    with pytest.raises(ValueError, match="frozen"):
        Vocabulary.fsd50k()[0].name = "other"


def test_resolve_accepts_any_spelling(ontology):
    for spelling in ("Chirp, tweet", "Chirp_and_tweet", "chirp and tweet", "/m/07pggtn"):
        assert ontology.resolve(spelling) == "/m/07pggtn"
    assert ontology.resolve("Crowing_and_cock-a-doodle-doo") == "/m/07qn5dc"
    assert all(ontology.find(label.name) == label.mid for label in Vocabulary.fsd50k())
    assert all(ontology.find(label.name) == label.mid for label in Vocabulary.audioset())
    assert "no such sound" not in ontology
    with pytest.raises(LabelError, match="did you mean 'Bark'"):
        ontology.resolve("Barkk")


def test_ancestors_follow_every_parent(ontology):
    assert names_of(ontology, ontology.parents("Tick")) == {"Clock", "Clicking"}
    above = names_of(ontology, ontology.ancestors("Tick"))
    assert {"Clock", "Mechanisms", "Clicking", "Onomatopoeia", "Sounds of things"} <= above
    assert names_of(ontology, ontology.ancestors("Bark")[:1]) == {"Dog"}, "nearest first"
    assert ontology.ancestors("Music") == ()
    assert "/m/05tny_" in ontology.children("Dog")
    assert "/m/05tny_" in ontology.descendants("Animal")
    assert "/m/05tny_" not in ontology.children("Animal")


def test_pairs_match_the_published_enhancement_rules(ontology):
    """Edges of nodes that are exactly [abstract] do not count."""

    def open_ancestors(mid: str) -> set[str]:
        found: set[str] = set()
        waiting = [mid]
        while waiting:
            for parent in ontology.parents(waiting.pop()):
                if ontology[parent].restrictions != ("abstract",) and parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return found

    for vocabulary, children, ancestors in (
        (Vocabulary.fsd50k(), 156, 304),
        (Vocabulary.audioset(), 378, 767),
    ):
        mids = set(vocabulary.mids)
        direct = [
            (mid, child)
            for mid in mids
            for child in ontology.children(mid)
            if child in mids and ontology[mid].restrictions != ("abstract",)
        ]
        assert len(direct) == children
        assert sum(len(open_ancestors(mid) & mids) for mid in mids) == ancestors


def test_ancestors_within_a_vocabulary_are_positions(ontology):
    vocabulary = Vocabulary.from_names(["Music", "Hi-hat", "own sound", "Cymbal", "Bark"])
    assert ontology.ancestors_within(vocabulary) == {0: (), 1: (0, 3), 2: (), 3: (0,), 4: ()}
    assert ontology.implied("Bass_drum", vocabulary) == (0,)
    assert ontology.implied("unheard of", vocabulary) == ()


def test_a_label_with_its_own_spelling_is_placed_by_its_identifier(ontology):
    vocabulary = Vocabulary([Label(name="Wuff", mid="/m/05tny_"), Label(name="Dog")])
    assert ontology.ancestors_within(vocabulary) == {0: (1,), 1: ()}


def test_most_specific_drops_ancestors_and_keeps_order():
    given = ["Music", "Rain", "Hi-hat", "Cymbal", "own sound", "Dog"]
    assert most_specific(given) == ["Rain", "Hi-hat", "own sound", "Dog"]
    assert most_specific([]) == []


def test_a_broken_ontology_is_refused(tmp_path):
    with pytest.raises(LabelError, match="missing child"):
        Ontology([Node(id="a", name="A", children=("b",))])
    with pytest.raises(LabelError, match="own ancestor"):
        Ontology([Node(id="a", name="A", children=("b",)), Node(id="b", name="B", children=("a",))])
    with pytest.raises(LabelError, match="twice"):
        Ontology([Node(id="a", name="A"), Node(id="a", name="B")])
    file = tmp_path / "ontology.json"
    for text in ("not json", "{}", '[{"id": 1}]'):
        file.write_text(text)
        if text == "{}":
            assert len(Ontology.from_json(file)) == 0
            continue
        with pytest.raises(LabelError, match="not an AudioSet ontology file"):
            Ontology.from_json(file)
