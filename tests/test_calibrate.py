"""Calibration and thresholds: a distortion is undone, and little evidence counts little."""

import dataclasses
import json
import math

import numpy as np
import pandas
import pytest
from helpers import LABELS, sound, tiny_checkpoint, write
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from atgnn.calibrate import (
    CANDIDATES,
    Background,
    calibrate,
    fit_calibration,
    fit_thresholds,
    mean_f1,
)
from atgnn.calibrate.line import log_loss
from atgnn.checkpoint import Calibration, Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ClipsError, ConfigError
from atgnn.scoring import ScoresError, ScoreTable
from atgnn.tagger import Excerpt, Tagger


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(clips=4000, labels=3, seed=0):
    """Honest probabilities and the targets drawn from them."""
    rng = np.random.default_rng(seed)
    honest = sigmoid(rng.normal(-1.5, 2, (clips, labels)))
    return (rng.random(honest.shape) < honest).astype(np.float32), honest


def distorted(honest, scale, shift):
    """Scores which that scale and shift set right again."""
    return sigmoid((np.log(honest / (1 - honest)) - shift) / scale)


# ---------------------------------------------------------------------- calibration


def test_a_distortion_is_found_and_undone():
    targets, honest = drawn()
    line = fit_calibration(targets, distorted(honest, 0.5, 1.0), exclusive=False)
    assert line.scale == pytest.approx(0.5, abs=0.03)
    assert line.shift == pytest.approx(1.0, abs=0.1)
    restored = line.apply(distorted(honest, 0.5, 1.0))
    np.testing.assert_allclose(restored, honest, atol=0.05)


def test_the_fit_is_logistic_regression():
    targets, honest = drawn(500)
    scores = distorted(honest, 2.0, -1.0)
    logits = np.log(scores / (1 - scores)).reshape(-1, 1)
    other = LogisticRegression(C=1e9).fit(logits, targets.ravel())
    line = fit_calibration(targets, scores, exclusive=False)
    assert line.scale == pytest.approx(other.coef_[0, 0], rel=0.02)
    assert line.shift == pytest.approx(other.intercept_[0], abs=0.02)


def test_unknown_cells_take_no_part():
    targets, honest = drawn(1000)
    holes, scores = targets.copy(), distorted(honest, 0.5, 1.0)
    holes[::2] = np.nan
    expected = fit_calibration(targets[1::2], scores[1::2], exclusive=False)
    wild = scores.copy()
    wild[::2] = 0.999
    found = fit_calibration(holes, wild, exclusive=False)
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)


def test_perfect_scores_stay_finite_and_senseless_ones_in_order():
    targets = np.array([[1], [0], [1], [0]], np.float32)
    perfect = fit_calibration(targets, np.array([[0.9], [0.1], [0.8], [0.2]]), exclusive=False)
    assert 0 < perfect.scale < 100
    wrong = fit_calibration(targets, np.array([[0.1], [0.9], [0.2], [0.8]]), exclusive=False)
    assert wrong.scale == pytest.approx(1e-3)


def test_a_temperature_for_models_that_choose_one():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 5))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = np.eye(5, dtype=np.float32)[[rng.choice(5, p=row) for row in honest]]
    sure = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    line = fit_calibration(targets, sure, exclusive=True)
    assert line.scale == pytest.approx(1 / 3, abs=0.02)
    np.testing.assert_allclose(line.apply(sure, exclusive=True), honest, atol=0.05)
    np.testing.assert_allclose(line.apply(sure, exclusive=True).sum(1), 1)


# ---------------------------------------------------------------------- thresholds


def test_the_common_threshold_has_the_best_mean_f1():
    targets, honest = drawn(600)
    found = fit_thresholds(targets, honest, np.arange(600), math.inf)
    by_hand = [f1_score(targets, honest >= t, average="macro", zero_division=0) for t in CANDIDATES]
    ours = mean_f1(targets, honest >= found.common)
    assert ours == pytest.approx(max(by_hand), abs=1e-9)
    assert (found.values == found.common).all()
    assert not found.own.any()


def test_own_thresholds_need_ten_authors_and_lie_in_between():
    rng = np.random.default_rng(0)
    clips = 400
    targets = (rng.random((clips, 3)) < 0.3).astype(np.float32)
    scores = np.clip(0.3 * targets + 0.1 + 0.1 * rng.random((clips, 3)), 0, 1)
    scores[:, 1] = np.clip(scores[:, 1] + 0.5, 0, 1)  # wants a much higher threshold
    scores[:, 2] = scores[:, 1]
    authors = np.array([f"a{row}" for row in range(clips)], object)
    few = np.flatnonzero(targets[:, 2] == 1)
    targets[few, 2] = 0
    targets[few[:60], 2] = 1
    authors[few[:60]] = [f"b{row % 9}" for row in range(60)]  # nine authors of sixty clips
    found = fit_thresholds(targets, scores, authors, 20.0)
    alone = fit_thresholds(targets, scores, authors, 0.0)
    assert found.own.tolist() == [True, True, False]
    assert found.values[2] == found.common
    assert alone.values[1] > 0.7
    low, high = sorted((found.common, alone.values[1]))
    assert low < found.values[1] < high
    assert mean_f1(targets[:, :2], scores[:, :2] >= alone.values[:2]) == pytest.approx(1)


def test_labels_without_clips_do_not_count():
    targets, honest = drawn(300)
    targets[:, 1] = 0
    targets[:, 2] = np.nan
    found = fit_thresholds(targets, honest, np.arange(300), math.inf)
    only = fit_thresholds(targets[:, :1], honest[:, :1], np.arange(300), math.inf)
    assert found.common == only.common
    assert math.isnan(mean_f1(targets[:, 1:], honest[:, 1:] > 0.5))


# ---------------------------------------------------------------------- background


def silence(scores, absent=None, seconds=10.0, authors=None):
    """Background of windows of these scores."""
    count = len(scores)
    return Background(
        np.asarray(scores, np.float64),
        np.ones(scores.shape, bool) if absent is None else absent,
        np.full(count, seconds / 3600),
        np.array(authors or [f"s{row}" for row in range(count)]),
    )


@pytest.fixture(scope="module")
def noisy():
    """Three labels of a hundred authors; on 2 h of sound the first alarms often, the last never."""
    rng = np.random.default_rng(0)
    targets = (rng.random((600, 3)) < 0.3).astype(np.float32)
    scores = sigmoid(rng.normal(-2, 1, targets.shape) + 4 * targets)
    heard = sigmoid(rng.normal([0.0, -0.5, -6.0], 1, (720, 3)))
    return targets, scores, np.arange(600) % 100, silence(heard)


def test_thresholds_rise_no_more_than_keeps_alarms_under_the_limit(noisy):
    targets, scores, groups, background = noisy
    free = fit_thresholds(targets, scores, groups, 20.0, background)
    assert background.alarms_per_hour(free.values) > 10
    for most in (10.0, 2.0, 0.0):
        found = fit_thresholds(targets, scores, groups, 20.0, background, most)
        assert background.alarms_per_hour(found.values) <= most
        assert (found.values >= free.values).all()
        assert found.raised.tolist() == [True, True, False]
        assert found.values[2] == free.values[2]
        assert found.common == free.common
        if most:  # a step lower in all that were raised, and the limit is passed
            step = np.where(found.raised, 0.15, 0.0)
            lower = sigmoid(np.log(found.values / (1 - found.values)) - step)
            assert background.alarms_per_hour(lower) > most


def test_background_is_a_negative_like_others(noisy):
    targets, scores, groups, background = noisy
    without = fit_thresholds(targets, scores, groups, 20.0)
    found = fit_thresholds(targets, scores, groups, 20.0, background)
    assert found.values[0] > without.values[0] + 0.1
    assert not found.raised.any()
    by_hand = np.concatenate([targets, np.zeros_like(background.scores)])
    both = np.concatenate([scores, background.scores])
    names = np.concatenate([groups.astype(str), background.authors])
    np.testing.assert_array_equal(fit_thresholds(by_hand, both, names, 20.0).values, found.values)


def test_what_may_be_there_is_no_alarm(noisy):
    targets, scores, groups, background = noisy
    absent = np.ones_like(background.absent)
    absent[:, 0] = False  # nobody knows of the label that alarms
    unknown = dataclasses.replace(background, absent=absent)
    found = fit_thresholds(targets, scores, groups, 20.0, unknown, 1.0)
    assert found.values[0] == fit_thresholds(targets, scores, groups, 20.0, unknown).values[0]
    assert unknown.alarms_per_hour(found.values) <= 1


def test_one_threshold_is_raised_as_one(noisy):
    targets, scores, groups, background = noisy
    found = fit_thresholds(targets, scores, groups, math.inf, background, 1.0)
    assert len(set(found.values)) == 1
    assert background.alarms_per_hour(found.values) <= 1
    assert found.raised.all()


def test_labels_of_few_authors_are_raised_too(noisy):
    targets, scores, _, background = noisy
    found = fit_thresholds(targets, scores, np.arange(600) % 5, 20.0, background, 1.0)
    assert not found.own.any()
    assert found.raised.tolist() == [True, True, False]
    assert found.values[2] == found.common


def test_the_limit_holds_for_sound_that_nobody_has_heard():
    """Ten hours to fit to, a hundred to test on: close to the limit, and far below no limit."""
    rng = np.random.default_rng(5)
    targets = (rng.random((600, 4)) < 0.3).astype(np.float32)
    scores = sigmoid(rng.normal(-2, 1, targets.shape) + 4 * targets)
    draw = lambda hours: sigmoid(rng.normal(-1, 1, (360 * hours, 4)))  # noqa: E731
    found = fit_thresholds(targets, scores, np.arange(600), 20.0, silence(draw(10)), 5.0)
    assert silence(draw(100)).alarms_per_hour(found.values) < 8


def test_a_score_of_one_can_be_kept_out_and_a_limit_needs_background(noisy):
    targets, scores, groups, _ = noisy
    sure = silence(np.ones((5, 3)))
    found = fit_thresholds(targets, scores, groups, 20.0, sure, 0.0)
    assert sure.alarms_per_hour(found.values) == 0
    with pytest.raises(ConfigError, match="needs background"):
        fit_thresholds(targets, scores, groups, 20.0, None, 1.0)


# ---------------------------------------------------------------------- a checkpoint


def table(rows, authors=None):
    columns = {
        "path": [f"/n/{row}.wav" for row in range(len(rows))],
        "labels": [tuple(one) for one in rows],
        "unknown": [()] * len(rows),
        "start": 0.0,
        "end": np.nan,
        "collection": "c",
        "group": authors or [f"a{row}" for row in range(len(rows))],
    }
    return Clips(pandas.DataFrame(columns))


def scored(clips, values, labels=LABELS):
    paths = [str(path) for path in clips.paths]
    return ScoreTable(paths, np.zeros(len(paths)), np.full(len(paths), np.nan), labels, values)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    rows = [[name for name in ("Rain", "Siren") if rng.random() < 0.4] for _ in range(200)]
    clips = table(rows)
    truth = clips.targets(tiny_checkpoint().vocabulary)
    values = np.clip(0.1 * truth + 0.02 + 0.08 * rng.random(truth.shape), 0, 1)
    return calibrate(tiny_checkpoint(), scored(clips, values), clips)


def test_a_checkpoint_gets_thresholds_that_help(fitted):
    assert fitted.loss_after < fitted.loss_before
    assert fitted.f1["one threshold"] > fitted.f1["at 0.5"] - 1e-9
    assert fitted.thresholds.own.tolist() == [False, False, False, True, True]
    assert set(fitted.without_clips) == {"Animal", "Bark", "Dog"}
    assert "threshold 0." in fitted.summary()
    assert fitted.checkpoint.thresholds == tuple(fitted.thresholds.values)


def test_calibration_survives_the_disk_and_reaches_the_scores(fitted, tmp_path):
    again = Checkpoint.from_pretrained(fitted.checkpoint.save_pretrained(tmp_path / "m"))
    assert again.calibration == fitted.checkpoint.calibration
    assert again.thresholds == fitted.checkpoint.thresholds
    assert "calibrated" in (tmp_path / "m" / "README.md").read_text()
    wave = (sound(1), 16000)
    plain = Tagger(tiny_checkpoint(), "cpu").scores(wave)
    expected = again.calibration.apply(plain[None].astype(np.float64))[0]
    np.testing.assert_allclose(Tagger(again, "cpu").scores(wave), expected, atol=1e-5)


def test_what_would_be_fitted_wrongly_or_to_nothing_is_refused(fitted):
    clips = table([["Rain"], ["Siren"]])
    given = scored(clips, np.full((2, 5), 0.5))
    again = dataclasses.replace(given, calibrated=True, source="m")
    with pytest.raises(ScoresError, match="m are calibrated already"):
        calibrate(tiny_checkpoint(), ScoreTable.concat([again]), clips)
    with pytest.raises(ScoresError, match="softmax ones, the model gives sigmoid"):
        calibrate(tiny_checkpoint(), dataclasses.replace(given, activation="softmax"), clips)
    with pytest.raises(ConfigError, match="nothing to fit"):
        calibrate(tiny_checkpoint(), given, clips, calibration=False, thresholds=False)


def test_scores_know_whether_their_model_was_calibrated(fitted, tmp_path):
    write(tmp_path / "a.wav", sound(0.5))
    (tmp_path / "t.csv").write_text("path,labels\na.wav,Rain\n")
    clips = Clips.read(tmp_path / "t.csv")
    for model, known in ((fitted.checkpoint, True), (tiny_checkpoint(), False)):
        given = ScoreTable.of(Tagger(model, "cpu"), clips)
        assert ScoreTable.read(given.write(tmp_path / f"{known}.parquet")).calibrated is known
        assert ScoreTable.mean([given, given]).calibrated is known


def test_a_single_author_says_nothing_of_others():
    clips = table([["Rain"], ["Siren"], []], authors=["a"] * 3)
    fit = calibrate(tiny_checkpoint(), scored(clips, np.full((3, 5), 0.5)), clips)
    assert fit.f1 == {}
    assert "one author" in fit.summary()


def test_a_softmax_checkpoint_is_calibrated_too():
    labels = ("Rain", "Siren")
    checkpoint = tiny_checkpoint(labels, activation="softmax")
    checkpoint = checkpoint.changed(calibration=Calibration(scale=0.25))
    plain = Tagger(tiny_checkpoint(labels, activation="softmax"), "cpu").scores((sound(1), 16000))
    got = Tagger(checkpoint, "cpu").scores((sound(1), 16000))
    expected = Calibration(scale=0.25).apply(plain[None].astype(np.float64), exclusive=True)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_a_temperature_is_fitted_to_clips_of_one_label_alone():
    scores = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]])
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], float)
    others = np.array([[0, 0], [1, 1], [np.nan, 1]])  # none, two, and nobody knows
    wide = np.concatenate([targets, others]), np.concatenate([scores, scores[1:]])
    assert fit_calibration(*wide, True) == fit_calibration(targets, scores, True)
    assert log_loss(*wide, True) == log_loss(targets, scores, True)
    labels, rows = ("Rain", "Siren"), table([["Rain", "Siren"], []])
    values = dataclasses.replace(scored(rows, scores[:2], labels), activation="softmax")
    with pytest.raises(ClipsError, match="no clip has exactly one"):
        calibrate(tiny_checkpoint(labels, activation="softmax"), values, rows)


def test_scores_that_do_not_fit():
    clips = table([["Rain"], ["Dog"]])
    with pytest.raises(ScoresError, match="lack 5 of 5 labels"):
        calibrate(tiny_checkpoint(), scored(clips, np.zeros((2, 1)), ("Cello",)), clips)
    with pytest.raises(ScoresError, match="1 of 2 clips have no scores"):
        calibrate(tiny_checkpoint(), scored(clips.subset([0]), np.zeros((1, 5))), clips)
    with pytest.raises(ClipsError, match="'Cello' is not among"):
        calibrate(tiny_checkpoint(), scored(clips, np.zeros((2, 5))), table([["Cello"], []]))
    with pytest.raises(ClipsError, match="nothing to fit"):
        calibrate(tiny_checkpoint(), scored(clips, np.zeros((2, 5))), table([[], []]))


def test_the_command_joins_folds(tmp_path):
    rows = ["path,labels,fold,author"]
    for row in range(6):
        write(tmp_path / f"{row}.wav", sound(1, seed=row))
        rows.append(f"{row}.wav,{('Rain', 'Siren')[row % 2]},{row % 3},a{row}")
    (tmp_path / "c.csv").write_text("\n".join(rows) + "\n")
    model = tiny_checkpoint().save_pretrained(tmp_path / "model")

    def atgnn(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    files = []
    for fold in range(2):
        files += ["--scores", tmp_path / f"{fold}.parquet"]
        said = atgnn("score", model, tmp_path / "c.csv", "--fold", fold, "--out", files[-1])
        assert "2 clips x 5 labels" in said
    command = ["calibrate", model, "--clips", tmp_path / "c.csv", "--out", tmp_path / "new"]
    assert "2 of 6 clips have no scores" in atgnn(*command, *files, code=2)
    files += ["--scores", tmp_path / "2.parquet"]
    atgnn("score", model, tmp_path / "c.csv", "--fold", 2, "--out", files[-1])
    assert "mean F1 on authors left out: at 0.5" in atgnn(*command, *files)
    assert "--force" in atgnn(*command, *files, code=2)
    assert "in more than one file" in atgnn(*command, "--force", *files, *files[:2], code=2)
    new = Checkpoint.from_pretrained(tmp_path / "new")
    assert len(new.thresholds) == 5
    tags = Tagger(new, "cpu").tag(Excerpt(tmp_path / "0.wav"))
    assert all(tag.score >= new.thresholds[LABELS.index(tag.label)] for tag in tags)
    assert "no clip of fold 9" in atgnn(*command, "--fold", 9, "--force", *files, code=2)


# ---------------------------------------------------------------------- background of a model


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Six sounds without labels, of 1 to 5 s; the last is marked with a label of the model."""
    folder = tmp_path_factory.mktemp("quiet")
    rows = ["path,labels,unknown,author"]
    for row in range(6):
        write(folder / f"{row}.wav", sound(1 + row % 5, seed=20 + row))
        rows.append(f"{row}.wav,{'Rain' if row == 5 else ''},{'Dog' if row == 0 else ''},q{row}")
    (folder / "q.csv").write_text("\n".join(rows) + "\n")
    return Clips.read(folder / "q.csv")


def test_the_model_listens_window_by_window_before_calibration(quiet):
    calibrated = tiny_checkpoint().changed(calibration=Calibration(scale=0.5))
    heard = Background.of(calibrated, quiet)
    tagger = Tagger(tiny_checkpoint(), "cpu")
    expected = np.concatenate([one.windows for one in tagger.score_many(quiet.paths[:5])])
    np.testing.assert_allclose(heard.scores, expected, atol=1e-6)
    assert heard.hours.sum() * 3600 == pytest.approx(15)
    assert heard.absent[0].tolist() == [name not in ("Dog", "Animal") for name in LABELS]
    assert set(heard.authors) == {f"q{row}" for row in range(5)}
    packed = PackedWaveforms.write(quiet, quiet.paths[0].parent / "packed", 16000)
    np.testing.assert_allclose(Background.of(calibrated, packed).scores, expected, atol=1e-3)


def test_scores_of_other_models_count_where_there_are_some(quiet):
    short = quiet.subset([0, 1, 5])  # 1 s and 2 s: a window each
    values = np.full((3, 5), 0.25)
    given = Background.of(tiny_checkpoint(), short, scored(short, values))
    assert given.scores.tolist() == [[0.25] * 5] * 2
    assert (given.hours * 3600).tolist() == pytest.approx([1, 2])
    with pytest.raises(ScoresError, match="1 of 2 clips have no scores"):
        Background.of(tiny_checkpoint(), short, scored(short.subset([0]), values[:1]))
    with pytest.raises(ClipsError, match=r"3 of 5 background clips are longer than .* window of 2"):
        Background.of(tiny_checkpoint(), quiet, scored(quiet, np.full((6, 5), 0.25)))
    with pytest.raises(ClipsError, match="no background: 1 clip"):
        Background.of(tiny_checkpoint(), quiet.subset([5]))
    elsewhere = dataclasses.replace(
        scored(short, values), paths=[f"/n/{path.name}" for path in short.paths]
    )
    assert len(Background.of(tiny_checkpoint(), short, elsewhere).scores) == 2  # it listens itself
    assert not (Background.of(tiny_checkpoint(), short, elsewhere).scores == 0.25).any()


def test_a_limit_holds_for_authors_of_whom_little_was_heard():
    """Twenty authors, each with a level of their own: their highest scores say little of others."""
    rng = np.random.default_rng(3)

    def draw(authors):
        level = rng.normal(-2, 1.5, (authors, 1, 5))
        values = sigmoid(level + rng.normal(0, 0.3, (authors, 12, 5))).reshape(-1, 5)
        return silence(values, authors=[f"s{row // 12}" for row in range(len(values))])

    rows = [[name for name in LABELS if rng.random() < 0.4] for _ in range(200)]
    clips = table(rows)
    truth = clips.targets(tiny_checkpoint().vocabulary)
    given = scored(clips, sigmoid(rng.normal(-2, 1, truth.shape) + 5 * truth).astype(np.float32))
    few = draw(20)
    options = {"calibration": False, "as_marked": True, "background": few, "most_alarms": 20.0}
    fit = calibrate(tiny_checkpoint(), given, clips, **options)
    assert fit.margin > 0
    assert fit.alarms["own thresholds"] <= 20
    assert f"all by {fit.margin:.1f} in logits" in fit.summary()
    many = draw(2000)
    alone = fit_thresholds(truth, given.values, clips.groups, 20.0, few, 20.0)
    assert few.alarms_per_hour(alone.values) <= 20
    assert many.alarms_per_hour(alone.values) > 30  # what was fitted says little of others
    assert many.alarms_per_hour(np.array(fit.checkpoint.thresholds)) < 25


def test_the_command_keeps_false_alarms_under_a_limit(quiet, tmp_path):
    rows = ["path,labels,author"]
    for row in range(6):
        write(tmp_path / f"{row}.wav", sound(1, seed=row))
        rows.append(f"{row}.wav,{('Rain', 'Siren')[row % 2]},a{row}")
    (tmp_path / "c.csv").write_text("\n".join(rows) + "\n")
    model = tiny_checkpoint().save_pretrained(tmp_path / "model")

    def atgnn(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    atgnn("score", model, tmp_path / "c.csv", "--out", tmp_path / "s.parquet")
    command = ["calibrate", model, "--clips", tmp_path / "c.csv", "--scores"]
    command += [tmp_path / "s.parquet", "--out"]
    table = quiet.paths[0].parent / "q.csv"
    limit = ["--background", table, "--max-alarms-per-hour", 0]
    said = atgnn(*command, tmp_path / "strict", *limit)
    assert "false alarms an hour of background, authors left out: at 0.5" in said
    assert "raised because of false alarms" in said
    strict = Checkpoint.from_pretrained(tmp_path / "strict")
    report = json.loads(
        atgnn("evaluate", tmp_path / "strict", tmp_path / "c.csv", "--background", table, "--json")
    )
    assert report["background"]["alarmed"] == 0
    (note,) = strict.provenance.notes
    assert "at most 0 an hour are allowed" in note
    assert "--max-alarms-per-hour does nothing without" in atgnn(
        *command, tmp_path / "x", *limit[2:], code=2
    )
    free = tmp_path / "free"
    again = ["calibrate", tmp_path / "strict", *command[2:], free]
    assert "--no-thresholds" in atgnn(*again, "--no-thresholds", *limit[:2], code=2)
    atgnn(*again)
    (note,) = Checkpoint.from_pretrained(free).provenance.notes  # in place of the older one
    assert "false alarms" not in note
