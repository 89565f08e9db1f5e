"""Moments: patch nodes read out by time, learned from tables of events, and heard as events."""

import itertools

import numpy as np
import pandas
import pytest
import soundfile
import torch
from helpers import LABELS, RATE, sound, tiny_checkpoint, tiny_model
from run_helpers import TINY

from atgnn.checkpoint import Checkpoint
from atgnn.data.strong import StrongLabel, moment_targets, read_strong
from atgnn.errors import ClipsError, ConfigError
from atgnn.events import EventSettings, Listening, MomentCurve, Stream, curve, detect, timelines
from atgnn.events.rows import Layout
from atgnn.events.settings import places_of
from atgnn.frontend import FRONT_ENDS, FrontEndConfig
from atgnn.labels import Ontology, Vocabulary
from atgnn.model.layers import Patches
from atgnn.model.moments import at_moments, moment_logits, moment_stage
from atgnn.networks import network_preset
from atgnn.tagger import Tagger
from atgnn.tags import Timeline
from atgnn.training.recipe import load_recipe

SCENES = Vocabulary.from_names(["Animal", "Bark", "Dog", "Rain"])


# --- reading out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "columns"),
    [
        (0, [[0], [1], [2], [3]]),
        (1, [[0, 0], [0, 1], [1, 1], [1, 2]]),  # between two columns: both
        (-1, [[0, 0, 1], [1, 2, 3], [3, 4, 5], [5, 6, 7]]),  # around 2 p
    ],
)
def test_the_columns_of_each_moment(later, columns):
    count, width = 4, {0: 4, 1: 3, -1: 8}[later]
    x = torch.arange(2 * 3 * width).view(2, 3, width, 1).float()
    parts = at_moments(Patches(x, None), later, count)
    assert parts.lengths is None
    for clip in range(2):
        for moment in range(count):
            wanted = x[clip][:, columns[moment]]
            assert torch.equal(parts.x[clip * count + moment], wanted)


def test_beyond_a_clips_end_its_last_column_is_repeated():
    x = torch.arange(2 * 6).view(2, 1, 6, 1).float()
    parts = at_moments(Patches(x, torch.tensor([6, 3])), -1, 3).x.view(2, 3, 3)
    assert parts[0].tolist() == [[0, 0, 1], [1, 2, 3], [3, 4, 5]]
    assert parts[1].tolist() == [[6, 6, 7], [7, 8, 8], [8, 8, 8]]


def test_moments_last_about_a_third_of_a_second():
    mini = network_preset("mini"), FrontEndConfig(hop_ms=20)
    assert moment_stage(*mini) == 1
    assert moment_stage(network_preset("pyr-s"), FRONT_ENDS["paper"]) == 3


def test_a_clips_moments_do_not_depend_on_its_batch():
    model = tiny_model().eval()
    long, short = torch.randn(1, 96, 32), torch.randn(1, 64, 32)
    batch = torch.zeros(2, 96, 32)
    batch[:1], batch[1:, :64] = long, short
    with torch.no_grad():
        both = moment_logits(model, model.encoder(batch, torch.tensor([96, 64])), 1)
        alone = [moment_logits(model, model.encoder(one), 1) for one in (long, short)]
    assert both.shape == (2, 6, len(LABELS))
    torch.testing.assert_close(both[:1], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1:, :4], alone[1], atol=1e-4, rtol=1e-4)
    assert both.isfinite().all()


def test_a_moment_is_read_of_its_own_patches():
    model = tiny_model().eval()
    with torch.no_grad():
        stages = model.encoder(torch.randn(1, 96, 32))
        before = moment_logits(model, stages, 1)
        stages[1][-1].x[:, :, 3] += 1
        stages[0][-1].x[:, :, 10:] += 1  # 9 and 10 are around 10, the finest column of moment 5
        changed = (moment_logits(model, stages, 1) - before).abs().amax(2)[0] > 1e-5
    assert changed.tolist() == [False, False, False, True, False, True]


# --- tables of events ------------------------------------------------------------------------


def test_tables_of_events(tmp_path):
    ours, desed = tmp_path / "events.csv", tmp_path / "strong.tsv"
    ours.write_text("scene,label,labels,onset,offset\na.flac,Bark,Bark;Dog,0.5,2\n")
    desed.write_text("filename\tonset\toffset\tevent_label\na.wav\t0.5\t2\tRain\n")
    assert read_strong(ours) == {"a.flac": [StrongLabel(0.5, 2.0, ("Bark", "Dog"))]}
    assert read_strong(desed) == {"a.wav": [StrongLabel(0.5, 2.0, ("Rain",))]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no readable table of events"),
        ("", "no readable table of events"),
        ("scene,onset,offset\na,1,2\n", "no column labels or label or event_label"),
        ("scene,label,onset,offset\na,Rain,1,soon\n", "column offset must hold seconds"),
        ("scene,label,onset,offset\na,Rain,0,1\na,Rain,2,1\n", "row 2: an event from 2 to 1 s"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, message):
    path = tmp_path / "events.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ClipsError, match=message) as caught:
        read_strong(path)
    assert "\n" not in str(caught.value)


def test_what_is_heard_at_each_moment():
    nan = np.nan
    targets = np.array([[1, 1, 1, 0], [1, 0, 1, nan], [0, 0, 0, 0]], np.float32)
    heard = {"a": [StrongLabel(0.5, 1.0, ("Bark",)), StrongLabel(0.75, 2.0, ("Bark",))]}
    found = moment_targets(
        ["a", "b", "c"], targets, heard, np.arange(4.0), SCENES, Ontology.audioset()
    )
    assert found.shape == (3, 3, 4)
    bark = [0.5 + 0.25, 1.0, 0.0]
    np.testing.assert_allclose(found[0], np.array([bark, bark, bark, [0, 0, 0]]).T)
    # of the second clip nobody knows when; what is not there is at no moment
    np.testing.assert_array_equal(found[1], np.array([[nan] * 3, [0] * 3, [nan] * 3, [nan] * 3]).T)
    assert not found[2].any()
    with pytest.raises(ClipsError, match="an event of Rain and is said not to hold it"):
        moment_targets(["a"], targets[:1], {"a": [StrongLabel(0, 1, ("Rain",))]}, np.arange(3.0),
                       SCENES)  # fmt: skip


# --- training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Clips of 1.3 s: noise throughout, a high tone in one part of it, a low one in another."""
    folder = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(0)
    rows, events = [], []
    for number in range(16):
        wave = 0.02 * random.standard_normal(int(1.3 * RATE))
        for label, pitch in (("high", 3000), ("low", 300)):
            start = random.uniform(0, 0.65)
            part = slice(int(start * RATE), int((start + 0.65) * RATE))
            time = np.arange(part.stop - part.start) / RATE
            wave[part] += 0.3 * np.sin(2 * np.pi * pitch * random.uniform(0.9, 1.1) * time)
            events.append((f"{number}.wav", label, start, start + 0.65))
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        rows.append((f"{number}.wav", "high;low"))
    pandas.DataFrame(rows, columns=["path", "labels"]).to_csv(folder / "clips.csv", index=False)
    names = ["scene", "label", "onset", "offset"]
    pandas.DataFrame(events, columns=names).to_csv(folder / "events.csv", index=False)
    return folder


def recipe_of(scenes, *more):
    overrides = [
        f"data.clips={scenes / 'clips.csv'}",
        f"moments.events={scenes / 'events.csv'}",
        TINY,
        "init=null",
        "front_end.hop_ms=10",
        "data.ontology=false",
        "augment={mixup_probability: 0.3}",
        "optim={batch_size: 8, epochs: 40, warmup_steps: 2, learning_rate: 3.0e-3}",
        "residual_scale=1.0",
        "save_half=false",
    ]
    return load_recipe("scenes", [*overrides, *more])


def test_a_run_learns_when(scenes, tmp_path):
    pytest.importorskip("lightning")
    from atgnn.training.run import train

    checkpoint = Checkpoint.from_pretrained(train(recipe_of(scenes), tmp_path / "run"))
    assert checkpoint.moments
    tagger = Tagger(checkpoint, "cpu")
    assert Listening(tagger).settings.reading == "moments"
    truth, inside, outside = read_strong(scenes / "events.csv"), [], []
    for name, events in truth.items():
        (read,) = Listening(tagger).score_many([scenes / name])
        for stretch in curve(read, checkpoint, EventSettings(smooth_s=0)):
            middle = (stretch.start + stretch.end) / 2
            for event in events:
                (label,) = event.labels
                score = stretch.scores[tagger.labels.index(label)]
                if event.onset + 0.16 < middle < event.offset - 0.16:
                    inside.append(score)
                elif not event.onset - 0.16 < middle < event.offset + 0.16:
                    outside.append(score)
    assert np.mean(inside) > np.mean(outside) + 0.3


def test_only_whole_clips_move_the_norms(scenes):
    pytest.importorskip("lightning")
    from atgnn.training.division import divide
    from atgnn.training.loaders import make_loaders
    from atgnn.training.module import TaggingModule
    from atgnn.training.moments import make_moments
    from atgnn.training.start import new_model

    def after_a_step(with_moments: bool):
        recipe = recipe_of(scenes, "augment={frequency_mask: 0, time_mask: 0}")
        division = divide(recipe)
        model = new_model(recipe, division).model
        moments = make_moments(recipe, division, model)
        loader, _ = make_loaders(recipe, division)
        moments.prepare(loader.dataset)
        names = division.vocabulary.names
        module = TaggingModule(
            recipe, model, names, 2, moments=moments if with_moments else None
        ).train()
        torch.manual_seed(0)
        batch = next(iter(loader))
        loss = module.training_step(batch, 0)
        assert moments.truth(batch, 3).shape == (8, 3, 2)
        norms = {name: b for name, b in model.named_buffers() if "running" in name}
        return float(loss.detach()), norms, model

    both, norms, model = after_a_step(True)
    alone, wanted, _ = after_a_step(False)
    assert both != alone
    assert all(torch.equal(value, wanted[name]) for name, value in norms.items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["augment.roll=0.5"], "does not go together with augment.roll"),
        (["augment.crop_seconds=1"], "augment.crop_seconds"),
        (["compile=true"], "compile"),
        (["task=single_label"], "task=multi_label"),
        (["moments.weight=0.3", "moments.events=[]"], "does nothing without events"),
        (["moments.weight=1"], "moments.weight"),
    ],
)
def test_recipes_that_make_no_sense(scenes, more, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of(scenes, *more)


def test_events_that_no_clip_has(scenes, tmp_path):
    pytest.importorskip("lightning")
    from atgnn.training.division import divide
    from atgnn.training.moments import make_moments
    from atgnn.training.start import new_model

    def made(table, *more):
        recipe = recipe_of(scenes, f"moments.events={table}", *more)
        division = divide(recipe)
        return make_moments(recipe, division, new_model(recipe, division).model)

    other = tmp_path / "other.csv"
    other.write_text("scene,label,onset,offset\nx.wav,high,0,1\n")
    with pytest.raises(ClipsError, match="no training clip has an event"):
        made(other)
    twice = f"[{scenes / 'events.csv'}, {scenes / 'events.csv'}]"
    with pytest.raises(ClipsError, match="two tables of events name"):
        made(twice)
    with pytest.raises(ConfigError, match="not read out by moments"):
        made(scenes / "events.csv", "model={preset: lite0}")


# --- events ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_checkpoint(moments=True), "cpu")


LOOSE = EventSettings(on=0.55, off=0.45, ancestors=True)


def test_moments_are_the_default_of_a_model_that_tells_them(tagger):
    settings = Listening(tagger).settings
    step = places_of(tagger.checkpoint).seconds
    assert settings.reading == "moments"
    assert settings.window_s == tagger.checkpoint.window_seconds
    assert settings.hop_s == pytest.approx(10 * step)
    by_windows = Listening(tagger, EventSettings(reading="windows")).settings
    assert by_windows.framing == (2.0, 0.5)
    other = tiny_checkpoint()
    assert EventSettings().for_model(other).reading == "windows"
    with pytest.raises(ConfigError, match="not trained to tell moments"):
        EventSettings(reading="moments").for_model(other)


def test_a_checkpoint_remembers(tmp_path):
    folder = tiny_checkpoint(moments=True).save_pretrained(tmp_path / "model")
    assert Checkpoint.from_pretrained(folder).moments
    assert Checkpoint.from_pretrained(folder).changed(thresholds=(0.5,) * 5).moments
    assert not Checkpoint.from_pretrained("everyday-mini").moments


@pytest.mark.parametrize(("seconds", "hop"), [(7.3, None), (2.0, None), (0.2, None), (5.1, 2.0)])
def test_stretches_follow_one_another(tagger, seconds, hop):
    settings = EventSettings(hop_s=hop)
    (read,) = Listening(tagger, settings).score_many([(sound(seconds), RATE)])
    found = curve(read, tagger.checkpoint, settings)
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(seconds)
    for one, two in itertools.pairwise(found):
        assert one.end == two.start
    step = places_of(tagger.checkpoint).seconds
    assert max(one.end - one.start for one in found) < 1.6 * step
    assert all(one.scores.min() >= 0 and one.scores.max() <= 1 for one in found)


def test_overlapping_windows_share_their_overlap(tagger):
    places = places_of(tagger.checkpoint)
    made = MomentCurve(places, Layout(1, 14))
    rows = [np.concatenate([[[9.0]], np.full((14, 1), number)]) for number in (1.0, 2.0)]
    found = made.add(0.0, 2.0, rows[0].ravel()) + made.add(1.6, 1.0, rows[1].ravel())
    found += made.finish()
    assert {one.scores[0] for one in found if one.end <= 1.8} == {1.0}
    assert {one.scores[0] for one in found if one.start >= 1.8} == {2.0}
    assert found[-1].end == pytest.approx(2.6)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 6.0])
def test_scores_are_medians_over_what_is_around(tagger, seconds):
    (read,) = Listening(tagger).score_many([(sound(seconds), RATE)])
    own = curve(read, tagger.checkpoint, EventSettings(smooth_s=0))
    smooth = curve(read, tagger.checkpoint, EventSettings(smooth_s=0.8))  # five of 0.16 s
    assert [(one.start, one.end) for one in smooth] == [(one.start, one.end) for one in own]
    rows = np.array([one.scores for one in own])
    for number, one in enumerate(smooth):
        around = rows[max(0, number - 2) : number + 3]
        np.testing.assert_array_equal(one.scores, np.median(around, axis=0))
    assert Listening(tagger).settings.smooth_s == 1.6
    assert Listening(tagger, EventSettings(reading="windows")).settings.smooth_s == 0


@pytest.mark.parametrize("chunk", [997, 10**6])
def test_a_stream_gives_exactly_the_events_of_the_file(tagger, tmp_path, chunk):
    wave = sound(9.7, 44_100)
    path = tmp_path / "a.flac"
    soundfile.write(path, wave, 44_100, subtype="PCM_24")
    wave, _ = soundfile.read(path, dtype="float32")
    expected = list(detect(tagger, path, LOOSE))
    assert len(expected) > 2
    stream = Stream(tagger, 44_100, LOOSE)
    found = [e for begin in range(0, len(wave), chunk)
             for e in stream.feed(wave[begin : begin + chunk])]  # fmt: skip
    assert found + stream.finish() == expected


def test_tags_are_those_of_whole_windows(tagger):
    wave = sound(5)
    (one,) = timelines(tagger, [(wave, RATE)], LOOSE, top=len(LABELS), ancestors=True)
    assert isinstance(one, Timeline)
    (scores,) = tagger.score_many([(wave, RATE)], window=2.0, hop=1.6)
    for tag in one.tags:
        assert tag.score == pytest.approx(scores.mean[LABELS.index(tag.label)], abs=1e-4)


def test_moments_of_silence_score_nothing(tagger):
    wave = sound(6)
    wave[2 * RATE : 4 * RATE] = 0
    (read,) = Listening(tagger).score_many([(wave, RATE)])
    for stretch in curve(read, tagger.checkpoint, EventSettings(smooth_s=0)):
        if stretch.start > 2.1 and stretch.end < 3.9:
            assert not stretch.scores.any()
        elif stretch.end < 1.9 or stretch.start > 4.1:
            assert stretch.scores.all()
    quiet = (np.zeros(30 * RATE, np.float32), RATE)
    assert list(detect(tagger, quiet, EventSettings(on=0.01))) == []
    (tags,) = timelines(tagger, [quiet], threshold=0.001)
    assert not tags.tags


def test_an_archive_holds_the_same_events_and_the_scores_of_whole_windows(tmp_path):
    pytest.importorskip("pyarrow")
    from typer.testing import CliRunner

    from atgnn import archive
    from atgnn.cli import app

    model = str(tiny_checkpoint(moments=True).save_pretrained(tmp_path / "model"))
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", sound(5), RATE)
    options = ["--events", "--bands", "--on", "0.55", "--off", "0.45", "--ancestors"]
    command = ["tag", str(tmp_path / "in"), "--model", model, *options]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    table = archive.events(tmp_path / "out")
    settings = LOOSE.model_copy(update={"bands": True})
    tagger = Tagger.from_pretrained(model, "cpu")
    (wanted,) = timelines(tagger, [tmp_path / "in" / "a.wav"], settings)
    assert len(wanted.events) > 1
    for name in ("label", "start", "end", "score"):
        assert table[name].tolist() == [getattr(event, name) for event in wanted.events]
    for name in ("low_hz", "high_hz"):  # kept as float32
        bounds = [getattr(event, name) for event in wanted.events]
        assert table[name].tolist() == pytest.approx(bounds, rel=1e-6)
    (scores,) = tagger.score_many([tmp_path / "in" / "a.wav"], window=2.0, hop=1.6)
    found = archive.windows(tmp_path / "out")[list(LABELS)].to_numpy()
    np.testing.assert_allclose(found, scores.windows, atol=1e-3)
