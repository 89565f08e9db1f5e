"""The issue's list of bad input, through ``atgnn tag`` and from Python.

Each gives one clear line (and exit code 1) or a defined result. Recipes are in test_training.py,
clips that are longer than their file in test_clips.py and, as excerpts, here.
"""

import io
import json

import numpy as np
import pytest
import soundfile
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import AudioError, CheckpointError, ClipsError, ConfigError, LabelError
from atgnn.labels import Vocabulary
from atgnn.model import preset
from atgnn.tagger import Excerpt, Tagger


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture(scope="module")
def tagger(model):
    return Tagger.from_pretrained(model, "cpu")


def mp3(samples: np.ndarray, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="MP3")
    return out.getvalue()


def not_finite(value: float) -> np.ndarray:
    samples = sound(1)
    samples[500] = value
    return samples


def bad(folder, name):
    """Make the bad file `name` and return its path."""
    path = folder / f"{name}.wav"
    if name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("This is a text, called .wav by mistake.\n" * 20)
    elif name == "no-samples":
        write(path, np.zeros(0, np.float32))
    elif name == "nan":
        write(path, not_finite(np.nan), subtype="FLOAT")
    elif name == "infinite":
        write(path, not_finite(np.inf), subtype="DOUBLE")
    elif name == "header-only":
        path.write_bytes(write(path).read_bytes()[:20])
    elif name == "mp3-of-a-few-bytes":
        path = path.with_suffix(".mp3")
        path.write_bytes(mp3(sound(3))[:40])
    elif name == "random-bytes":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif name == "folder-of-texts":
        path = folder / "texts"
        path.mkdir()
        (path / "a.txt").write_text("no sound here")
    return path


BAD = {
    "missing": "no such file",
    "empty": "empty",
    "text": "holds text",
    "no-samples": "no samples",
    "nan": "NaN",
    "infinite": "infinite",
    "header-only": "cannot be decoded|no samples",
    "mp3-of-a-few-bytes": "cannot be decoded|no samples",
    "random-bytes": "cannot be decoded|no samples",
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line_and_the_good_one_still_comes(name, model, tagger, tmp_path):
    path, good = bad(tmp_path, name), write(tmp_path / "good.wav")
    with pytest.raises(AudioError, match=BAD[name]) as caught:
        tagger.tag(path)
    assert path.name in str(caught.value)
    arguments = ["tag", str(path), str(good), "--model", str(model), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"atgnn: {caught.value}"]
    (one,) = map(json.loads, result.stdout.splitlines())
    assert one["path"] == str(good)


def test_a_directory_without_sounds(model, tagger, tmp_path):
    path = bad(tmp_path, "folder-of-texts")
    result = CliRunner().invoke(app, ["tag", str(path), "--model", str(model)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "no sounds in this folder" in line
    with pytest.raises(AudioError, match="is a folder"):
        tagger.tag(path)


def samples_of(name: str) -> tuple[np.ndarray, int]:
    if name == "silence":
        return np.zeros(3 * RATE, np.float32), RATE
    if name == "one sample":
        return np.full(1, 0.5, np.float32), RATE
    if name == "8 kHz":
        return sound(1.5, 8000), 8000
    if name == "192 kHz":
        return sound(1.5, 192_000), 192_000
    assert name == "8 channels"
    return np.stack([sound(1.5, seed=i) for i in range(8)], axis=1), RATE


@pytest.mark.parametrize("name", ["silence", "one sample", "8 kHz", "192 kHz", "8 channels"])
@pytest.mark.filterwarnings("ignore::atgnn.tagger.BandWarning")
def test_a_defined_result(name, model, tagger, tmp_path):
    samples, rate = samples_of(name)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    scores = tagger.scores(path)
    assert scores.shape == (len(LABELS),)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(tagger.scores((samples, rate)), scores, atol=1e-5)
    result = CliRunner().invoke(app, ["tag", str(path), "--model", str(model), "--json"])
    assert result.exit_code == 0
    one = json.loads(result.stdout)
    assert one["duration"] == pytest.approx(len(samples) / rate, abs=1e-3)
    assert one["tags"]


def test_channels_are_averaged(tagger):
    channels, rate = samples_of("8 channels")
    mean = (channels.mean(axis=1), rate)
    np.testing.assert_allclose(tagger.scores((channels, rate)), tagger.scores(mean), atol=1e-4)


def test_a_truncated_mp3_gives_what_is_there_and_a_warning(model, tmp_path):
    whole = mp3(sound(8))
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    result = CliRunner().invoke(app, ["tag", str(path), "--model", str(model), "--json"])
    assert result.exit_code == 0
    assert 2 < json.loads(result.stdout)["duration"] < 6
    (line,) = result.stderr.splitlines()
    assert line.startswith("atgnn: warning: ")
    assert "cut.mp3: damaged" in line


def test_a_folder_that_is_no_checkpoint(tmp_path):
    write(tmp_path / "a.wav")
    for path in (tmp_path, tmp_path / "a.wav"):
        with pytest.raises(CheckpointError, match="checkpoint"):
            Checkpoint.from_pretrained(path)
    result = CliRunner().invoke(app, ["tag", "a.wav", "--model", str(tmp_path)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'pyr-s'"):
        preset("pyrs")


def test_a_label_outside_the_vocabulary(model, tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text("path,labels\na.wav,Barc\n")
    with pytest.raises(LabelError, match="did you mean 'Bark'"):
        Vocabulary.from_names(LABELS).index("Barc")
    arguments = ["evaluate", str(model), str(tmp_path / "clips.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "Barc" in line


def test_a_clip_longer_than_its_file(model, tagger, tmp_path):
    path = write(tmp_path / "a.wav", sound(2))
    (tmp_path / "clips.csv").write_text("path,labels,start,end\na.wav,Bark,0,5\n")
    with pytest.raises(ClipsError, match=r"lasts 2\.000 s"):
        Clips.read(tmp_path / "clips.csv")
    with pytest.raises(AudioError, match=r"lasts 2\.000 s"):
        tagger.tag(Excerpt(path, 0, 5))
    arguments = ["evaluate", str(model), str(tmp_path / "clips.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("everyday-min", "did you mean 'everyday-mini'"),
        ("pyr-s", "pyr-s is a preset, a layout without weights"),
    ],
)
def test_a_name_of_no_model_says_what_was_meant(name, message):
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.from_pretrained(name)


def test_a_place_that_fails_late_is_one_line(monkeypatch):
    def fail(folder):
        raise PermissionError(13, "Permission denied", "/locked")

    monkeypatch.setattr("atgnn.prepare.run.check", fail)
    result = CliRunner().invoke(app, ["prepare", "check", "/locked"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "/locked: Permission denied" in result.stderr


def test_a_run_folder_points_to_its_model(model):
    with pytest.raises(CheckpointError, match=r"did you mean .*model\?"):
        Checkpoint.from_pretrained(model.parent)
