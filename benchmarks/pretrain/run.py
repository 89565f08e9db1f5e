"""What pre-training without labels buys where labels are few: 5, 10 and 20 clips a class.

    python -m benchmarks.pretrain.run pretrain --data SOUNDS --out RUNS [--steps 1000]
    python -m benchmarks.pretrain.run probe    --data SOUNDS --out RUNS
    python -m benchmarks.pretrain.run tune     --data SOUNDS --out RUNS [--draws 3 --updates 150]
    python -m benchmarks.pretrain.run report

`pretrain` makes three encoders, one for each method, from all sounds but those of the scored
fold's authors, and one with random weights. `probe` classifies their embeddings of ESC-10's clips
linearly, and beside them MFCCs by a support vector machine. `tune` trains whole networks from
random weights and from the encoders. Both draw labelled clips several times and score ESC-10's
fold 2, which serves for validation here and is no test. `report` prints the table from the record,
results.csv: intervals come from resampling the authors of the scored clips.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dct
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from atgnn.data.clips import Clips
from atgnn.data.store import SCALE, decode
from atgnn.encoder import Encoder
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.metrics import cluster_interval
from atgnn.tagger import Tagger
from benchmarks import records
from benchmarks.pretrain.clips import authors, draw, esc10, unlabelled

RECORD = Path(__file__).with_name("results.csv")
FIELDS = ("evaluation", "system", "clips_a_class", "draws", "filename", "author", "right")
FOLD = 2  # scored: validation
COUNTS = (5, 10, 20)
METHODS = ("views", "masked", "both")
RANDOM = ("optim.steps=1", "optim.learning_rate=1.0e-12")  # only the norms are measured
RATE = 16_000
TUNED = [  # what the record was made with
    "model={preset: mini}",
    *("optim.batch_size=12", "optim.learning_rate=1e-3", "optim.weight_decay=0.05"),
    *("augment.trim_silence=true", "augment.fill=0.7", "augment.stretch=0.2"),
    *("augment.equalise_db=4", "augment.mixup_probability=0.5"),
]


def atgnn(*arguments: str, log: Path) -> None:
    """Run a command of ours on one thread; its output goes to `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        command = [sys.executable, "-m", "atgnn", *arguments]
        subprocess.run(command, check=True, env=environment, stdout=file, stderr=file)


# ---------------------------------------------------------------------- encoders


def pretrain(args: argparse.Namespace) -> None:
    """An encoder of each method, and one that learned nothing; interrupted ones go on."""
    args.out.mkdir(parents=True, exist_ok=True)
    table = unlabelled(args.data, FOLD).write(args.out / "unlabelled.csv")
    for name in ("random", *args.methods):
        out = args.out / name
        if (out / "encoder").is_dir():
            continue
        settings = [f"optim.steps={args.steps}", f"optim.warmup_steps={max(1, args.steps // 10)}"]
        settings = list(RANDOM) if name == "random" else [f"method={name}", *settings]
        changes = [word for one in (*settings, *args.set) for word in ("--set", one)]
        resume = ["--resume"] if (out / "recipe.yaml").is_file() else []
        atgnn(
            "pretrain", str(table), "--out", str(out), *changes, *resume,
            log=args.out / f"{name}.log",
        )  # fmt: skip
        print(f"{name}: {out / 'encoder'}", flush=True)


def encoders(out: Path) -> dict[str, Path]:
    """Those that are there."""
    folders = {name: out / name / "encoder" for name in ("random", *METHODS)}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


# ---------------------------------------------------------------------- probes


def waves(clips: Clips) -> list[torch.Tensor]:
    """The sound of each clip, (1, S)."""
    return [torch.from_numpy(decode(clip, RATE) * np.float32(SCALE))[None] for clip in clips]


@torch.inference_mode()
def embeddings(folder: Path, sounds: list[torch.Tensor]) -> np.ndarray:
    """(N, 2 C), of whole clips."""
    encoder = Encoder.from_pretrained(folder)
    return np.concatenate([encoder.embed(wave).numpy() for wave in sounds])


@torch.inference_mode()
def mfcc(sounds: list[torch.Tensor]) -> np.ndarray:
    """Mean and deviation of 20 cepstral coefficients and of their differences, (N, 80)."""
    front_end = FrontEnd(FrontEndConfig(hop_ms=20))
    rows = []
    for wave in sounds:
        cepstrum = dct(front_end.log_mel(wave)[0][0].numpy(), norm="ortho", axis=1)[:, :20]
        change = np.diff(cepstrum, axis=0)
        parts = (cepstrum.mean(0), cepstrum.std(0), change.mean(0), change.std(0))
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def probe(args: argparse.Namespace) -> None:
    """Simple classifiers on frozen features."""
    known, scored = esc10(args.data, FOLD)
    sounds = waves(known), waves(scored)

    def linear() -> object:
        return LogisticRegression(max_iter=500)

    systems = {
        name: (linear, tuple(embeddings(folder, part) for part in sounds))
        for name, folder in encoders(args.out).items()
    }
    systems["mfcc + svm"] = lambda: SVC(C=10), tuple(mfcc(part) for part in sounds)
    systems["mfcc"] = linear, tuple(mfcc(part) for part in sounds)
    labels, truth = (np.asarray(part.column("category"), str) for part in (known, scored))
    for name, (kind, (features, unseen)) in systems.items():
        for count in COUNTS:
            right = np.zeros(len(scored))
            for seed in range(args.draws):
                rows = draw(labels, count, seed)
                classifier = make_pipeline(StandardScaler(), kind())
                classifier.fit(features[rows], labels[rows])
                right += classifier.predict(unseen) == truth
            record("probe", name, count, args.draws, scored, right / args.draws)
    report(args)


# ---------------------------------------------------------------------- fine-tuning


def tune(args: argparse.Namespace) -> None:
    """The esc10 recipe with few clips, from random weights and from encoders."""
    known, scored = esc10(args.data, FOLD)
    labels, truth = (np.asarray(part.column("category"), str) for part in (known, scored))
    chosen = {name: encoders(args.out)[name] for name in args.methods}
    for count in args.counts:
        for name, folder in {"random": None, **chosen}.items():
            right = np.zeros(len(scored))
            for seed in range(args.draws):
                out = args.out / "tuned" / f"{name}-{count}-{seed}"
                table = out.with_suffix(".csv")
                table.parent.mkdir(parents=True, exist_ok=True)
                known.subset(draw(labels, count, seed)).write(table)
                train(table, out, folder, count, args.updates, seed)
                right += named(out / "model", scored) == truth
            record("tune", name, count, args.draws, scored, right / args.draws)
    report(args)


def train(table: Path, out: Path, init: Path | None, count: int, updates: int, seed: int) -> None:
    """One run, as many updates whatever the number of clips; one that is there is kept."""
    if (out / "model").is_dir():
        return
    settings = [
        *TUNED,
        f"optim.epochs={-(-updates // max(1, 10 * count // 12))}",
        f"seed={seed + 1}",
        *([f"init={init}"] if init else []),
    ]
    changes = [word for one in settings for word in ("--set", one)]
    resume = ["--resume"] if (out / "recipe.yaml").is_file() else []
    atgnn(
        "train", "esc10", "--clips", str(table), "--out", str(out), *changes, *resume,
        log=out.with_suffix(".log"),
    )  # fmt: skip


def named(model: Path, clips: Clips) -> np.ndarray:
    """The class that a model names first, (N,)."""
    tagger = Tagger.from_pretrained(model, "cpu")
    results = tagger.tag_many([str(path) for path in clips.paths], top=1, threshold=0.0)
    return np.array([result.tags[0].label for result in results])


# ---------------------------------------------------------------------- record


def record(
    evaluation: str, system: str, count: int, draws: int, clips: Clips, right: np.ndarray
) -> None:
    """Keep the share of draws in which each clip was named rightly; an older row goes."""
    key = (evaluation, system, str(count))
    kept = [row for row in records.read(RECORD) if tuple(row[name] for name in FIELDS[:3]) != key]
    names = authors(clips)
    for path, name, share in zip(clips.paths, names, right, strict=True):
        values = (*key, draws, path.name, name, f"{share:.4f}")
        kept.append(dict(zip(FIELDS, values, strict=True)))
    records.write(RECORD, FIELDS, kept)


def report(args: argparse.Namespace) -> None:
    """Percent right, its interval, and the difference to random weights in pairs."""
    print("| evaluation | system | clips a class | draws | accuracy | less random weights |")
    print("|---|---|---:|---:|---:|---:|")
    cells: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in records.read(RECORD):
        cells.setdefault((row["evaluation"], row["system"], row["clips_a_class"]), []).append(row)
    for (evaluation, system, count), part in cells.items():
        own = [float(row["right"]) for row in part]
        names = [row["author"] for row in part]
        text = shown(own, names)
        base = cells.get((evaluation, "random", count))
        gain = ""
        if base is not None and system != "random":
            known = {row["filename"]: float(row["right"]) for row in base}
            pairs = zip(own, part, strict=True)
            gain = shown([mine - known[row["filename"]] for mine, row in pairs], names, "+.1f")
        print(f"| {evaluation} | {system} | {count} | {part[0]['draws']} | {text} | {gain} |")


def shown(values: list[float], names: list[str], form: str = ".1f") -> str:
    """A mean of shares with its interval, in percent."""
    interval = cluster_interval(values, names, generator=np.random.default_rng(0))
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (pretrain, probe, tune, report):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        if function is report:
            continue
        command.add_argument("--data", type=Path, required=True, help="folder of the collections")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
    for name, draws in (("probe", 20), ("tune", 3)):
        commands.choices[name].add_argument("--draws", type=int, default=draws)
    for name in ("pretrain", "tune"):
        commands.choices[name].add_argument("--methods", nargs="*", default=METHODS)
    command = commands.choices["pretrain"]
    command.add_argument("--steps", type=int, default=1000)
    command.add_argument("--set", action="append", default=[], help="change a setting")
    command = commands.choices["tune"]
    command.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    command.add_argument("--updates", type=int, default=150, help="of the weights, in each run")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
