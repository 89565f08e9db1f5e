"""The trainings behind the models that ship.

    python -m benchmarks.everyday.fit validate --data SOUNDS --out RUNS [--rows ROW ...]
    python -m benchmarks.everyday.fit train    --data SOUNDS --out RUNS [--model MODEL]

Folds are divided by author over all collections (clips.py). Every clip is heard freed of digital
silence, and re-encoded in two ways (variants.py), so that a collection's codec or editing gives no
label away. Encoders are pre-trained on all sounds, without labels, but those of fold 1's authors,
or start from ImageNet's pictures (`pictures`) and have heard nothing before.

`validate` trains on folds 3 to 5 and measures on fold 2, on trimmed and on re-encoded copies, with
negatives of the same collection; what it finds is on record in tuning.csv. There settings are
chosen. `train` makes, with the settings of the model's row in `MODELS`, for `make.py`:

- RUNS/MODEL/final: folds 2 to 5;
- RUNS/MODEL/apart-2 to apart-5: the same without one of these folds, whose scores set the
  thresholds;
- RUNS/MODEL/elsewhere-NAME: without a collection, nor any of its authors, from one re-encoded copy;
  a pre-trained encoder has heard it, without labels.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data import Clips
from atgnn.evaluate import LeftOut, evaluate, leave_one_collection_out, owners_of
from atgnn.labels import Ontology, Vocabulary
from benchmarks import records, runs
from benchmarks.everyday.clips import build
from benchmarks.everyday.variants import make as make_variants
from benchmarks.pretrain.clips import LEFT_OUT

HERE = Path(__file__).parent

TUNING = HERE / "tuning.csv"
FIELDS = ("row", "trimmed", "re-encoded", "trimmed, all negatives", "re-encoded, all negatives")
TEST, VALIDATION = 1, 2
OTHERS = (2, 3, 4, 5)
COPIES = 2  # re-encoded ones of each clip
PRETRAIN = ("optim.steps=1500", "optim.warmup_steps=150", "optim.report_every=250")


@dataclass(frozen=True)
class Row:
    """A way to train: what it changes in the recipe, on which copies, from an encoder or not."""

    settings: tuple[str, ...] = ()
    copies: bool = True
    pretrained: bool = False


def changes(**settings: object) -> tuple[str, ...]:
    """Settings of the augmentation."""
    return tuple(f"augment.{name}={value}" for name, value in settings.items())


QUIET = changes(noise=0, stretch=0, equalise_db=0)
PICTURES = ("model={preset: mini-lite0}", "init=imagenet", "precision=bf16-mixed")
SMALL = ("optim.batch_size=16", "optim.learning_rate=1e-3")
ROWS = {
    "published": Row((*SMALL, "optim.epochs=40", *QUIET), copies=False),  # the first edition
    "copies": Row(QUIET),
    "noise": Row(),  # the recipe as it is
    "pretrained": Row(QUIET, pretrained=True),
    "pretrained-noise": Row(pretrained=True),
    "pretrained-mix": Row(
        ("optim.epochs=45", *changes(stretch=0, equalise_db=0, mixup_probability=0.6)),
        pretrained=True,
    ),
    # Convolutions that have seen ImageNet, in fewer epochs.
    "pictures": Row((*PICTURES, "optim.epochs=12", "optim.learning_rate=8e-4")),
}


@dataclass(frozen=True)
class Shipped:
    """How a model that ships is trained: its row, and epochs of those without a collection."""

    row: str
    epochs_elsewhere: int


MODELS = {
    "everyday-lite0": Shipped("pictures", 10),  # of 12
    "everyday-mini": Shipped("pretrained-noise", 30),  # of 30
}


@dataclass(frozen=True)
class Shop:
    """Clips, where runs go, and threads of each."""

    data: Path
    out: Path
    threads: int = 1

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)

    def published(self) -> Clips:
        """The clips as they are, with folds by author."""
        table = self.out / "clips.csv"
        if not table.is_file():
            build(self.data).clips.write(table)
        return Clips.read(table)

    def variants(self) -> Clips:
        """Trimmed and re-encoded copies of each, column `copy`."""
        table = self.out / "variants" / "clips.csv"
        if not table.is_file():
            make_variants(self.published(), table.parent, copies=COPIES)
        return Clips.read(table)

    def encoder(self) -> Path:
        """What has heard everything, without labels, but the authors of the test fold."""
        clips = self.published()
        authors = owners_of(clips).owners.authors
        unheard = {name for row in np.flatnonzero(folds(clips) == TEST) for name in authors[row]}
        keep = [
            row
            for row, clip in enumerate(clips)
            if unheard.isdisjoint(authors[row]) and clip.path.stem not in LEFT_OUT
        ]
        return runs.pretrain(clips.subset(keep), self.out / "encoder", PRETRAIN, self.threads)

    def run(self, name: str, row: Row, clips: Clips) -> Path:
        """A model of these clips, trained if it is not there."""
        out = self.out / name
        settings = [f"data.clips={clips.write(Path(f'{out}.csv'))}", *row.settings]
        if row.pretrained:
            settings.append(f"init={self.encoder()}")
        return runs.train("everyday", out, settings, self.threads)

    def heard(self, row: Row) -> Clips:
        """The clips that a row learns from."""
        return self.variants() if row.copies else self.published()


def folds(clips: Clips) -> np.ndarray:
    """The fold of each clip, int (N,)."""
    return clips.table["fold"].to_numpy(dtype=int)


# ---------------------------------------------------------------------- choosing


def validate(args: argparse.Namespace) -> None:
    """Train candidates on three folds, measure on the fourth."""
    shop = Shop(args.data, args.out.resolve(), args.threads)
    variants, writing = shop.variants(), Lock()
    if any(ROWS[name].pretrained for name in args.rows):
        shop.encoder()

    def one(name: str) -> None:
        if records.has(TUNING, {"row": name}):
            return
        row = ROWS[name]
        rest = [fold for fold in OTHERS if fold != VALIDATION]
        model = shop.run(f"validate-{name}", row, shop.heard(row).where(fold=rest))
        cells = measured(Checkpoint.from_pretrained(model), variants.where(fold=VALIDATION))
        with writing:
            records.add(TUNING, FIELDS, {"row": name, **cells})
        print(name, cells, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, args.rows))


def measured(checkpoint: Checkpoint, variants: Clips) -> dict[str, str]:
    """Macro mAP on trimmed and on re-encoded copies, with either kind of negatives."""
    cells = {}
    for negatives, ending in (("collection", ""), ("all", ", all negatives")):
        for copy, name in (("0", "trimmed"), ("1", "re-encoded")):
            report = evaluate(
                checkpoint, variants.where(copy=copy), negatives=negatives, resamples=1
            )
            cells[name + ending] = f"{report.metrics.mean_ap:.4f}"
    return cells


# ---------------------------------------------------------------------- the models


def train(args: argparse.Namespace) -> None:
    """Everything that `make.py` needs; what is there stays."""
    shop = Shop(args.data, args.out.resolve(), args.threads)
    shipped = MODELS[args.model]
    row = ROWS[shipped.row]
    if row.pretrained:
        shop.encoder()
    heard = shop.heard(row)
    jobs = {"final": heard.where(fold=OTHERS)}
    for fold in OTHERS:
        jobs[f"apart-{fold}"] = heard.where(fold=[other for other in OTHERS if other != fold])
    short = replace(row, settings=(*row.settings, f"optim.epochs={shipped.epochs_elsewhere}"))
    away = {f"elsewhere-{one.collection}": clips for one, clips in elsewhere(shop)}
    todo = [(name, row, clips) for name, clips in jobs.items()]
    todo += [(name, short, clips) for name, clips in away.items()]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: shop.run(f"{args.model}/{job[0]}", *job[1:]), todo))


def elsewhere(shop: Shop) -> Iterator[tuple[LeftOut, Clips]]:
    """For each collection that shares labels with others, what to learn from instead.

    Every clip trimmed, and its first re-encoded copy.
    """
    variants = shop.variants()
    heard = variants.subset(np.isin(variants.column("copy").astype(str), ("0", "1")))
    vocabulary = Vocabulary.from_names(sorted({name for own in heard.labels for name in own}))
    for one in leave_one_collection_out(heard, vocabulary, Ontology.audioset()):
        yield one, heard.subset(one.train)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (validate, train):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        command.add_argument("--data", type=Path, required=True, help="the collections")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
        command.add_argument("--threads", type=int, default=1, help="threads of each run")
        command.add_argument("--jobs", type=int, default=1, help="runs at a time")
    commands.choices["validate"].add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    commands.choices["train"].add_argument("--model", choices=MODELS, default=next(iter(MODELS)))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
