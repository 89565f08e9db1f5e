"""Models of `transformers` score as they do there, in windows, whatever they are batched with."""

import json
import sys

import numpy as np
import pytest
from helpers import sound, write
from other_models import LABELS, save_ast, save_wav2vec2
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.errors import CheckpointError, ConfigError, MissingExtraError
from atgnn.others.huggingface import HuggingFaceScorer
from atgnn.scoring import ScoreTable
from atgnn.tags import Failure

transformers = pytest.importorskip("transformers", reason='pip install ".[transformers]"')


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    return save_ast(tmp_path_factory.mktemp("ast"))


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


def by_pipeline(folder, samples):
    """What `transformers` itself says, by label."""
    pipe = transformers.pipeline("audio-classification", model=str(folder), device="cpu")
    return {one["label"]: one["score"] for one in pipe(samples, top_k=None)}


@pytest.mark.parametrize("kind", ["ast", "wav2vec2"])
def test_one_window_scores_as_in_transformers(kind, request):
    folder = request.getfixturevalue(kind)
    scorer = HuggingFaceScorer.from_pretrained(f"hf:{folder}", "cpu")
    samples = sound(1, seed=3)
    expected = by_pipeline(folder, samples)
    found = dict(zip(scorer.labels, scorer.scores((samples, 16_000)).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    total = sum(found.values())
    assert (abs(total - 1) < 1e-5) == (scorer.activation == "softmax")


def test_windows_are_what_the_model_takes(ast, wav2vec2):
    assert HuggingFaceScorer.from_pretrained(ast).window_seconds == pytest.approx(1.295)
    assert HuggingFaceScorer.from_pretrained(wav2vec2).window_seconds == 10
    assert HuggingFaceScorer.from_pretrained(wav2vec2, window_seconds=2).window_seconds == 2


def test_a_long_clip_is_the_mean_of_its_windows(ast):
    scorer = HuggingFaceScorer.from_pretrained(ast, "cpu", window_seconds=1)
    samples = sound(2.5, seed=1)
    parts = [samples[:16_000], samples[16_000:32_000], samples[32_000:]]
    each = [[by_pipeline(ast, part)[label] for label in LABELS] for part in parts]
    expected = np.average(each, axis=0, weights=[2, 2, 1])
    np.testing.assert_allclose(scorer.scores((samples, 16_000)), expected, atol=1e-5)


def test_what_a_clip_is_batched_with_changes_nothing(wav2vec2):
    scorer = HuggingFaceScorer.from_pretrained(wav2vec2, "cpu")
    clips = [(sound(seconds, seed=n), 16_000) for n, seconds in enumerate((1, 0.02, 1, 0.7, 1))]
    alone = [scorer.scores(clip) for clip in clips]
    together = [one.mean for one in scorer.score_many(clips, batch_size=5)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_other_rates_are_resampled(ast):
    scorer = HuggingFaceScorer.from_pretrained(ast, "cpu")

    def tone(rate):
        return np.sin(2 * np.pi * 500 * np.arange(rate) / rate).astype(np.float32), rate

    np.testing.assert_allclose(scorer.scores(tone(44_100)), scorer.scores(tone(16_000)), atol=0.02)


@pytest.mark.parametrize(
    ("names", "problem", "expected"),
    [
        (LABELS, None, "sigmoid"),  # AudioSet's classes, as in MIT's AST: independent
        (("yes", "no"), None, "softmax"),
        (LABELS, "single_label_classification", "softmax"),
    ],
)
def test_the_activation_is_what_the_model_says(tmp_path, names, problem, expected):
    folder = save_ast(tmp_path / "m", names, problem)
    assert HuggingFaceScorer.from_pretrained(folder).activation == expected
    assert HuggingFaceScorer.from_pretrained(folder, activation="sigmoid").activation == "sigmoid"


def test_a_model_of_numbers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="predicts numbers"):
        HuggingFaceScorer.from_pretrained(save_ast(tmp_path / "m", problem="regression"))


def test_what_is_no_such_model_is_one_line(ast, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "code").mkdir()
    config = {"model_type": "ced", "auto_map": {"AutoConfig": "their_code.Config"}}
    (tmp_path / "code" / "config.json").write_text(json.dumps(config))
    (tmp_path / "code" / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": {"AutoFeatureExtractor": "their_code.Extractor"}})
    )
    encoder = tmp_path / "encoder"
    transformers.ASTModel.from_pretrained(ast).save_pretrained(encoder)
    transformers.ASTFeatureExtractor.from_pretrained(ast).save_pretrained(encoder)
    for name, words in (
        ("hf:no-such-folder", "give a folder, or a name on the hub"),
        (tmp_path / "empty", "cannot be loaded"),
        (tmp_path / "code", "brings code of its own.*atgnn import"),
        (encoder, "lacks weights, such as classifier"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            HuggingFaceScorer.from_pretrained(name)
        assert "\n" not in str(caught.value)


def test_commands_that_need_a_checkpoint_say_what_to_do():
    result = CliRunner().invoke(app, ["tag", "a.wav", "--model", "hf:MIT/ast"])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "`atgnn score hf:MIT/ast CLIPS --out FILE`" in result.output


def test_without_the_extra_its_name_is_said(ast, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[transformers\]"'):
        HuggingFaceScorer.from_pretrained(ast)


def test_bad_clips_are_failures(ast, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    scorer = HuggingFaceScorer.from_pretrained(ast, "cpu")
    good = write(tmp_path / "good.wav", sound(1))
    first, second = scorer.score_many([tmp_path / "bad.wav", good], on_error="collect")
    assert isinstance(first, Failure)
    assert second.windows.shape == (1, 3)


def test_the_command(ast, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", sound(1.5, seed=ord(name)))
    (tmp_path / "clips.csv").write_text("path,labels\na.wav,Dog\nb.wav,Rain\n")
    out = tmp_path / "s.parquet"
    command = ["score", f"hf:{ast}", str(tmp_path / "clips.csv"), "--to", "fsd50k"]
    command += ["--window", "1", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 clips x 3 labels" in result.output
    table = ScoreTable.read(out)
    assert table.labels == ("Chirp_and_tweet", "Dog", "Rain")
    assert (table.activation, table.source) == ("sigmoid", f"hf:{ast}")
    scorer = HuggingFaceScorer.from_pretrained(ast, "cpu", window_seconds=1)
    np.testing.assert_allclose(
        table.values[0], scorer.scores(tmp_path / "a.wav")[[1, 0, 2]], atol=1e-5
    )
    idle = CliRunner().invoke(app, [*command, "--force", "--precision", "bfloat16"])
    assert "--precision does nothing with hf:" in idle.output
    ours = [
        "score",
        "everyday-mini",
        str(tmp_path),
        "--window",
        "1",
        "--out",
        str(out) + "2.parquet",
    ]
    assert "--window does nothing without hf:" in CliRunner().invoke(app, ours).output
