"""Our checkpoints in `transformers`: its pipeline gives the tagger's scores."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import LABELS, RATE, sound, tiny_checkpoint

from atgnn.checkpoint import Calibration
from atgnn.errors import AudioError
from atgnn.tagger import Tagger

transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("atgnn.hf")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    one = tiny_checkpoint(calibration=Calibration(scale=0.7, shift=-0.2))
    return one, one.save_pretrained(tmp_path_factory.mktemp("hf") / "model")


def scores(pipe, wave):
    found = {one["label"]: one["score"] for one in pipe(wave, top_k=None)}
    return [found[label] for label in LABELS]


def test_the_pipeline_gives_the_taggers_scores(saved):
    pipe = transformers.pipeline("audio-classification", model=str(saved[1]))
    tagger = Tagger(saved[0], "cpu")
    for seconds in (0.02, 1.3, 2.0, 4.7):  # the last one in windows of 2, 2 and 0.7 s
        wave = sound(seconds, seed=2)
        expected = tagger.scores((wave, RATE))
        np.testing.assert_allclose(scores(pipe, wave), expected, atol=1e-4)


def test_parts_may_be_given(saved):
    model = hf.ATGNNForAudioClassification.from_pretrained(saved[1])
    extractor = transformers.AutoFeatureExtractor.from_pretrained(str(saved[1]))
    assert isinstance(extractor, hf.ATGNNFeatureExtractor)
    pipe = transformers.pipeline("audio-classification", model=model, feature_extractor=extractor)
    wave = sound(1.0)
    expected = Tagger(saved[0], "cpu").scores((wave, RATE))
    np.testing.assert_allclose(scores(pipe, wave), expected, atol=1e-4)
    batch = extractor([wave, sound(0.4)], sampling_rate=RATE, return_tensors="pt")
    assert batch["lengths"].tolist() == [RATE, round(0.4 * RATE)]
    found = model(**batch).logits.sigmoid().detach().numpy()
    alone = model(**extractor(sound(0.4), return_tensors="pt")).logits.sigmoid().detach().numpy()
    np.testing.assert_allclose(found, [expected, alone[0]], atol=1e-4)


def test_auto_classes_know_the_folder_and_it_survives_a_round_trip(saved, tmp_path):
    config = transformers.AutoConfig.from_pretrained(str(saved[1]))
    assert isinstance(config, hf.ATGNNConfig)
    assert [config.id2label[i] for i in range(len(LABELS))] == list(LABELS)
    assert config.num_labels == len(LABELS)
    assert config.problem_type == "multi_label_classification"
    model = transformers.AutoModelForAudioClassification.from_pretrained(str(saved[1]))
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (saved[1] / name).read_bytes()


def test_exclusive_labels_add_up_to_one(tmp_path):
    one = tiny_checkpoint(activation="softmax")
    folder = one.save_pretrained(tmp_path / "model")
    pipe = transformers.pipeline("audio-classification", model=str(folder))
    wave = sound(3.0)
    found = scores(pipe, wave)
    assert sum(found) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found, Tagger(one, "cpu").scores((wave, RATE)), atol=1e-4)


def test_a_folder_of_before_loads_by_its_class(saved, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    config = json.loads((saved[1] / "config.json").read_text())
    del config["model_type"]
    (old / "config.json").write_text(json.dumps(config))
    (old / "model.safetensors").write_bytes((saved[1] / "model.safetensors").read_bytes())
    model = hf.ATGNNForAudioClassification.from_pretrained(old)
    assert model.config.num_labels == len(LABELS)


def test_bad_sound_is_one_clear_line(saved):
    extractor = hf.ATGNNFeatureExtractor.from_pretrained(str(saved[1]))
    with pytest.raises(AudioError, match="samples at 8000 Hz, this model takes 16000 Hz"):
        extractor(sound(1), sampling_rate=8000)
    with pytest.raises(AudioError, match=r"expected mono samples"):
        extractor(np.zeros((2, 100), np.float32))
    with pytest.raises(AudioError, match=r"expected mono samples"):
        extractor([])


def test_without_the_library_the_extra_is_named():
    code = "import sys; sys.modules['transformers'] = None; import atgnn.hf"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith('`pip install ".[transformers]"`')
