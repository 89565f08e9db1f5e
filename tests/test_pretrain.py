"""Pre-training without labels: sounds of any length, views, losses, a run that can be killed."""

import csv
import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import RATE, sound, write
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.encoder import Encoder, spread_of
from atgnn.errors import AtgnnError, CheckpointError, ClipsError, ConfigError
from atgnn.model.layers import Patches
from atgnn.training.recipe import load_recipe

pytest.importorskip("lightning")
from atgnn.training.norms import measure_norms
from atgnn.training.pretrain import run as run_module
from atgnn.training.pretrain import sounds as sounds_module
from atgnn.training.pretrain.module import PretrainModule
from atgnn.training.pretrain.objectives import Cells, Predictor, contrast, spread
from atgnn.training.pretrain.run import pretrain
from atgnn.training.pretrain.settings import SoundSettings, load_settings
from atgnn.training.pretrain.sounds import Sounds, find_recordings
from atgnn.training.pretrain.views import PairLoader, add_background, zoom
from atgnn.training.resume import ResumePoint
from atgnn.training.run import train

MODEL = (
    "model={preset: mini, channels: [8, 16], stem_widths: [8, 8], stem_strides: [4, 4],"
    " blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1], head_width: 16, k: 3}"
)
TINY = [
    MODEL,
    "sounds.crop_seconds=0.7",
    "sounds.reach_seconds=1.0",
    "optim.batch_size=4",
    "optim.steps=4",
    "optim.report_every=2",
    "optim.warmup_steps=1",
    "workers=0",
]


def tiny(*more, paths=()):
    return load_settings(
        None, [*TINY, f"sounds.paths={json.dumps([str(p) for p in paths])}", *more]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten different sounds in nested folders."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(10):
        write(folder / f"place{i % 2}" / f"{i}.wav", sound(0.5 + 0.1 * i, seed=i))
    return folder


def found(*paths, failures=None, rate=RATE):
    note = {} if failures is None else failures
    return find_recordings(paths, rate, note.__setitem__)


def weights(encoder):
    return Encoder.from_pretrained(encoder).network.state_dict()


# ---------------------------------------------------------------------- sounds


def test_folders_tables_packed_folders_and_files_are_heard(folder, tmp_path):
    (folder / "place0" / "notes.txt").write_text("no sound")
    assert len(found(folder)) == 10
    assert [r.clip.path.name for r in found(folder / "place1" / "3.wav")] == ["3.wav"]
    table = tmp_path / "clips.csv"
    rows = [f"{folder}/place0/8.wav,x,0.2,0.9", f"{folder}/place1/9.wav,x,,"]
    table.write_text("\n".join(["path,labels,start,end", *rows]))
    assert [round(r.seconds, 3) for r in found(table)] == [0.7, 1.4]
    packed = PackedWaveforms.write(Clips.read(folder), tmp_path / "packed", RATE)
    recordings = found(packed.folder)
    assert len(recordings) == 10
    assert len(found(folder, table, packed.folder)) == 22
    with pytest.raises(ClipsError, match="packed at 16000 Hz, the front end needs 32000"):
        found(packed.folder, rate=32_000)


def test_a_table_needs_no_labels(folder, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(f"path\n{folder}/place0/8.wav\n{folder}/gone.wav\n")
    failures = {}
    assert len(found(table, failures=failures)) == 1
    assert [path.name for path in failures] == ["gone.wav"]
    with pytest.raises(ClipsError, match="labels"):
        Clips.read(table)


def test_corrupt_files_are_passed_over_and_named(folder, tmp_path):
    copy = tmp_path / "sounds"
    shutil.copytree(folder, copy)
    (copy / "broken.wav").write_bytes(b"RIFF no sound at all")
    (copy / "empty.flac").write_bytes(b"")
    soundfile.write(copy / "none.wav", np.zeros(0), RATE)
    failures = {}
    assert len(found(copy, failures=failures)) == 10
    assert sorted(path.name for path in failures) == ["broken.wav", "empty.flac", "none.wav"]
    with pytest.raises(ClipsError, match="none of 1 sound could be read"):
        found(copy / "broken.wav")


def test_long_recordings_are_sampled_and_never_read_whole(tmp_path, monkeypatch):
    long = write(tmp_path / "long.wav", np.tile(sound(4), 30))  # 120 s
    short = write(tmp_path / "short.wav", sound(2, seed=5))
    sounds = Sounds(found(long, short), RATE, SoundSettings(reach_seconds=1.5, crop_seconds=1))
    decoded = []

    def watched(clip, rate, longest):
        decoded.append((clip.path.name, clip.start, longest))
        return decode(clip, rate, longest)

    decode = sounds_module.decode
    monkeypatch.setattr(sounds_module, "decode", watched)
    waves = [sounds.draw(np.random.default_rng(seed)) for seed in range(60)]
    assert all(0 < len(wave) <= 1.5 * RATE for wave in waves)
    of_long = [start for name, start, longest in decoded if name == "long.wav"]
    assert all(longest <= 1.5 for name, _, longest in decoded if name == "long.wav")
    # 12 parts of 10 s against one: most draws, all over; the short one is decoded once and kept.
    assert len(of_long) > 45
    assert min(of_long) < 20
    assert max(of_long) > 100
    assert len(decoded) - len(of_long) == 1
    # What is drawn is what lies there.
    start = sounds.recordings[0].seconds - 1.5
    stretch = sounds._stretch(0, start)
    whole, _ = soundfile.read(long, dtype="int16")
    np.testing.assert_array_equal(stretch, whole[round(start * RATE) :])


def test_a_recording_that_breaks_later_is_noted_and_replaced(folder, tmp_path):
    copy = tmp_path / "sounds"
    shutil.copytree(folder, copy)
    recordings = found(copy)
    broken = next(copy.rglob("4.wav"))
    broken.write_bytes(b"gone bad")
    sounds = Sounds(recordings, RATE, SoundSettings())
    for seed in range(40):
        assert len(sounds.draw(np.random.default_rng(seed)))
    assert [path.name for path in sounds.failures] == ["4.wav"]
    for path in copy.rglob("*.wav"):
        path.unlink()
    with pytest.raises(ClipsError, match="in a row could not be decoded"):
        Sounds(recordings, RATE, SoundSettings()).draw(np.random.default_rng(0))


def test_pairs_are_a_function_of_seed_epoch_and_place(folder):
    settings = tiny(paths=[folder])
    sounds = Sounds(found(folder), RATE, settings.sounds)

    def batches(epoch, workers):
        loader = PairLoader(sounds, settings.model_copy(update={"workers": workers}), 3)
        loader.set_epoch(epoch)
        return [batch.wave() for batch in loader]

    first, again, other = batches(0, 0), batches(0, 2), batches(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (8, round(0.7 * RATE))
    assert not torch.equal(first[0][0], first[0][4])  # two views of one sound


# ---------------------------------------------------------------------- views and losses


def test_backgrounds_are_softer_than_what_they_lie_behind():
    generator = torch.manual_seed(0)
    features = torch.randn(64, 20, 16, generator=generator)
    features += 20 * torch.rand(64, 1, 1, generator=generator)  # loud and soft sounds
    mixed = add_background(features, 1.0, generator)
    loudness = [x.double().exp().sum((1, 2)).log() for x in (features, mixed)]
    louder = (loudness[1] - loudness[0]) * 10 / np.log(10)
    assert (mixed >= features).all()
    assert louder.max() < 1.0  # 6 dB softer adds 0.97 dB
    assert louder.median() > 0.001
    assert torch.equal(add_background(features, 0.0, generator), features)


def test_zoom_keeps_the_grid_and_changes_the_rest():
    generator = torch.manual_seed(0)
    features = torch.rand(8, 40, 16, generator=generator)
    moved = zoom(features, 0.3, generator)
    assert moved.shape == features.shape
    assert moved.isfinite().all()
    assert (moved - features).abs().mean() > 0.05
    torch.testing.assert_close(zoom(features, 1e-6, generator), features, atol=1e-3, rtol=0)


def test_contrast_against_a_slow_reference():
    vectors = torch.nn.functional.normalize(
        torch.randn(6, 4, generator=torch.manual_seed(0)), dim=1
    )
    total = 0.0
    for i in range(6):
        partner = (i + 3) % 6
        scores = {j: float(vectors[i] @ vectors[j]) / 0.5 for j in range(6) if j != i}
        total -= scores[partner] - np.log(sum(np.exp(s) for s in scores.values()))
    assert contrast(vectors, 0.5).item() == pytest.approx(total / 6, rel=1e-5)
    same = torch.eye(3, 4).repeat(2, 1)
    assert contrast(same, 0.05) < 1e-6  # partners alike, others orthogonal
    assert contrast(torch.ones(6, 4), 1.0).item() == pytest.approx(np.log(5))  # collapsed


def test_cells_hide_and_hold_the_same_places():
    cells = Cells(size=4, frames=10, bins=9)  # one frame column and one bin row are cut off
    hidden = cells.draw(3, 0.5, torch.manual_seed(0))
    assert hidden.shape == (3, 2, 2)
    assert (hidden.sum((1, 2)) == 2).all()
    features = torch.randn(3, 10, 9, generator=torch.manual_seed(1))
    seen = cells.hide(features, hidden)
    contents, left = cells.contents(features), cells.contents(seen)
    assert (left[hidden] == 0).all()
    assert torch.equal(left[~hidden], contents[~hidden])
    assert torch.equal(seen[:, 8:], features[:, 8:])
    assert torch.equal(seen[:, :, 8:], features[:, :, 8:])
    expected = features[1, 4:6, 0:2].mean()  # second column, first row, its first 2 x 2
    assert contents[1, 0, 1, 0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_hidden_cells_count_in_the_prediction():
    cells = Cells(size=4, frames=8, bins=8)
    predictor = Predictor(5, cells)
    nodes = torch.randn(2, 2, 2, 5, generator=torch.manual_seed(0))
    features = torch.randn(2, 8, 8, generator=torch.manual_seed(1))
    hidden = torch.zeros(2, 2, 2, dtype=torch.bool)
    hidden[0, 1, 0] = hidden[1, 0, 1] = True
    loss = predictor(Patches(nodes, None), features, hidden)
    changed = features.clone()
    changed[0, :4, :4] += 9  # row 0, column 0: not hidden
    assert torch.equal(loss, predictor(Patches(nodes, None), changed, hidden))
    changed[0, :4, 4:] += 9  # row 1, column 0
    assert predictor(Patches(nodes, None), changed, hidden) > loss


def test_spread_tells_a_collapse():
    vectors = torch.randn(256, 64, generator=torch.manual_seed(0))
    assert spread(vectors) > 0.98
    assert spread(torch.ones(8, 64)) < 1e-3
    assert spread(torch.ones(8, 64) + 0.001 * vectors[:8]) < 0.05


@pytest.mark.parametrize("method", ["views", "masked", "both"])
def test_every_method_learns_and_moves_every_weight(folder, method):
    settings = tiny(f"method={method}", "optim.batch_size=8", paths=[folder])
    loader = PairLoader(Sounds(found(folder), RATE, settings.sounds), settings, 1)
    torch.manual_seed(0)
    module = PretrainModule(settings)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    features = module._views(loader.batch(0))
    losses = []
    for _ in range(25):
        torch.manual_seed(1)
        loss = torch.stack(list(module._losses(features)[0].values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    assert not still
    assert (module.projector is None) == (method == "masked")
    assert (module.predictor is None) == (method == "views")


def test_norms_are_measured_anew(folder):
    module = PretrainModule(tiny())
    views = [torch.randn(8, 44, 128, generator=torch.manual_seed(i)) * 3 + 1 for i in range(2)]
    module.encoder.train()
    measure_norms(module.encoder, [(view,) for view in views])
    first = module.encoder.stem.convs[0]
    out = torch.cat([first.conv(v.transpose(1, 2)[:, None]).flatten(2) for v in views])
    torch.testing.assert_close(first.norm.running_mean, out.mean((0, 2)), atol=1e-4, rtol=1e-3)
    assert not any(part.training for part in module.encoder.modules())
    assert first.norm.momentum == 0.1


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("views.zom=1", ["unknown key views.zom", "did you mean 'zoom'"]),
        ("method=byol", ["'views', 'masked' or 'both'", "byol"]),
        ("model.preset=pyr-x", ["unknown preset 'pyr-x'"]),
        ("sounds.crop_seconds=0.05", ["one patch node", "lengthen the crop"]),
        ("sounds.reach_seconds=0.1", ["reach_seconds must not be shorter"]),
        ("masked.share=1", ["masked.share", "less than 1"]),
    ],
)
def test_bad_settings_give_one_clear_line(change, words):
    with pytest.raises(ConfigError) as error:
        tiny(change)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_settings_survive_a_round_trip(tmp_path):
    settings = tiny("method=masked", paths=["a", "b"])
    (tmp_path / "recipe.yaml").write_text(settings.to_yaml())
    assert load_settings(tmp_path / "recipe.yaml") == settings


# ---------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny(paths=[folder]), out)
    return out


def test_a_run_leaves_a_folder_that_explains_itself(finished, folder):
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert all(np.isfinite(float(row[name])) for row in rows for name in row)
    assert set(rows[0]) == {"epoch", "step", "loss", "views", "masked", "spread"}
    assert json.loads((finished / "sounds.json").read_text())["recordings"] == 10
    assert load_settings(finished / "recipe.yaml") == tiny(paths=[folder])
    card = (finished / "encoder" / "README.md").read_text()
    assert "10 recordings" in card
    assert "labels | none" in card
    with pytest.raises(CheckpointError, match="without labels"):
        Checkpoint.from_pretrained(finished / "encoder")
    vectors = Encoder.from_pretrained(finished / "encoder").embed(torch.randn(2, RATE) * 0.1)
    assert vectors.isfinite().all()


def test_a_tagger_starts_from_the_encoder(finished, folder, tmp_path):
    recipe = [
        f"data.clips={folder}",
        MODEL,
        "data.ontology=false",
        "data.validation_share=0",
        "optim.batch_size=4",
        "optim.epochs=1",
        f"init={finished / 'encoder'}",
    ]
    train(load_recipe("folder", recipe), tmp_path / "run")
    assert "tensors of the encoder copied" in (tmp_path / "run" / "init.txt").read_text()
    with pytest.raises(ConfigError, match=r"--set front_end.hop_ms=20"):
        train(load_recipe("folder", [*recipe, "front_end.hop_ms=10"]), tmp_path / "other")


def test_resume_ends_with_the_same_weights(finished, folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    step = PretrainModule.training_step

    def crash(self, batch, number):
        if self.global_step == 3:
            raise OSError("power cut")
        return step(self, batch, number)

    monkeypatch.setattr(PretrainModule, "training_step", crash)
    with pytest.raises(OSError, match="power cut"):
        pretrain(tiny(paths=[folder]), out)
    monkeypatch.setattr(PretrainModule, "training_step", step)
    with pytest.raises(ConfigError, match="not empty: give --resume"):
        pretrain(tiny(paths=[folder]), out)
    with pytest.raises(ConfigError, match=r"seed=42 \(now 3\)"):
        pretrain(tiny("seed=3", paths=[folder]), out, resume=True)
    with pytest.raises(ConfigError, match=r"sounds\.paths=.*place0"):
        pretrain(tiny(paths=[folder / "place0"]), out, resume=True)
    pretrain(tiny("workers=1", paths=[folder]), out, resume=True)  # how it is computed may change
    whole, resumed = weights(finished / "encoder"), weights(out / "encoder")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (out / "history.csv").read_text() == (finished / "history.csv").read_text()


def test_a_run_knows_its_sounds_and_settings(folder, tmp_path, monkeypatch):
    """From another folder, and by --out alone; there is nothing to resume without a run."""
    monkeypatch.chdir(folder.parent)
    out = tmp_path / "run"
    pretrain(tiny(paths=[folder.name]), out)
    monkeypatch.chdir(tmp_path)
    before = weights(out / "encoder")
    shutil.rmtree(out / "encoder")
    result = CliRunner().invoke(app, ["pretrain", "--out", str(out), "--resume"])
    assert result.exit_code == 0, result.output
    after = weights(out / "encoder")
    assert all(torch.equal(before[name], after[name]) for name in before)
    result = CliRunner().invoke(app, ["pretrain", "--out", str(tmp_path / "no"), "--resume"])
    assert result.exit_code == 2
    assert "nothing to resume" in result.stderr


def test_a_run_goes_on_within_its_rows(finished, folder, tmp_path, monkeypatch):
    """Three steps into rows of four: the state in the middle is enough."""
    settings = tiny("optim.report_every=4", paths=[folder])
    pretrain(settings, tmp_path / "whole")
    every_step = lambda path, minutes, steps: ResumePoint(path, minutes, 1)  # noqa: E731
    monkeypatch.setattr(run_module, "ResumePoint", every_step)
    step = PretrainModule.training_step

    def crash(self, batch, number):
        if self.global_step == 3:
            raise OSError("power cut")
        return step(self, batch, number)

    monkeypatch.setattr(PretrainModule, "training_step", crash)
    with pytest.raises(OSError, match="power cut"):
        pretrain(settings, tmp_path / "run")
    monkeypatch.setattr(PretrainModule, "training_step", step)
    pretrain(settings, tmp_path / "run", resume=True)
    whole, resumed = (weights(tmp_path / name / "encoder") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "run")]
    assert histories[0] == histories[1]


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module, "append_row", full)
    with pytest.raises(AtgnnError, match=r"No space left.*--resume goes on"):
        pretrain(tiny(paths=[folder]), tmp_path / "run")


def test_resume_over_other_sounds_is_refused(folder, tmp_path):
    copy = tmp_path / "sounds"
    shutil.copytree(folder, copy)
    pretrain(tiny("optim.steps=2", paths=[copy]), tmp_path / "run")
    write(copy / "new.wav", sound(1, seed=50))
    with pytest.raises(ConfigError, match=r"sounds are not those.*10 recordings.*now 11"):
        pretrain(tiny("optim.steps=2", paths=[copy]), tmp_path / "run", resume=True)


def test_silence_alone_collapses_and_is_said(tmp_path):
    for i in range(3):
        write(tmp_path / "silent" / f"{i}.wav", np.zeros(RATE))
    said = []
    changes = ("background", "noise", "equalise_db", "frequency_mask", "time_mask")
    alike = [f"views.{name}=0" for name in changes]
    alike.append("optim.learning_rate=1e-9")  # later, drop-path tells rounding errors apart
    settings = tiny("method=views", *alike, paths=[tmp_path / "silent"])
    pretrain(settings, tmp_path / "run", say=said.append)
    assert len([line for line in said if "embeddings collapse" in line]) == 1
    assert "collapsed" in (tmp_path / "run" / "encoder" / "README.md").read_text()


def test_the_command_passes_over_what_it_cannot_read(folder, tmp_path):
    copy = tmp_path / "sounds"
    shutil.copytree(folder, copy)
    (copy / "broken.wav").write_bytes(b"RIFF no sound at all")
    command = ["pretrain", str(copy), "--out", str(tmp_path / "run")]
    for change in TINY:
        command += ["--set", change]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "1 sound cannot be read" in result.stderr
    assert "broken.wav" in (tmp_path / "run" / "unreadable.csv").read_text()
    assert "init=" in result.stdout
    for wrong in (["pretrain", "--out", "x"], ["pretrain", str(tmp_path / "no"), "--out", "x"]):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------------- slow


def start(folder, out, *more):
    command = [sys.executable, "-m", "atgnn", "pretrain", str(folder), "--out", str(out), *more]
    for change in [*TINY, "optim.steps=60"]:
        command += ["--set", change]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_row(process, out, row):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        history = out / "history.csv"
        if history.is_file() and len(history.read_text().splitlines()) > row:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
def test_kill_9_and_ctrl_c_and_resume_end_with_the_same_weights(folder, tmp_path):
    assert start(folder, tmp_path / "whole").wait() == 0
    out = tmp_path / "killed"
    process = start(folder, out)
    wait_for_row(process, out, 3)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process = subprocess.Popen(
        [sys.executable, "-m", "atgnn", "pretrain", "--out", str(out), "--resume"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_row(process, out, 10)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "--resume goes on" in stderr
    assert start(folder, out, "--resume").wait() == 0
    whole, resumed = weights(tmp_path / "whole" / "encoder"), weights(out / "encoder")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_embeddings_of_pre_training_are_those_of_the_encoder():
    nodes = torch.randn(2, 3, 4, 5, generator=torch.manual_seed(0))
    mean, deviation = spread_of(Patches(nodes, None)).chunk(2, 1)
    torch.testing.assert_close(mean, nodes.mean((1, 2)))
    torch.testing.assert_close(
        deviation, nodes.flatten(1, 2).std(1, unbiased=False), atol=1e-4, rtol=1e-4
    )


def test_the_benchmark_hears_no_author_that_it_scores(shared_data):
    if not (Path(__file__).parents[1] / "benchmarks" / "pretrain").is_dir():
        pytest.skip("benchmarks come with a checkout only")
    from benchmarks.pretrain import clips

    heard = clips.unlabelled(shared_data, 2)
    known, scored = clips.esc10(shared_data, 2)
    assert len(heard) > 900
    assert not set(clips.authors(heard)) & set(clips.authors(scored))
    assert not {path.stem for path in heard.paths} & set(clips.LEFT_OUT)
    assert (len(known), len(scored)) == (320, 80)
    labels = known.column("category")
    rows = clips.draw(labels, 5, seed=0)
    assert [list(labels[rows]).count(name) for name in set(labels)] == [5] * 10
    assert list(rows) == list(clips.draw(labels, 5, seed=0))
    assert list(rows) != list(clips.draw(labels, 5, seed=1))
