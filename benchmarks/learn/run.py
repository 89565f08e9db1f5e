"""New labels from 1, 5, 10 and 20 clips: ESC-10's classes, taught to models that never knew them.

    python -m benchmarks.learn.run encoders --data SOUNDS --out RUNS [--listened ENCODER]
    python -m benchmarks.learn.run measure  --data SOUNDS --out RUNS
    python -m benchmarks.learn.run time     --data SOUNDS --out RUNS
    python -m benchmarks.learn.run report

What each system heard (`heard.py` has the rules):

- `unheard`: an encoder pre-trained without labels on the sounds of the other three collections that
  have no label and no author in common with ESC-10, then taught those sounds' labels. It never
  heard one of the ten classes or one of their authors, nor any clip of ESC-10.
- `listened`: the same teaching, from an encoder that also listened, without labels, to all clips
  but those by authors of ESC-10's official fold 2 (benchmarks/pretrain); scored on that fold.
- `pictures`: `mini-lite0`, the layout that ships, its convolutions from ImageNet, taught the labels
  of the same sounds; it has listened to nothing else.
- `random`: the network of `unheard` with random weights, whose norms were measured. Same head.
- `mfcc + svm`: mean and deviation of 20 MFCCs and of their first and second differences,
  standardised (benchmarks/comparison/classical.py); a support vector machine with a radial kernel,
  of all ten classes at once, by votes of pairs (`among`), or of one (`alone`). From three clips a
  class on, C, the means of the differences, and whether digital silence counts are chosen by
  leaving out every third of the authors that teach (`among`).

Folds are by author; a label is learned from clips of the other folds. `among`: ten labels at once,
each with the others' clips as negatives; accuracy is that of the highest score. `alone`: each label
by itself without any negative, as a user with a handful of clips has it; the others' clips are
only scored. Features, ridge and steps were chosen on `listened` and fold 2, so that `listened` is
no test; nothing was chosen on `unheard` and its five folds.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
from atgnn.data.clips import Clips
from atgnn.frontend import FrontEnd
from atgnn.learn import Lessons, Listener, learn, learn_label, made_by_rule
from atgnn.learn.fit import Examples, Node, fit_head, fit_node, heard_windows
from atgnn.learn.learning import threshold_of
from atgnn.metrics import cluster_interval
from atgnn.model.beside import Heard, new_states
from atgnn.synthetic import synthetic_sounds
from benchmarks import records
from benchmarks.comparison.classical import FRONT_END, features_of, log_mels, untrained
from benchmarks.everyday.fit import ROWS
from benchmarks.learn.heard import FOLDS, draw, esc10, folds_by_author, others

RECORD = Path(__file__).with_name("results.csv")
FIELDS = (
    "evaluation", "system", "scored", "clips_a_class", "draws",
    "accuracy", "low", "high", "mean_ap", "recall", "false_alarms",
)  # fmt: skip
COUNTS = (1, 5, 10, 20)
COSTS = (10.0, 1.0, 100.0)  # C of the machine; the first one where nothing can be chosen
STATISTICS = tuple(  # the first one where nothing can be chosen
    {"coefficients": 20, "mean_differences": means, "skip_silence": skip}
    for skip in (False, True)
    for means in (False, True)
)
INNER = 3  # parts of the authors that teach
OFFICIAL = 2


# ---------------------------------------------------------------------- encoders


def encoders(args: argparse.Namespace) -> None:
    """Train what is to be measured; what is there is kept, what was interrupted goes on."""
    args.out.mkdir(parents=True, exist_ok=True)
    table = others(args.data).write(args.out / "others.csv")
    steps = [f"optim.steps={args.steps}", "optim.warmup_steps=40", "optim.report_every=25"]
    atgnn("pretrain", [str(table)], args.out / "unheard", steps, "encoder")
    taught = {
        "random-model": [
            "optim.epochs=1", "optim.learning_rate=1e-12", "optim.weight_decay=0",
            "residual_scale=1.0",
        ],
        "unheard-model": [f"init={args.out / 'unheard' / 'encoder'}", "optim.epochs=20"],
        "pictures-model": [*ROWS["pictures"].settings],
    }  # fmt: skip
    if args.listened:
        taught["listened-model"] = [f"init={args.listened}", "optim.epochs=20"]
    for name, settings in taught.items():
        atgnn("train", ["everyday", "--clips", str(table)], args.out / name, settings, "model")


def atgnn(command: str, given: list[str], out: Path, settings: list[str], result: str) -> None:
    """One run of ours on one thread."""
    if (out / result).is_dir():
        return
    words = [word for one in settings for word in ("--set", one)]
    resume = ["--resume"] if (out / "recipe.yaml").is_file() else []
    line = [sys.executable, "-m", "atgnn", command, *given, "--out", str(out), *words, *resume]
    subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


# ---------------------------------------------------------------------- systems


class Ours:
    """Labels learned beside a model. What does not depend on the label is computed once."""

    def __init__(self, model: Path, clips: Clips, cache: Path) -> None:
        listener = Listener.of(Checkpoint.from_pretrained(model), cache)
        self.network = listener.network
        nodes = [listener.clip(path).windows[:1] for path in clips.paths]  # all are under 10 s
        rule = made_by_rule(listener)
        self.windows = [part[0] for part in [*nodes, *rule]]
        self.rule = np.arange(len(nodes), len(self.windows))
        batches = heard_windows(self.network, self.windows)
        self.batches = [(rows_.numpy(), heard_) for rows_, heard_ in batches]
        self.summary = np.stack([one.summary.numpy() for one in self.windows])
        self.hidden = np.stack([one.hidden.numpy() for one in self.windows])

    def among(
        self, chosen: np.ndarray, labels: np.ndarray, scored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (scored, labels) and thresholds, each label's negatives the others'."""
        found = [
            self.one(chosen[labels == label], chosen[labels != label], scored)
            for label in np.unique(labels)
        ]
        return np.stack([one for one, _ in found], 1), np.array([limit for _, limit in found])

    def one(
        self, positive: np.ndarray, negative: np.ndarray, scored: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Probabilities of the scored clips, and the threshold."""
        examples = Examples.of(
            *([[self.windows[i]] for i in rows] for rows in (positive, negative, self.rule))
        )
        node = fit_node(self.network, examples)
        known = np.concatenate([positive, negative, self.rule])
        states = self.states(node, np.union1d(known, scored))
        head = fit_head(examples, states[known])
        logits = (
            self.summary[scored] @ head.summary
            + self.hidden[scored] @ head.hidden
            + states[scored] @ head.node
            + head.bias
        )
        return 1 / (1 + np.exp(-logits)), threshold_of(head.left_out)

    def states(self, node: Node, needed: np.ndarray) -> np.ndarray:
        """A label's node in the windows that are needed, (W, D); zeros in others."""
        out = np.zeros((len(self.windows), len(self.network.label_branch.readout[0])))
        with torch.inference_mode():
            for rows_, heard_ in self.batches:
                keep = np.flatnonzero(np.isin(rows_, needed))
                if len(keep):
                    some = [of_clips(one, torch.from_numpy(keep)) for one in heard_]
                    found = new_states(some, node.embedding[None], node.rows[None])
                    out[rows_[keep]] = found[:, 0].numpy()
        return out


def of_clips(heard: Heard, rows_: torch.Tensor) -> Heard:
    """The same of some of the clips."""
    patches = heard.patches.with_features(heard.patches.x[rows_])
    return Heard(heard.level, patches, tuple(states[rows_] for states in heard.old))


class MfccSvm:
    """One machine for all classes, its settings by inner validation.

    Alone, one that knows only sounds made by rule beside.
    """

    def __init__(self, clips: Clips) -> None:
        mels = log_mels(clips)
        front_end = FrontEnd(FRONT_END)
        with torch.inference_mode():
            rule = [
                front_end.log_mel(torch.from_numpy(x)[None])[0][0].numpy()
                for x in synthetic_sounds()
            ]
        self.rule = np.arange(len(mels), len(mels) + len(rule))
        self.features = [features_of("mfcc-svm", one, [*mels, *rule]) for one in STATISTICS]
        self.authors = np.array([str(name).strip().lower() for name in clips.column("author")])

    def among(
        self, chosen: np.ndarray, labels: np.ndarray, scored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Votes of pairs of classes; no threshold is meant for them."""
        tried = [(which, c) for which in range(len(STATISTICS)) for c in COSTS]
        best = max(tried, key=lambda one: self.inner(*one, chosen, labels))
        votes = self.votes(*best, chosen, labels, scored)
        return votes, np.full(votes.shape[1], np.nan)

    def one(
        self, positive: np.ndarray, negative: np.ndarray, scored: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """The same with sounds made by rule as negatives, which no settings are chosen on."""
        assert not len(negative)
        known, features = np.concatenate([positive, self.rule]), self.features[0]
        machine = untrained("mfcc-svm", {"C": COSTS[0], "gamma": 1.0}, features.shape[1], 0)
        machine.fit(features[known], (np.arange(len(known)) < len(positive)).astype(int))
        return machine.decision_function(features[scored]), 0.0

    def inner(self, which: int, cost: float, chosen: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy when every third of the authors is left out; the same for all of two clips."""
        if len(chosen) < INNER * len(np.unique(labels)):
            return 0.0
        hits = []
        for known, left in GroupKFold(INNER).split(chosen, groups=self.authors[chosen]):
            votes = self.votes(which, cost, chosen[known], labels[known], chosen[left])
            hits += list(np.unique(labels[known])[votes.argmax(1)] == labels[left])
        return float(np.mean(hits))

    def votes(
        self, which: int, cost: float, known: np.ndarray, labels: np.ndarray, scored: np.ndarray
    ) -> np.ndarray:
        """Of one machine for all classes, (N, S)."""
        machine = make_pipeline(StandardScaler(), SVC(C=cost))
        features = self.features[which]
        return machine.fit(features[known], labels).decision_function(features[scored])


# ---------------------------------------------------------------------- measuring


def divisions(clips: Clips, kind: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to score, by author."""
    if kind == "five folds by author":
        folds = folds_by_author(clips)
        for fold in range(FOLDS):
            yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        return
    scored = clips.matching(fold=OFFICIAL)
    names = np.array([str(name).strip().lower() for name in clips.column("author")])
    yield np.flatnonzero(~scored & ~np.isin(names, names[scored])), np.flatnonzero(scored)


def measure(args: argparse.Namespace) -> None:
    """All systems that are there and not on record."""
    clips = esc10(args.data)
    cache = args.out / "nodes"
    systems = {
        "mfcc + svm": (lambda: MfccSvm(clips), ("five folds by author", "official fold 2")),
        "random": (
            lambda: Ours(args.out / "random-model" / "model", clips, cache),
            ("five folds by author", "official fold 2"),
        ),
        "unheard": (
            lambda: Ours(args.out / "unheard-model" / "model", clips, cache),
            ("five folds by author",),
        ),
        "pictures": (
            lambda: Ours(args.out / "pictures-model" / "model", clips, cache),
            ("five folds by author",),
        ),
        "listened": (
            lambda: Ours(args.out / "listened-model" / "model", clips, cache),
            ("official fold 2",),
        ),
    }
    for name in args.systems:
        make, kinds = systems[name]
        system = make()
        for kind in kinds:
            for evaluation in args.evaluations:
                for count in args.counts:
                    measure_one(system, name, clips, kind, evaluation, count, args.draws)
    report(args)


def measure_one(
    system: Ours | MfccSvm,
    name: str,
    clips: Clips,
    kind: str,
    evaluation: str,
    count: int,
    draws: int,
) -> None:
    """One row of the record."""
    key = (evaluation, name, kind, str(count))
    if records.has(RECORD, dict(zip(FIELDS, key, strict=False))):
        return
    labels = np.asarray(clips.column("category"), str)
    classes = np.unique(labels)
    right, precisions, recalls, alarms = [], [], [], []
    for known, scored in divisions(clips, kind):
        for seed in range(draws):
            chosen = known[draw(labels[known], count, seed)]
            if evaluation == "among":
                said, limits = system.among(chosen, labels[chosen], scored)
            else:
                parts = [
                    system.one(chosen[labels[chosen] == label], chosen[:0], scored)
                    for label in classes
                ]
                said, limits = np.stack([one for one, _ in parts], 1), [two for _, two in parts]
            for place, (label, limit) in enumerate(zip(classes, limits, strict=True)):
                truth = labels[scored] == label
                precisions.append(average_precision_score(truth, said[:, place]))
                recalls.append((said[truth, place] >= limit).mean())
                alarms.append((said[~truth, place] >= limit).mean())
            hit = classes[said.argmax(1)] == labels[scored]
            right += list(zip(scored, hit, strict=True))
    numbers = dict(zip(FIELDS, (*key, draws), strict=False))
    numbers |= accuracy(right, clips) if evaluation == "among" else {}
    for field, values in (
        ("mean_ap", precisions), ("recall", recalls), ("false_alarms", alarms),
    ):  # fmt: skip
        numbers[field] = f"{100 * np.mean(values):.1f}"
    if isinstance(system, MfccSvm) and evaluation == "among":
        numbers["recall"] = numbers["false_alarms"] = ""
    records.add(RECORD, FIELDS, numbers)
    print(numbers, flush=True)


def accuracy(right: list[tuple[int, bool]], clips: Clips) -> dict[str, str]:
    """Share of clips named rightly, 95 % interval from resampling their authors."""
    found = np.array(sorted({row for row, _ in right}))
    share = np.array([np.mean([hit for row, hit in right if row == one]) for one in found])
    names = [str(clips.column("author")[row]).strip().lower() for row in found]
    interval = cluster_interval(share, names, generator=np.random.default_rng(0))
    values = (interval.mean, interval.low, interval.high)
    return {
        field: f"{100 * value:.1f}"
        for field, value in zip(("accuracy", "low", "high"), values, strict=True)
    }


def timing(args: argparse.Namespace) -> None:
    """Seconds on one thread: labels from 5 to 40 clips, first, from cached nodes, head alone.

    Those of the processor, then those that pass. The process is new: what it loads counts.
    """
    torch.set_num_threads(1)
    clips = esc10(args.data)
    labels = np.asarray(clips.column("category"), str)
    own = [clips.paths[i] for i in np.flatnonzero(labels == "rooster")]
    rest = [clips.paths[i] for i in np.flatnonzero(labels != "rooster")]
    checkpoint = Checkpoint.from_pretrained(args.model)
    cache = args.out / "timing"
    print("| clips with and without | first time | from cached nodes | head again |")
    print("|---|---:|---:|---:|")
    for positive, negative in ((5, 0), (20, 20), (40, 40)):
        shutil.rmtree(cache, ignore_errors=True)
        seconds = []
        for _ in range(2):
            begun = clock()
            learned = learn(checkpoint, {"new": own[:positive]}, rest[:negative], cache=cache)
            seconds.append(clock() - begun)
        listener = Listener.of(checkpoint, cache)
        begun = clock()
        lessons = Lessons(*(
            tuple(listener.clip(path) for path in part)
            for part in (own[:positive], rest[:negative])
        ))  # fmt: skip
        weights = learned.pack.weights
        node = Node(weights["embedding"][0], weights["rows"][0])
        learn_label(checkpoint, listener, "new", lessons, made_by_rule(listener), node)
        seconds.append(clock() - begun)
        shown = " | ".join(f"{processor:.1f}, {passed:.1f}" for processor, passed in seconds)
        print(f"| {positive} + {negative} | {shown} |", flush=True)


def clock() -> np.ndarray:
    """Seconds of the processor, and of the wall."""
    return np.array([time.process_time(), time.perf_counter()])


# ---------------------------------------------------------------------- record


def report(args: argparse.Namespace) -> None:
    """The record as tables."""
    for evaluation in args.evaluations:
        print(f"\n{evaluation}\n\n| {' | '.join(FIELDS[1:])} |\n|{'---|' * len(FIELDS[1:])}")
        for row in records.read(RECORD):
            if row["evaluation"] == evaluation:
                print(f"| {' | '.join(row[field] for field in FIELDS[1:])} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    names = {"encoders": encoders, "measure": measure, "time": timing, "report": report}
    for name, function in names.items():
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        if function is report:
            continue
        command.add_argument("--data", type=Path, required=True, help="folder of the collections")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
    commands.choices["encoders"].add_argument("--steps", type=int, default=400)
    commands.choices["encoders"].add_argument("--listened", type=Path, help="an encoder")
    command = commands.choices["measure"]
    command.add_argument(
        "--systems", nargs="+", default=["mfcc + svm", "random", "unheard", "pictures", "listened"]
    )
    command.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    command.add_argument("--draws", type=int, default=2)
    command.add_argument("--evaluations", nargs="+", default=["among", "alone"])
    commands.choices["time"].add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
