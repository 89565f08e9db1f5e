"""Does the label graph help? Trains every variant on scenes and tests it on three co-occurrences.

    python -m benchmarks.label_graph.run --data ESC10 --out RUNS

Scenes first (one set for each fold of authors), then 8 seeds of 6 variants, about 25 minutes of
one core in all. A result is a JSON file; what is there is not run again, so the command can be
stopped and called anew. `python -m benchmarks.label_graph.report RUNS` reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from atgnn.data import Clips
from atgnn.data.clips import connected
from atgnn.data.cooccurrence import CoOccurrence
from atgnn.data.scenes import Ingredients, Scenes, SceneSettings
from atgnn.data.waveforms import Waveforms
from atgnn.errors import AtgnnError
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.metrics import evaluate_scores
from atgnn.model import ATGNN
from benchmarks.everyday.clips import author_names, spread

from .variants import VARIANTS, build, parameters, without_label

SEEDS = range(8)
FOLDS = 4  # of authors; seed s is tested on fold s % 4
TEST_KINDS = ("training", "independent", "reversed")
TRAIN_SCENES, TEST_SCENES = 1200, 300
STEPS, BATCH, RATE = 300, 16, 3e-3
FRONT_END = FrontEndConfig(n_mels=64, hop_ms=20)
SCENES = SceneSettings(seconds=5, events=(1, 3), level_db=(-10, 10))
#: What is heard together in training: three places.
PLACES = (
    ("dog_bark", "rooster", "fire_crackling"),
    ("rain", "sea_waves", "helicopter", "chainsaw"),
    ("baby_cry", "person_sneeze", "clock_tick"),
)
ELSEWHERE = 0.15  # weight of a pair of different places, 1 within one


def places_matrix(labels: tuple[str, ...]) -> CoOccurrence:
    """The co-occurrence of the training scenes."""
    place = {name: number for number, names in enumerate(PLACES) for name in names}
    alike = [[1.0 if place[a] == place[b] else ELSEWHERE for b in labels] for a in labels]
    return CoOccurrence.of(labels, np.array(alike))


# ---------------------------------------------------------------------------- scenes


def author_folds(data: Path) -> Clips:
    """ESC-10 in folds that share no author."""
    clips = Clips.read(data)
    owners = [
        [*author_names(author), source]
        for author, source in zip(clips.column("author"), clips.column("source_id"), strict=True)
    ]
    names = sorted(set(clips.column("category")))
    traits = np.array([[name == own for name in names] for own in clips.column("category")])
    groups = connected(owners)
    table = clips.table.assign(
        fold=spread(groups, traits, FOLDS), group=[f"g{number}" for number in groups]
    )
    return Clips(table)


def make_scenes(data: Path, out: Path) -> None:
    """Log-mel and truth of all scenes, a file for each fold."""
    clips = author_folds(data)
    waves = Waveforms(clips, SCENES.rate, 2.0, None)
    for fold in range(FOLDS):
        path = out / f"scenes-{fold}.npz"
        if path.is_file():
            continue
        # "train" is what is learned from, "test" the fold: the parts of `Ingredients`
        split = ["test" if own == fold else "train" for own in clips.table["fold"]]
        clips.table["split"] = split
        ingredients = {
            side: Ingredients.of(
                _rows_of(waves, side), None, SCENES.model_copy(update={"seed": fold}),
                label_column="category",
            )
            for side in ("train", "test")
        }  # fmt: skip
        training = places_matrix(ingredients["train"].labels)
        kinds = {
            "training": training,
            "independent": CoOccurrence.independent(training.labels, training.frequencies),
            "reversed": training.reversed(),
        }
        arrays = {}
        for name, side, matrix, count in (
            ("train", "train", training, TRAIN_SCENES),
            *((kind, "test", kinds[kind], TEST_SCENES) for kind in TEST_KINDS),
        ):
            arrays.update(_features(name, Scenes(ingredients[side], matrix, count)))
        scratch = path.with_suffix(".part.npz")
        np.savez(scratch, labels=np.array(training.labels), lift=training.lift, **arrays)
        os.replace(scratch, path)
        print(f"scenes of fold {fold}: {time.process_time():.0f} s", flush=True)


class _Some:
    """Some rows of `Waveforms`, without a fold: they are one part."""

    def __init__(self, waves: Waveforms, rows: np.ndarray) -> None:
        self.clips = Clips(waves.clips.table.iloc[rows].drop(columns=["fold", "split"]))
        self._waves, self._rows = waves, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._waves[int(self._rows[index])]


def _rows_of(waves: Waveforms, side: str) -> Any:
    return _Some(waves, np.flatnonzero(waves.clips.table["split"] == side))


def _features(name: str, scenes: Scenes) -> dict[str, np.ndarray]:
    front_end = FrontEnd(FRONT_END)
    mel = []
    with torch.inference_mode():
        for number in range(len(scenes)):
            wave = torch.from_numpy(scenes[number].samples).float()[None] / 32768
            mel.append(front_end(wave)[0][0].numpy().astype(np.float16))
    mel_array = np.stack(mel)
    return {f"{name}_mel": mel_array, f"{name}_truth": scenes.drawn.astype(np.float32)}


# ---------------------------------------------------------------------------- runs


def one_run(scenes: dict[str, np.ndarray], variant: str, seed: int) -> dict[str, Any]:
    """Train a variant and test it; seeds share the order of batches and shifts."""
    began = time.process_time()
    mel, truth = (torch.from_numpy(scenes[f"train_{what}"]) for what in ("mel", "truth"))
    model = build(variant, truth.shape[1], mel.shape[2], mel.shape[1], seed)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], RATE, betas=(0.95, 0.999), fused=True
    )
    generator = np.random.default_rng((seed, 7))
    model.train()
    losses = []
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / 30)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        rows = generator.choice(len(mel), BATCH, replace=False)
        shift = int(generator.integers(mel.shape[1]))
        batch = mel[rows].float().roll(shift, 1)
        loss = functional.binary_cross_entropy_with_logits(model(batch), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    result = {
        "variant": variant,
        "seed": seed,
        "fold": seed % FOLDS,
        "parameters": parameters(model),
        "train_loss": float(np.mean(losses[-30:])),
        **tested(model.eval(), scenes),
    }
    if variant in ("full", "frozen", "mean"):
        result["removal"] = removal(model, scenes)
    return {**result, "cpu_seconds": round(time.process_time() - began, 1)}


@torch.inference_mode()
def tested(model: ATGNN, scenes: dict[str, np.ndarray]) -> dict[str, float]:
    """mAP on each kind of test scenes, and the loss there."""
    out = {}
    for kind in TEST_KINDS:
        mel, truth = torch.from_numpy(scenes[f"{kind}_mel"]), scenes[f"{kind}_truth"]
        logits = torch.cat([model(part.float()) for part in mel.split(64)])
        names = [str(i) for i in range(truth.shape[1])]
        out[f"map_{kind}"] = evaluate_scores(truth, logits.numpy(), names).mean_ap
        target = torch.from_numpy(truth)
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        out[f"loss_{kind}"] = float(loss)
    return out


@torch.no_grad()
def removal(model: ATGNN, scenes: dict[str, np.ndarray]) -> dict[str, Any]:
    """What hearing from node j adds to logit i, (L, L), on scenes of independent labels.

    ``mean`` over all scenes; ``told`` where j is there less where it is not: what the message says
    of j's presence. ``spread`` is the standard deviation of each logit, to compare with.
    """
    mel, truth = torch.from_numpy(scenes["independent_mel"]), scenes["independent_truth"] == 1
    labels = truth.shape[1]
    effects, logits = [], []
    for part in mel.split(64):
        stages = model.encoder(part.float())
        label_logits = model.label_branch(stages)
        logits.append(model.patch_head(stages[-1][-1]) + label_logits)
        effects.append(
            torch.stack([label_logits - without_label(model, stages, j) for j in range(labels)], 2)
        )
    effect = torch.cat(effects).numpy()  # (N, i, j)
    told = np.stack(
        [effect[truth[:, j], :, j].mean(0) - effect[~truth[:, j], :, j].mean(0)
         for j in range(labels)], 1
    )  # fmt: skip
    spread_of = torch.cat(logits).std(0).numpy()
    lift = np.log(scenes["lift"])
    rounded = {"mean": effect.mean(0), "told": told, "spread": spread_of, "lift": lift}
    return {name: np.round(values, 5).tolist() for name, values in rounded.items()}


def main() -> int:
    """Exit code 0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ESC-10")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    try:
        make_scenes(options.data, options.out)
    except AtgnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for seed in SEEDS:
        with np.load(options.out / f"scenes-{seed % FOLDS}.npz") as stored:
            scenes = dict(stored)
        for variant in VARIANTS:
            path = options.out / f"run-{seed}-{variant}.json"
            if path.is_file():
                continue
            result = one_run(scenes, variant, seed)
            scratch = path.with_suffix(".part")
            scratch.write_text(json.dumps(result), encoding="utf-8")
            os.replace(scratch, path)
            print(
                f"seed {seed} {variant:8} mAP {result['map_training']:.3f} "
                f"{result['map_independent']:.3f} {result['map_reversed']:.3f}, "
                f"{result['cpu_seconds']} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
