"""What an exported model keeps of its accuracy, in float32 and in int8, and what it costs.

    python -m benchmarks.export.run --data ESC10 [--folds 1 2 3 4 5]

Each fold of ESC-10 is scored with the kept weights that were trained on the other four, by PyTorch,
by the ONNX file, and by its int8 version: accuracy, mAP, the change of scores, size of the file,
and time for a clip on one thread. These are looks at test folds that are on record (`first`).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from atgnn.audio import Source
from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.export import export_onnx
from atgnn.metrics import average_precision
from atgnn.onnx_tagger import OnnxTagger
from atgnn.tagger import Tagger

KEPT = Path(__file__).parents[1] / "esc10" / "first" / "seed1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [fold_rows(args.data, fold) for fold in args.folds]
    print("| system | accuracy | mAP | mean change of a score | largest | MB | ms a clip |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in rows[0]:
        mean = np.mean([row[name] for row in rows], axis=0)
        accuracy, precision, change, _, size, spent = mean
        largest = max(row[name][3] for row in rows)
        print(
            f"| {name} | {accuracy:.3f} | {precision:.3f} | {change:.2g} | {largest:.2g} "
            f"| {size:.1f} | {spent:.0f} |"
        )


def fold_rows(data: Path, fold: int) -> dict[str, tuple[float, ...]]:
    """Accuracy, mAP, mean and largest change of a score, MB, ms: of every system."""
    model = KEPT / f"fold{fold}"
    checkpoint, clips = Checkpoint.from_pretrained(model), list(Clips.read(data).where(fold=fold))
    names = checkpoint.vocabulary.names
    truth = np.array([names.index(clip.extra["category"]) for clip in clips])
    paths = [clip.path for clip in clips]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "int8")}
        for name, path in files.items():
            export_onnx(checkpoint, path, int8=name == "int8")
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
        taggers = {name: OnnxTagger(path, threads=1) for name, path in files.items()}
    plain = Tagger(checkpoint, "cpu")
    base, spent = _all(plain.scores, paths)
    whole = (model / "model.safetensors").stat().st_size / 1e6
    rows = {"PyTorch": _row(base, base, truth, whole, spent)}
    for name, tagger in taggers.items():
        scores, spent = _all(tagger.scores, paths)
        rows[f"ONNX {name}"] = _row(scores, base, truth, sizes[name], spent)
    return rows


def _all(score: Callable[[Source], np.ndarray], paths: list[Path]) -> tuple[np.ndarray, float]:
    score(paths[0])
    begun = time.perf_counter()
    found = np.stack([score(path) for path in paths])
    return found, 1000 * (time.perf_counter() - begun) / len(paths)


def _row(
    scores: np.ndarray, base: np.ndarray, truth: np.ndarray, size: float, spent: float
) -> tuple[float, ...]:
    targets = np.eye(scores.shape[1])[truth]
    change = np.abs(scores - base)
    accuracy = float((scores.argmax(1) == truth).mean())
    precision = float(np.mean(average_precision(targets, scores)))
    return accuracy, precision, float(change.mean()), float(change.max()), size, spent


if __name__ == "__main__":
    main()
