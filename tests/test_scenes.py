"""Scenes: what is said to be in them is what was mixed, and nobody is on two sides."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from atgnn import audio
from atgnn.audio import occupied_band
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.data.cooccurrence import CoOccurrence
from atgnn.data.events import SilenceError, find_activity
from atgnn.data.scenes import Ingredients, Scenes, SceneSettings, write_scenes
from atgnn.data.scenes.choosing import choose_matrix, open_sounds, parse_range
from atgnn.data.scenes.sound import coloured_noise, faded, repeated
from atgnn.data.store import SCALE, PackedWaveforms
from atgnn.data.waveforms import Waveforms
from atgnn.errors import AtgnnError, ClipsError, ConfigError
from atgnn.training.division import divide
from atgnn.training.recipe import load_recipe

RATE = 8000
TONES = {"Bark": 500.0, "Rain": 1000.0, "Siren": 2000.0, "Tick": 3000.0}  # Hz
SETTINGS = SceneSettings(seconds=1.5, rate=RATE, events=(1, 3), seed=3)


def tone(hertz: float, seconds: float = 0.3, before: float = 0.1, after: float = 0.2) -> np.ndarray:
    """A tone of 0.5 with digital silence on both sides."""
    time = np.arange(round(seconds * RATE)) / RATE
    edges = [np.zeros(round(s * RATE)) for s in (before, after)]
    return np.concatenate([edges[0], 0.5 * np.sin(2 * np.pi * hertz * time), edges[1]])


def make_table(folder, rows, extra="") -> Clips:
    """Rows of (name, labels, fold, author, samples) as WAV files and a table."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"path,labels,fold,author{',unknown' if extra else ''}"]
    for name, labels, fold, author, samples in rows:
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
        lines.append(f"{name}.wav,{labels},{fold},{author}{',' + extra if extra else ''}")
    (folder / "meta.csv").write_text("\n".join(lines))
    return Clips.read(folder)


def rows_of(folds=(1, 2), each=3, tones=TONES):
    for fold in folds:
        for label, hertz in tones.items():
            for number in range(each):
                name = f"{label}-{fold}-{number}"
                yield name, label, fold, f"author-{name}", tone(hertz * (1 + 0.01 * number))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events") / "tones"
    make_table(folder, rows_of())
    return folder


@pytest.fixture(scope="module")
def ingredients(sounds):
    return Ingredients.of(open_sounds(str(sounds), RATE), None, SETTINGS)


@pytest.fixture(scope="module")
def scenes(ingredients):
    return Scenes(ingredients, CoOccurrence.independent(ingredients.labels), 30)


# ---------------------------------------------------------------------- single events


def test_an_event_lasts_from_its_energy_not_from_the_edges_of_its_clip():
    found = find_activity(tone(1000), RATE)
    assert found.start == pytest.approx(0.1 * RATE, abs=0.01 * RATE)
    assert found.stop == pytest.approx(0.4 * RATE, abs=0.01 * RATE)
    assert found.seconds == pytest.approx(0.3, abs=0.011)
    assert found.rms == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    assert found.low < 1000 < found.high < found.low + 100
    twice = np.concatenate([tone(1000), tone(1000)])
    two = find_activity(twice, RATE)
    assert two.stop == pytest.approx(1.0 * RATE, abs=0.01 * RATE)
    assert two.seconds == pytest.approx(0.6, abs=0.021), "the pause is no event"
    quiet = twice + 0.005 * np.random.default_rng(0).standard_normal(len(twice))  # 37 dB below
    assert find_activity(quiet, RATE, 30).seconds == pytest.approx(0.6, abs=0.021)
    assert find_activity(quiet, RATE, 60).start == 0


def test_bands_hold_the_energy():
    noise = np.random.default_rng(0).standard_normal(RATE)
    low, high = occupied_band(noise, RATE)
    assert low == pytest.approx(0.05 * RATE / 2, abs=60)
    assert high == pytest.approx(0.95 * RATE / 2, abs=60)
    both = tone(300) + tone(3000)
    low, high = occupied_band(both, RATE)
    assert low < 320
    assert high > 2980
    assert occupied_band(np.zeros(RATE), RATE) == (0, RATE / 2)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(500), np.full(500, 1e-5)])
def test_silence_is_no_event(samples):
    with pytest.raises(SilenceError):
        find_activity(samples, RATE)


# ---------------------------------------------------------------------- what a scene says


def test_events_are_where_the_table_says(scenes):
    """Each event's tone is heard between onset and offset, and not elsewhere."""
    quiet = SETTINGS.model_copy(update={"level_db": (40.0, 40.0), "events": (1, 1)})
    alone = Scenes(
        Ingredients.of(scenes.ingredients._waves, None, quiet), scenes.matrix, 10
    )  # fmt: skip
    for number in range(len(alone)):
        scene = alone[number]
        (event,) = scene.events
        loud = find_activity(scene.samples * SCALE, RATE)
        assert loud.start / RATE == pytest.approx(event.onset, abs=0.021)
        assert loud.stop / RATE == pytest.approx(event.offset, abs=0.021)
        assert event.low_hz < TONES[event.label] * 1.03 < event.high_hz + 100
        assert len(scene.samples) == 1.5 * RATE
    onsets = [alone[number].events[0].onset for number in range(len(alone))]
    assert np.std(onsets) > 0.1


def test_levels_are_over_the_background(sounds):
    for wanted in (0.0, 25.0):
        settings = SETTINGS.model_copy(
            update={"level_db": (wanted, wanted), "events": (1, 1), "background_dbfs": (-40, -40)}
        )
        made = Scenes(
            Ingredients.of(open_sounds(str(sounds), RATE), None, settings),
            CoOccurrence.independent(list(TONES)), 5,
        )  # fmt: skip
        for number in range(len(made)):
            scene = made[number]
            (event,) = scene.events
            sound = scene.samples * SCALE
            inside = sound[round((event.onset + 0.02) * RATE) : round((event.offset - 0.02) * RATE)]
            outside = np.delete(sound, slice(round(event.onset * RATE), round(event.offset * RATE)))
            floor = np.square(outside).mean()
            assert 10 * np.log10(floor) == pytest.approx(-40, abs=2.5)
            event_power = np.square(inside).mean() - floor
            assert 10 * np.log10(event_power / floor) == pytest.approx(wanted, abs=3.5)
            assert event.level_db == wanted


def test_scenes_know_their_labels_and_number_of_events(scenes):
    sizes = {len(scenes[number].events) for number in range(len(scenes))}
    assert sizes == {1, 2, 3}
    for number in range(len(scenes)):
        scene = scenes[number]
        names = {event.label for event in scene.events}
        assert names == set(scene.cast.labels)
        assert names == {scenes.matrix.labels[i] for i in np.flatnonzero(scenes.drawn[number])}
        assert scene.cast.unknown == ()
        assert [e.onset for e in scene.events] == sorted(e.onset for e in scene.events)


def test_no_scene_mixes_folds_and_all_authors_own_it(scenes):
    for number in range(len(scenes)):
        cast, (_, fold) = scenes.cast(number), scenes.part_of[number]
        assert {source.part for source in cast.events} == {(None, fold)}
        assert cast.owners == tuple(sorted(f"author-{s.name[:-4]}" for s in cast.events))
    used = [
        {owner for number in range(len(scenes)) if scenes.part_of[number][1] == fold
         for owner in scenes.cast(number).owners}
        for fold in (1, 2)
    ]  # fmt: skip
    assert used[0]
    assert not used[0] & used[1]


def test_a_seed_decides_every_sample(ingredients, scenes):
    again = Scenes(ingredients, scenes.matrix, 30)
    for number in (0, 17, 59):
        np.testing.assert_array_equal(scenes[number].samples, again[number].samples)
        assert scenes[number].events == again[number].events
    other = Scenes(ingredients, scenes.matrix, 30)
    other.settings = SETTINGS.model_copy(update={"seed": 4})
    assert not np.array_equal(other[0].samples, scenes[0].samples)


def test_long_events_are_cut_and_loud_mixtures_turned_down(tmp_path):
    long = [(f"long-{i}", "Rain", "", f"a{i}", tone(800, 4.0)) for i in range(2)]
    other = [(f"tick-{i}", "Tick", "", f"b{i}", tone(3000)) for i in range(2)]
    make_table(tmp_path / "long", [*long, *other])
    settings = SETTINGS.model_copy(
        update={"background_dbfs": (-6.0, -6.0), "level_db": (20.0, 20.0), "events": (2, 2)}
    )
    found = Ingredients.of(open_sounds(str(tmp_path / "long"), RATE), None, settings)
    made = Scenes(found, CoOccurrence.independent(["Rain", "Tick"]), 4)
    for number in range(4):
        scene = made[number]
        assert np.abs(scene.samples * SCALE).max() == pytest.approx(0.98, abs=0.001)
        rain = next(event for event in scene.events if event.label == "Rain")
        assert rain.offset - rain.onset == pytest.approx(1.5, abs=0.02)


# ---------------------------------------------------------------------- three states


def test_only_what_is_known_in_all_parts_is_known(tmp_path):
    """Two collections: what one never marks is unknown in its clips, and so in their scenes."""
    first = make_table(tmp_path / "first", rows_of(tones={"Bark": 500.0, "Rain": 1000.0}))
    second = make_table(
        tmp_path / "second", rows_of(tones={"Siren": 2000.0, "Rain": 1100.0}), extra="Tick"
    )
    both = Waveforms(Clips.concat([first, second]), RATE, 1.0, None)
    found = Ingredients.of(both, None, SETTINGS)
    made = Scenes(found, CoOccurrence.independent(found.labels), 40)
    place = list(both.clips.table["collection"])
    kinds = set()
    for number in range(len(made)):
        cast = made.cast(number)
        homes = {place[source.row] for source in cast.events}
        expected = set()
        if "first" in homes:
            expected |= {"Siren"}
        if "second" in homes:
            expected |= {"Bark", "Tick"}
        assert set(cast.unknown) == expected - set(cast.labels)
        kinds.add((frozenset(homes), bool(cast.unknown)))
    assert (frozenset({"first"}), True) in kinds
    absent = SETTINGS.model_copy(update={"unmarked": "absent"})
    sure = Scenes(Ingredients.of(both, None, absent), made.matrix, 40)
    for number in range(len(sure)):
        cast = sure.cast(number)
        homes = {place[source.row] for source in cast.events}
        assert set(cast.unknown) == ({"Tick"} if "second" in homes else set())


def test_backgrounds_bring_what_they_are_unknown_for(tmp_path, sounds):
    noise = np.random.default_rng(0).standard_normal(RATE) * 0.1
    beds = [(f"bed-{fold}", "", fold, f"owner-{fold}", noise) for fold in (1, 2)]
    make_table(tmp_path / "beds", beds, extra="Siren")
    settings = SETTINGS.model_copy(update={"unmarked": "absent"})
    found = Ingredients.of(
        open_sounds(str(sounds), RATE), open_sounds(str(tmp_path / "beds"), RATE), settings
    )
    made = Scenes(found, CoOccurrence.independent(found.labels), 10)
    for number in range(len(made)):
        cast, fold = made.cast(number), made.part_of[number][1]
        assert cast.background.name == f"bed-{fold}.wav"
        assert f"owner-{fold}" in cast.owners
        assert cast.unknown == (() if "Siren" in cast.labels else ("Siren",))
    assert np.abs(made[0].samples).max() > 0


# ---------------------------------------------------------------------- bad input


def ingredients_of(folder, background=None, labels=None, **changes):
    beds = None if background is None else open_sounds(str(background), RATE)
    return Ingredients.of(
        open_sounds(str(folder), RATE), beds, SETTINGS.model_copy(update=changes), labels=labels
    )


def test_a_background_with_a_label_of_the_events_is_one_line(tmp_path, sounds):
    beds = [(f"bed-{i}", "Rain" if i == 2 else "", i, f"o{i}", tone(100)) for i in (1, 2)]
    make_table(tmp_path / "beds", beds)
    with pytest.raises(ClipsError, match=r"1 of 2 backgrounds .* bed-2\.wav, is marked Rain"):
        ingredients_of(sounds, tmp_path / "beds")


def test_backgrounds_must_be_of_a_part(tmp_path, sounds):
    make_table(tmp_path / "one", [("bed", "", 1, "o", tone(100))])
    with pytest.raises(ClipsError, match="fold 2 has no background"):
        ingredients_of(sounds, tmp_path / "one")
    table = Clips.read(tmp_path / "one").table.drop(columns="fold")
    Clips(table).write(tmp_path / "bare.csv")
    with pytest.raises(ClipsError, match="events have a column 'fold', the backgrounds have none"):
        ingredients_of(sounds, tmp_path / "bare.csv")


def test_labels_with_too_few_clips_are_named(tmp_path, sounds):
    with pytest.raises(ClipsError, match=r"fold 1 has fewer than 4 clips of 4 labels: Bark \(3\)"):
        ingredients_of(sounds, least_clips=4)
    with pytest.raises(ClipsError, match=r"fold 1 has fewer than 2 clips of 1 label: Wind \(0\)"):
        ingredients_of(sounds, labels=["Bark", "Wind"])


def test_clips_that_are_no_events_are_passed_over_and_counted(tmp_path):
    rows = [
        *rows_of(folds=[1], each=2),
        ("silent", "Bark", 1, "x", np.zeros(RATE)),
        ("empty", "Bark", 1, "x", np.zeros(0)),
        ("two", "Bark;Rain", 1, "x", tone(100)),
        ("none", "", 1, "x", tone(100)),
    ]
    make_table(tmp_path / "odd", rows)
    (tmp_path / "odd" / "broken.wav").write_bytes(b"RIFF but not really")
    with (tmp_path / "odd" / "meta.csv").open("a") as file:
        file.write("\nbroken.wav,Bark,1,x")
    found = ingredients_of(tmp_path / "odd")
    assert found.examples == {
        "silent: nothing louder than -70 dBFS": "silent.wav",
        "cannot be read": "empty.wav",
        "not a single event": "two.wav",
        "no label": "none.wav",
    }
    assert found.passed_over["cannot be read"] == 2
    assert {label: len(of) for label, of in found.events[None, 1].items()} == dict.fromkeys(
        TONES, 2
    )
    only = [row for row in rows if row[0] in ("silent", "two")]
    make_table(tmp_path / "worse", only)
    with pytest.raises(ClipsError, match="no clip can be used as an event: 1 silent"):
        ingredients_of(tmp_path / "worse")


def test_a_bark_of_a_dog_is_one_event_and_a_column_can_name_it(tmp_path):
    rows = [(f"d{i}", "Dog;Bark", 1, f"a{i}", tone(400)) for i in range(2)]
    make_table(tmp_path / "dogs", [*rows, *rows_of(folds=[1], tones={"Rain": 900.0})])
    found = ingredients_of(tmp_path / "dogs", events=(1, 2))
    assert found.labels == ("Bark", "Rain")
    made = Scenes(found, CoOccurrence.independent(found.labels), 20)
    for number in range(20):
        assert ("Bark" in made.cast(number).labels) == ("Dog" in made.cast(number).labels)
    waves = open_sounds(str(tmp_path / "dogs"), RATE)
    waves.clips.table["kind"] = ["animal"] * 2 + ["weather"] * 3
    named = Ingredients.of(waves, None, SETTINGS, label_column="kind")
    assert named.labels == ("animal", "weather")


def test_an_author_stays_in_one_fold(tmp_path):
    rows = list(rows_of())
    shared = [
        (name, labels, fold, "ann" if name in ("Bark-1-0", "Bark-2-0", "Rain-2-0") else by, wave)
        for name, labels, fold, by, wave in rows
    ]
    make_table(tmp_path / "shared", shared)
    found = ingredients_of(tmp_path / "shared")
    assert found.passed_over == {"its author is in another part": 1}
    assert found.examples["its author is in another part"] == "Bark-1-0.wav"
    assert not ingredients_of(tmp_path / "shared", shared_owners="keep").passed_over
    with pytest.raises(ClipsError, match="1 author has clips in several parts, the first is ann"):
        ingredients_of(tmp_path / "shared", shared_owners="refuse")


def test_matrices_that_do_not_fit_are_one_line(ingredients):
    with pytest.raises(ClipsError, match="lacks 2 labels of the events, the first is Siren"):
        Scenes(ingredients, CoOccurrence.independent(["Bark", "Rain"]), 5)
    with pytest.raises(ClipsError, match="0 scenes"):
        Scenes(ingredients, CoOccurrence.independent(list(TONES)), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": (3, 2)}, "events runs from 3 to 2"),
        ({"events": (0, 2)}, "events starts at 0"),
        ({"events": (1.5, 2)}, "events.0"),
        ({"level_db": (5, 1)}, "level_db runs from 5 to 1"),
        ({"background_dbfs": (-10, 3)}, "background_dbfs is 3: at most 0"),
        ({"unmarked": "maybe"}, "unmarked"),
        ({"seconds": float("inf")}, "seconds: .*finite"),
        ({"level_db": (float("nan"), 1)}, "level_db.0: .*finite"),
        ({"second": 3}, "did you mean 'seconds'"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        SceneSettings.of(**changes)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- choosing


def test_matrices_by_name(tmp_path):
    labels = ["Bark", "Rain", "Siren"]
    table = tmp_path / "like.csv"  # of sounds that are not here
    rows = ["Bark;Dog;Rain"] * 6 + ["Rain;Siren"] * 2 + ["Siren", "Bark;Siren"]
    table.write_text("\n".join(["path,labels", *(f"gone-{i}.wav,{r}" for i, r in enumerate(rows))]))
    like = choose_matrix("training", labels, str(table))
    assert like.pairs[0, 1] > 2 * like.pairs[1, 2] > 2 * like.pairs[0, 2] * 0.9
    other = choose_matrix("reversed", labels, str(table))
    np.testing.assert_allclose(other.pairs, like.reversed().pairs)
    same = choose_matrix("independent", labels, str(table))
    np.testing.assert_allclose(same.frequencies, like.frequencies, atol=1e-6)
    assert choose_matrix("independent", labels, None).pairs[0, 1] == pytest.approx(1 / 3)
    saved = tmp_path / "matrix.csv"
    saved.write_text(like.to_csv())
    for found in (choose_matrix(str(saved), labels, None),
                  choose_matrix("training", labels, str(saved))):  # fmt: skip
        np.testing.assert_allclose(found.pairs, like.pairs, rtol=1e-6)
    with pytest.raises(ClipsError, match=r"no co-occurrence 'reverse': .*mean 'reversed'"):
        choose_matrix("reverse", labels, None)
    with pytest.raises(ClipsError, match="needs --like"):
        choose_matrix("reversed", labels, None)
    with pytest.raises(ClipsError, match="leave out --like"):
        choose_matrix(str(saved), labels, str(table))


def test_ranges():
    assert parse_range("-10:2.5", "--level") == (-10, 2.5)
    assert parse_range("3", "--events") == (3, 3)
    for bad in ("", "a:b", "1:2:3"):
        with pytest.raises(ConfigError, match="give FROM:TO"):
            parse_range(bad, "--level")


def test_short_backgrounds_are_repeated_without_clicks():
    generator = np.random.default_rng(0)
    wave = np.sin(np.arange(1000) * 0.05)
    out = repeated(wave, 5000, 100, generator)
    assert len(out) == 5000
    assert np.abs(np.diff(out)).max() < 0.15
    assert len(repeated(wave, 300, 100, generator)) == 300
    assert len(repeated(wave[:2], 7, 100, generator)) == 7
    assert faded(np.ones(10), 3)[[0, 5, 9]].tolist() == [0, 1, 0]
    assert faded(np.ones(1), 3).tolist() == [1]
    noise = coloured_noise(4000, generator)
    assert len(noise) == 4000
    assert np.isfinite(noise).all()


# ---------------------------------------------------------------------- on disk


def test_packed_and_flac_hold_the_same_scenes(scenes, tmp_path):
    done = []
    report = write_scenes(scenes, tmp_path / "out", form="both", threads=2, progress=done.append)
    assert done[-1] == len(scenes) == report.scenes == 60
    packed = PackedWaveforms.open(tmp_path / "out" / "packed")
    clips = Clips.read(tmp_path / "out")
    assert packed.clips.labels == clips.labels == [scenes.cast(i).labels for i in range(60)]
    assert packed.clips.paths == clips.paths
    np.testing.assert_array_equal(packed.positions(clips), np.arange(60))
    for number in (0, 31):
        np.testing.assert_array_equal(packed[number], scenes[number].samples)
        sound = audio.load(clips.paths[number], RATE).samples
        np.testing.assert_array_equal(np.rint(sound / SCALE), scenes[number].samples)
    assert clips.owners == [scenes.cast(i).owners for i in range(60)]
    assert clips.table["fold"].tolist() == [1] * 30 + [2] * 30
    by_fold = [set(clips.groups[:30]), set(clips.groups[30:])]
    assert not by_fold[0] & by_fold[1]
    events = pd.read_csv(tmp_path / "out" / "events.csv")
    assert len(events) == report.events == int(scenes.drawn.sum())
    first = events[events["scene"] == clips.paths[0].name]
    assert sorted(first["label"]) == sorted(event.label for event in scenes[0].events)
    asked = CoOccurrence.read(tmp_path / "out" / "cooccurrence.csv")
    np.testing.assert_allclose(asked.pairs, scenes.matrix.pairs, rtol=1e-6)
    about = json.loads((tmp_path / "out" / "scenes.json").read_text())
    assert SceneSettings.of(**about["settings"]) == SETTINGS
    assert about["report"]["labels"] == report.labels
    assert any("passed over" not in line for line in report.lines())


def test_the_same_seed_gives_the_same_bytes(scenes, tmp_path):
    for name, threads in (("a", 1), ("b", 3)):
        write_scenes(scenes, tmp_path / name, form="both", threads=threads)
    for inside in ("packed/samples.i16", "events.csv", "meta.csv", "drawn.csv", "scenes.json"):
        one, two = ((tmp_path / name / inside).read_bytes() for name in ("a", "b"))
        assert one == two, inside
    flac = [sorted((tmp_path / name / "audio").iterdir()) for name in ("a", "b")]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*flac, strict=True))


def test_a_full_disk_is_one_line_for_flac_too(scenes, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ClipsError, match=r"cannot be written \(No space left on device\)"):
        write_scenes(scenes, tmp_path / "out", form="flac", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_what_was_stopped(scenes, tmp_path):
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for form in ("packed", "flac"):
        with pytest.raises(KeyboardInterrupt):
            write_scenes(scenes, tmp_path / "out", form=form, threads=1, progress=stop)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(AtgnnError, match="is not empty"):
        write_scenes(scenes, tmp_path / "out")


def test_the_command(sounds, tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "out"
    arguments = [
        "prepare", "scenes", str(sounds), "--out", str(out), "--count", "4", "--seconds", "1.5",
        "--rate", str(RATE), "--events", "2", "--level", "-5:5", "--form", "both", "--seed", "7",
        "--label", "Bark", "--label", "Rain", "--label", "Siren",
    ]  # fmt: skip
    done = run(app, arguments)
    assert done.exit_code == 0, done.output
    assert "8 scenes (fold 1 4, fold 2 4), 16 events" in done.output
    assert f"--clips {out / 'packed'}" in done.output
    events = pd.read_csv(out / "events.csv")
    assert set(events["label"]) <= {"Bark", "Rain", "Siren"}
    assert events["level_db"].between(-5, 5).all()
    for changes, message in (
        (["--form", "mp3"], "unknown form 'mp3'"),
        (["--events", "9"], "lower the number of events (--events 1:"),
        (["--cooccurrence", "training"], "needs --like"),
        (["--cooccurrence", str(tmp_path / "no.csv")], "no co-occurrence"),
        (["--level", "loud"], "give FROM:TO"),
        (["--unmarked", "maybe"], "unmarked"),
        ([], "is not empty"),
    ):
        place = [] if not changes else ["--out", str(tmp_path / "other")]
        bad = run(app, [*arguments, *place, *changes])
        assert bad.exit_code == 2, changes
        text = " ".join(bad.output.split())
        assert message in text
        assert "Traceback" not in text
        assert not (tmp_path / "other").exists()


def test_a_packed_folder_serves_as_events(sounds, tmp_path):
    PackedWaveforms.write(Clips.read(sounds), tmp_path / "packed", RATE)
    found = Ingredients.of(open_sounds(str(tmp_path / "packed"), RATE), None, SETTINGS)
    direct = Ingredients.of(open_sounds(str(sounds), RATE), None, SETTINGS)
    assert found.events == direct.events
    with pytest.raises(ClipsError, match="is packed at 8000 Hz"):
        open_sounds(str(tmp_path / "packed"), 16_000)


def test_training_holds_out_whole_circles_of_authors(scenes, tmp_path):
    """A share of scenes is held out by author: nobody has a part on both sides."""
    write_scenes(scenes, tmp_path / "out")
    recipe = load_recipe("folder", [f"data.clips={tmp_path / 'out' / 'packed'}"])
    division = divide(recipe)
    learned, held = ({o for of in side.owners for o in of} for side in
                     (division.train, division.validation))  # fmt: skip
    assert learned
    assert held
    assert not learned & held
