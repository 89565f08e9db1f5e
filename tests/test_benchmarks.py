"""The speed commands: the published algorithm gives our scores, and every command its figures."""

import argparse
import importlib
import json
import runpy
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.graph import backend_in_use
from atgnn.model import ATGNN, PRESETS, products
from atgnn.model.cost import measure_cost
from atgnn.model.inference import for_inference
from atgnn.scoring import ScoreTable

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "speed").is_dir():
    pytest.skip("benchmarks come with a checkout only", allow_module_level=True)

from benchmarks import records  # noqa: E402
from benchmarks.esc10 import run as esc10  # noqa: E402
from benchmarks.speed import __main__ as command_line  # noqa: E402
from benchmarks.speed import bound, harness, kaldi, published, systems  # noqa: E402
from benchmarks.speed.accuracy import accuracies  # noqa: E402
from benchmarks.speed.half import CHOICES, HEADS, with_parts  # noqa: E402
from benchmarks.speed.mobilenet import MobileNetTagger  # noqa: E402

LAYOUTS = {
    "grid": {},
    "legacy": {"position": "legacy", "nominal_frames": 512},
    "euclidean": {"distance": "euclidean"},
    "dense updates": {"update_groups": 1, "label_update_groups": 1, "label_ffn_ratio": 0},
    "encoder": {"label_blocks": ()},
    "reduced": {"reductions": (4, 2, 1), "dilation_every": 1, "dilation_budget": 18},
}


def random_model(name: str = "mini", frames: int = 256, **changes: object) -> ATGNN:
    """A small random model whose batch norms have seen what they get."""
    torch.manual_seed(0)
    model = ATGNN.from_preset(name, num_labels=20, **changes)
    case = harness.Case("infer", "ours", seconds=frames / 102.4)
    return systems.settled(model, case)


# ---------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_published_algorithm_gives_our_scores(layout):
    ours = random_model(**LAYOUTS[layout]).double()
    theirs = published.published_from(ours, 512).double()
    mel = torch.randn(2, 512, 128, dtype=torch.float64)
    assert torch.allclose(ours(mel), theirs(mel), rtol=0, atol=1e-9)


@torch.no_grad()
def test_isotropic_published_algorithm_gives_our_scores():
    small = {"channels": (48,), "stem_widths": (6, 12, 24, 48, 48), "blocks": (5,)}
    ours = random_model("iso-ti", **small).double()
    theirs = published.published_from(ours, 512).double()
    mel = torch.randn(1, 512, 128, dtype=torch.float64)
    assert torch.allclose(ours(mel), theirs(mel), rtol=0, atol=1e-9)


def test_published_algorithm_gives_our_gradients():
    """In training mode, of every parameter."""
    ours = random_model(drop_path=0.0, label_drop_path=0.0).double().train()
    theirs = published.published_from(ours, 256).double()
    mel = torch.randn(2, 256, 128, dtype=torch.float64)
    for model in (ours, theirs):
        model(mel).square().sum().backward()
    other = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        name, grad = published.converted(key, parameter.grad)
        expected = other[name].grad
        if name == "encoder.absolute":  # the published one is made for this length
            grad = grad[..., : expected.shape[-1]]
        assert torch.allclose(grad, expected.reshape(grad.shape), rtol=1e-7, atol=1e-7), key


class Graphs(TorchDispatchMode):
    """Keeps the neighbours that our operator finds, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.atgnn.knn_extremum.default:
            self.found.append(out[1].long())
        return out


@pytest.mark.parametrize("name", ["mini", pytest.param("pyr-ti", marks=pytest.mark.slow)])
@torch.no_grad()
def test_in_single_precision_only_near_ties_differ(name, monkeypatch):
    """Same graphs, same scores; and our graphs are the published ones but for near-ties.

    A near-tie that falls the other way is a right graph too, but random networks amplify it.
    """
    ours = random_model(name)
    theirs = published.published_from(ours, 512)
    mel = torch.randn(2, 512, 128)
    with Graphs() as graphs:
        scores = ours(mel)
    find, found = published.nearest, iter(graphs.found)
    worst = []

    def same_graph(x, y, k, dilation, relative, cosine):
        ours = next(found)
        table = None if relative is None else relative.double()
        distance = squared_distances(x.double(), y.double(), table, cosine)
        exact = find(x, y, k, dilation, relative, cosine)
        worst.append((distance.gather(2, ours) - distance.gather(2, exact)).abs().max().item())
        return ours

    monkeypatch.setattr(published, "nearest", same_graph)
    assert torch.allclose(theirs(mel), scores, rtol=1e-4, atol=1e-4)
    assert len(worst) == len(graphs.found) == sum(ours.config.blocks + ours.config.label_blocks)
    assert max(worst) < 1e-5


def squared_distances(x, y, table, cosine):
    """``(B, N, M)`` from ``(B, C, N, 1)`` and ``(B, C, M, 1)``, directly."""
    if cosine:
        x, y = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    out = torch.cdist(x[..., 0].mT, y[..., 0].mT, compute_mode="donot_use_mm_for_euclid_dist")
    return out.square() if table is None else out.square() + table


def test_published_front_end_gives_our_features():
    config = FrontEndConfig()
    wave = systems.waveform(2.0, 2)
    ours, _ = FrontEnd(config).log_mel(wave)
    theirs = torch.stack([kaldi.fbank(clip, config) for clip in wave])
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_mobilenet_has_the_published_size():
    parameters = sum(p.numel() for p in MobileNetTagger(527).parameters())
    assert parameters == pytest.approx(4.88e6, rel=0.005)


# ---------------------------------------------------------------------------- the commands


def report(capsys, *arguments: str) -> dict:
    """What a command prints with --json."""
    assert command_line.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_ratios(case: dict) -> None:
    """The ratios are those of the times that the report gives."""
    rows = {f"{row['system']} {row['precision']}": row for row in case["systems"]}
    for row in rows.values():
        assert row["median_ms"] == pytest.approx(1e3 * statistics.median(row["seconds"]))
        assert row["ms_per_clip"] == pytest.approx(row["median_ms"] / row["batch"])
    assert case["ratios"]
    for ratio in case["ratios"]:
        own, other = rows[ratio["ours"]], rows[ratio["other"]]
        assert ratio["of_medians"] == pytest.approx(other["median_ms"] / own["median_ms"])
        by_round = [b / a for a, b in zip(own["seconds"], other["seconds"], strict=True)]
        assert ratio["median_of_rounds"] == pytest.approx(statistics.median(by_round))


SMALL = ["--preset", "mini", "--seconds", "2", "--rounds", "2", "--threads", "1"]
PAIR = ["--systems", "ours,published"]


@pytest.mark.parametrize("command", ["infer", "train"])
def test_networks_are_compared(command, capsys):
    found = report(capsys, command, *SMALL, *PAIR, "--batch", "2", "--precision", "fp32",
                   "--no-memory")  # fmt: skip
    assert found["command"] == command
    assert found["machine"]["threads"] == 1
    assert found["machine"]["kernel"]["fp32"]
    (case,) = found["cases"]
    assert [row["system"] for row in case["systems"]] == ["ours", "published"]
    assert [len(row["seconds"]) for row in case["systems"]] == [2, 2]
    check_ratios(case)


def test_half_precision_is_compared_with_both(capsys):
    """Ours in bf16 against the published algorithm in bf16 and in fp32."""
    found = report(capsys, "infer", *SMALL, *PAIR, "--batch", "1", "--precision", "fp32", "bf16",
                   "--no-memory")  # fmt: skip
    pairs = {(ratio["ours"], ratio["other"]) for ratio in found["cases"][0]["ratios"]}
    assert pairs == {
        ("ours fp32", "published fp32"),
        ("ours bf16", "published fp32"),
        ("ours bf16", "published bf16"),
    }


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    case = harness.Case("train", "published", preset="mini", batch=2, seconds=2.0)
    small = harness.peak_memory(case, threads=1)
    assert 50 < small["own_mb"] < small["peak_mb"] < 2000
    large = harness.peak_memory(harness.Case(**{**vars(case), "batch": 8}), threads=1)
    assert large["own_mb"] > 1.5 * small["own_mb"]


def test_length_says_how_time_grows(capsys):
    found = report(capsys, "length", "--preset", "mini", "--rounds", "1", "--threads", "1",
                   "--seconds", "2", "4", "--batch", "1", "--systems", "ours,published,tagger",
                   "--precision", "fp32", "--no-memory")  # fmt: skip
    assert [case["systems"][0]["clip_seconds"] for case in found["cases"]] == [2, 4, 10]
    for case in found["cases"]:
        check_ratios(case)
    ours = {row["clip_seconds"]: row for row in found["growth"] if row["system"] == "ours"}
    longer = ours[4]["median_ms"] / ours[10]["median_ms"]
    assert ours[10]["growth"] == 1
    assert ours[4]["growth"] == pytest.approx(longer / 0.4)


def test_front_ends_are_compared(capsys):
    found = report(capsys, "frontend", *PAIR, "--batch", "2", "--seconds", "1", "--rounds", "2",
                   "--no-memory")  # fmt: skip
    (case,) = found["cases"]
    check_ratios(case)
    for row in case["systems"]:
        assert row["times_real_time"] == pytest.approx(2 / (1e-3 * row["median_ms"]))


def test_front_ends_of_other_systems_are_timed_against_librosa(capsys):
    pytest.importorskip("librosa")
    options = ["--preset", "cnn14-16k", "--batch", "2", "--seconds", "1", "--rounds", "1"]
    found = report(capsys, "frontend", *options, "--no-memory")
    assert [row["system"] for row in found["cases"][0]["systems"]] == ["ours", "published"]
    assert "published: librosa" in found["notes"]


def test_front_end_measures_the_statistics_of_a_folder(tmp_path, capsys):
    import soundfile

    soundfile.write(tmp_path / "a.wav", systems.waveform(1.0)[0].numpy(), 16_000)
    found = report(capsys, "frontend", "--statistics", str(tmp_path))
    assert found["statistics"]["clips"] == 1
    assert found["statistics"]["std"] > 0


@pytest.mark.slow
def test_cold_start_times_whole_processes(capsys):
    found = report(capsys, "coldstart", "--systems", "ours,published", "--preset", "mini",
                   "--seconds", "2", "--rounds", "1", "--threads", "1")  # fmt: skip
    (case,) = found["cases"]
    check_ratios(case)
    for row in case["systems"]:
        assert row["median_ms"] > 200  # nothing imports PyTorch faster
        assert row["peak_mb"] > 100


def test_bound_adds_up(capsys, monkeypatch):
    for name, less in (("LEAST_SECONDS", 0.001), ("COPY_BYTES", 2**22), ("PROFILED", 1)):
        monkeypatch.setattr(bound, name, less)
    found = report(capsys, "bound", *SMALL, *PAIR, "--batch", "1", "--precision", "fp32")
    (case,) = found["cases"]
    parts = case["dense_ms"] + case["scores_ms"] + case["graph_bytes_ms"]
    assert case["bound_ms"] == pytest.approx(parts)
    for row in case["systems"]:
        assert row["times_the_bound"] == pytest.approx(row["median_ms"] / case["bound_ms"])
        kinds = case["breakdown"][row["system"]]
        assert kinds["scores and graph"] > 0
        assert kinds["convolution"] > 0
        assert kinds["normalisation"] >= 0


@pytest.mark.parametrize("preset", ["mini", "pyr-ti", "iso-ti"])
def test_bound_counts_the_work_that_the_model_counts(preset):
    config = PRESETS[preset]
    case = harness.Case("infer", "ours", preset=preset, batch=3)
    dense = sum(shape.gflop for shape in bound.dense_shapes(case)) / 3
    scores = bound.score_gflop(config, case.frames)
    assert (dense + scores) / 2 == pytest.approx(measure_cost(config).gmacs, rel=1e-3)


@pytest.mark.parametrize("command", [("bound",), ("infer", "--systems", "ours,published")])
def test_layouts_that_were_never_published_are_refused(command, capsys):
    words = *command, "--preset", "mini-lite0", "--seconds", "1", "--batch", "1", "--rounds", "1"
    assert command_line.main([*words, "--precision", "fp32"]) == 1
    assert "this one has trunk lite0 and pooling mean_std" in capsys.readouterr().err


def test_accuracy_stands_beside_time(capsys):
    found = report(capsys, "accuracy", "--preset", "mini", "iso-ti", "--seconds", "1", "--rounds",
                   "1", "--threads", "1", "--precision", "fp32")  # fmt: skip
    rows = {row["preset"]: row for row in found["rows"]}
    assert rows["mini"]["esc10_accuracy"] >= 0.9
    assert rows["mini"]["esc10_clips"] == 400
    assert rows["iso-ti"]["esc10_accuracy"] is None
    assert all(row["median_ms"] > 0 for row in rows.values())
    known = accuracies()
    assert set(known) == {"mini", "mini-lite0"}
    assert known["mini-lite0"][1] == 400  # of all folds, though one fold's weights are kept


@pytest.mark.skipif(not find_spec("transformers"), reason="transformers is not installed")
@pytest.mark.slow
def test_ast_takes_part(capsys):
    found = report(capsys, "infer", *SMALL, "--systems", "ours,ast,mobilenet", "--batch", "1",
                   "--precision", "fp32", "--no-memory")  # fmt: skip
    check_ratios(found["cases"][0])


def test_a_missing_package_leaves_its_system_out(monkeypatch, capsys):
    monkeypatch.setitem(systems.NEEDS, "ast", "a_package_that_is_not_there")
    found = report(capsys, "infer", *SMALL, "--systems", "ours,published,ast", "--batch", "1",
                   "--precision", "fp32", "--no-memory")  # fmt: skip
    assert [row["system"] for row in found["cases"][0]["systems"]] == ["ours", "published"]
    assert "a_package_that_is_not_there" in found["notes"][0]


def test_unknown_systems_and_commands_are_refused(capsys):
    assert command_line.main(["infer", "--systems", "ours,theirs"]) == 1
    assert "theirs" in capsys.readouterr().err
    assert command_line.main(["speed"]) == 2
    assert command_line.main([]) == 0


SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "import argparse" in path.read_text("utf-8") and "__name__ ==" in path.read_text("utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_what_it_takes(script, monkeypatch, capsys):
    for needed in ("sklearn", "faiss", "sed_scores_eval"):
        if needed in (ROOT / f"{script.replace('.', '/')}.py").read_text("utf-8"):
            pytest.importorskip(needed)
    monkeypatch.setattr("sys.argv", [script, "--help"])
    monkeypatch.delitem(sys.modules, script, raising=False)
    with pytest.raises(SystemExit) as left:
        runpy.run_module(script, run_name="__main__")
    assert left.value.code in (0, None)
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_command_is_there(command):
    assert callable(importlib.import_module(f"benchmarks.speed.{command}").main)


def test_neighbours_says_what_k_costs(capsys):
    found = report(capsys, "neighbours", "--preset", "mini", "--k", "2", "12", "20", "--rounds",
                   "1", "--threads", "1", "--seconds", "1")  # fmt: skip
    rows = found["cases"][0]["rows"]
    assert [row["k"] for row in rows] == [2, 12, 20]
    assert [row["largest_dilation"] for row in rows] == [24, 4, 2]
    assert rows[0]["ratio"] == 1
    assert rows[2]["ratio"] == rows[2]["seconds"][0] / rows[0]["seconds"][0]
    assert rows[1]["paper_map"] == 57.7
    assert rows[0]["paper_map"] is None
    assert "smaller than" in found["note"]


def test_parts_of_a_model_in_half_precision_stay_in_float32() -> None:
    """Each choice is some parts of the model, more of them bring it nearer, and all are float32."""
    if not products.available() or backend_in_use() != "avx512_bf16":
        pytest.skip("a model in bfloat16 is put together otherwise here")
    torch.manual_seed(0)
    model = ATGNN.from_preset("mini", num_labels=7, nominal_frames=96).eval()
    mel = torch.randn(1, 96, 128)
    exact = for_inference(model)(mel)

    def in_float32(parts: tuple[str, ...]) -> int:
        modules = with_parts(model, parts).modules()
        weights = (getattr(module, "weight", None) for module in modules)
        return sum(w.numel() for w in weights if w is not None and w.dtype == torch.float32)

    assert torch.equal(with_parts(model, ("stages", *HEADS))(mel), exact)
    assert not torch.equal(with_parts(model, ())(mel), exact)
    counts = [in_float32(parts) for parts in CHOICES.values()]
    assert all(count > counts[0] for count in counts[1:])


def test_seeds_together_are_the_mean_of_their_scores(tmp_path, monkeypatch):
    """Two models that are wrong by themselves; the record and the look are kept once."""
    rows = ["a.wav,dog,ann,1", "b.wav,rain,bob,1", "c.wav,dog,cem,2"]
    (tmp_path / "esc10" / "audio").mkdir(parents=True)
    text = "\n".join(["filename,category,author,fold", *rows]) + "\n"
    (tmp_path / "esc10" / "meta.csv").write_text(text)
    for name in "abc":
        (tmp_path / "esc10" / "audio" / f"{name}.wav").touch()
    said = {1: [[0.6, 0.4], [0.45, 0.55]], 2: [[0.3, 0.7], [0.7, 0.3]], 3: [[0.8, 0.2], [0.1, 0.9]]}

    def scored(row, model, clips):
        nothing = [float("nan")] * 2
        return ScoreTable(list(clips.paths), [0.0] * 2, nothing, ("dog", "rain"), said[int(model)])

    monkeypatch.setattr(esc10, "HERE", tmp_path)
    monkeypatch.setattr(esc10, "LOOKS", tmp_path / "looks.csv")
    monkeypatch.setattr(esc10, "scored", scored)
    monkeypatch.setattr(esc10, "model_of", lambda where, row, fold, seed: str(seed))
    monkeypatch.setattr(esc10, "report", lambda args: None)
    args = argparse.Namespace(
        data=tmp_path, out=tmp_path, threads=1, row="pooled", seeds=[1, 2, 3], folds=[1]
    )
    esc10.together(args)
    esc10.together(args)
    (look,) = (tmp_path / "looks.csv").read_text().splitlines()
    assert "row pooled, mean scores of seeds 1 2 3" in look
    assert ",1.0000," in look
    record = records.read(tmp_path / "pooled-together" / "seed1" / "fold1.csv")
    assert [one["predicted"] for one in record] == ["dog", "rain"]
    assert [one["score"] for one in record] == ["0.5667", "0.5833"]
