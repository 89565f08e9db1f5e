"""Learn new labels from a handful of clips, and fit their heads again after a review."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ClipsError, ConfigError, LabelError, is_text, some_of
from atgnn.labels import Label, Ontology
from atgnn.learn.fit import Examples, Head, LeftOut, Node, fit_head, fit_node, node_states
from atgnn.learn.nodes import ClipNodes, Listener, Window
from atgnn.packs import LabelPack, Lesson, PackedLabel, base_of, model_digest
from atgnn.synthetic import COUNT, SAMPLE_RATE, synthetic_sounds
from atgnn.tagger import Taggable
from atgnn.tags import Failure

__all__ = ["Learned", "Lessons", "learn", "learn_label", "listen", "made_by_rule", "threshold_of"]

ALARMS = 0.03  # share of the negatives that a threshold lets through at most

#: Takes the number of clips listened to and of all.
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Lessons:
    """The clips that one label is learned from."""

    positive: tuple[ClipNodes, ...]
    negative: tuple[ClipNodes, ...] = ()


@dataclass(frozen=True)
class Learned:
    """A new pack, and the clips that could not be read."""

    pack: LabelPack
    failures: tuple[Failure, ...]


def learn(
    checkpoint: Checkpoint,
    positives: Mapping[str, Sequence[Taggable]],
    negatives: Sequence[Taggable] = (),
    *,
    cache: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    progress: Progress = lambda done, total: None,
) -> Learned:
    """Learn one or several labels for a model, which itself stays as it is.

    Args:
        checkpoint: the model; with packs beside it or without.
        positives: for each new label the clips that have it. A clip may have several labels; a
            clip of one label is a negative for the others.
        negatives: clips that have none of them. Without any, sounds made by rule stand in (see
            `atgnn.synthetic`); with some, those still have a share of the weight.
        cache: folder for clips' patch nodes; by default one in the user's cache.
        listener: instead of `cache`, one that is there already.
        progress: told of every clip that was listened to.

    Raises:
        LabelError: a name is empty, or the model has it already.
        ClipsError: a label has no clip, or a clip is given both as a label and as not.
        AudioError: no clip of a label can be read.
        ConfigError: the model has no label nodes, or its labels exclude one another.
    """
    _check_names(checkpoint, positives)
    listener = listener or Listener.of(checkpoint, cache)
    total = sum(map(len, positives.values())) + len(negatives) + COUNT
    done = 0

    def heard(sources: Sequence[Taggable], what: str) -> tuple[list[ClipNodes], list[Failure]]:
        nonlocal done
        clips, failures = listen(listener, sources, lambda count: progress(done + count, total))
        done += len(sources)
        if sources and not clips:
            raise type(failures[0].error)(f"none of the {what} can be read: {failures[0]}")
        return clips, failures

    found = {name: heard(sources, f"clips of {name!r}") for name, sources in positives.items()}
    others, failures = heard(negatives, "clips that are given as not the label")
    rule = made_by_rule(listener, lambda count: progress(done + count, total))
    for _, bad in found.values():
        failures = [*failures, *bad]
    pieces = [
        learn_label(checkpoint, listener, name, _lessons(name, found, others), rule)
        for name in positives
    ]
    return Learned(LabelPack.merged(pieces), tuple(failures))


def listen(
    listener: Listener,
    sources: Sequence[Taggable],
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[list[ClipNodes], list[Failure]]:
    """The clips that can be read, each content once, and the failures."""
    clips: dict[str, ClipNodes] = {}
    failures = []
    for count, result in enumerate(listener.clips(sources), 1):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            clips.setdefault(result.key, result)
        progress(count)
    return list(clips.values()), failures


def made_by_rule(
    listener: Listener, progress: Callable[[int], None] = lambda count: None
) -> list[Sequence[Window]]:
    """The windows of each sound of the background."""
    found: list[Sequence[Window]] = []
    for count, samples in enumerate(synthetic_sounds(), 1):
        found.append(listener.clip((samples, SAMPLE_RATE)).windows)
        progress(count)
    return found


def learn_label(
    checkpoint: Checkpoint,
    listener: Listener,
    name: str,
    lessons: Lessons,
    rule: Sequence[Sequence[Window]],
    node: Node | None = None,
) -> LabelPack:
    """A pack of one label; with `node` given, only its head is fitted."""
    examples = Examples.of(
        [clip.windows for clip in lessons.positive],
        [clip.windows for clip in lessons.negative],
        rule,
    )
    network = listener.network
    if node is None:
        node = fit_node(network, examples)
    head = fit_head(examples, node_states(network, examples.windows, node))
    about = PackedLabel(
        label=_label(name),
        threshold=threshold_of(head.left_out),
        lessons=tuple(
            Lesson(key=clip.key, name=clip.name, positive=clip in lessons.positive)
            for clip in (*lessons.positive, *lessons.negative)
        ),
        separation=_separation(head.left_out),
        negatives="given" if lessons.negative else "made by rule",
        learned=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    weights = _weights(node, head)
    own = base_of(checkpoint.model).config.num_labels
    return LabelPack(model_digest(checkpoint), own, [about], weights)


def _weights(node: Node, head: Head) -> dict[str, Tensor]:
    """One row each, by the names of `NewLabels`."""
    readout = torch.from_numpy(head.node) if head.node.size else torch.zeros(0)
    row = {
        "embedding": node.embedding,
        "rows": node.rows,
        "readout": readout,
        "head": torch.from_numpy(head.hidden),
        "bias": torch.tensor(head.bias),
        "summary": torch.from_numpy(head.summary),
    }
    return {name: value.float()[None] for name, value in row.items()}


def _check_names(checkpoint: Checkpoint, positives: Mapping[str, Sequence[Taggable]]) -> None:
    base_of(checkpoint.model)
    if checkpoint.activation == "softmax":
        raise ConfigError(
            "this model gives exactly one label to each sound, so that a further one would change "
            "the others' scores: learn beside a model of independent labels"
        )
    if not positives:
        raise LabelError("no label was given: name one, and clips that have it")
    for name, sources in positives.items():
        if not name.strip():
            raise LabelError("a label needs a name, got an empty one")
        if not is_text(name):
            raise LabelError(f"the label {name!r} is no text (UTF-8): choose another name")
        if name in checkpoint.vocabulary:
            raise LabelError(
                f"the model has a label {name!r} already: choose another name, such as 'my {name}'"
            )
        if not len(sources):
            raise ClipsError(f"no clip was given for the label {name!r}: give 5 or more")


def _label(name: str) -> Label:
    return Ontology.audioset().label(name)


def _lessons(
    name: str,
    found: Mapping[str, tuple[list[ClipNodes], list[Failure]]],
    others: list[ClipNodes],
) -> Lessons:
    """A label's clips, and those of other labels and of none as its negatives."""
    own = {clip.key for clip in found[name][0]}
    both = [clip.name for clip in others if clip.key in own]
    if both:
        raise ClipsError(
            f"{some_of(both)}: given both as {name!r} and as not: take it out of one of the two"
        )
    negative = {clip.key: clip for clip in others}
    for other, (clips, _) in found.items():
        if other != name:
            negative |= {clip.key: clip for clip in clips if clip.key not in own}
    return Lessons(tuple(found[name][0]), tuple(negative.values()))


def threshold_of(out: LeftOut) -> float:
    """The score from which a label counts as present, from clips that were left out.

    Between the lowest positive and the highest negative of the split with the best F1, positives
    and others weighing alike: in the middle where negatives were given, near the positive where
    they were made by rule, as real sounds are harder. Never so low that more than `ALARMS` of the
    negatives reach it: those that were given, if there are any. From 0.2 to 0.9; 0.5 where the only
    positive clip cannot be left out.
    """
    positive, other = (out.logits[out.known & (out.positive == side)] for side in (True, False))
    if not len(positive) or not len(other):
        return 0.5
    limits = np.unique(positive)
    hits = np.array([(positive >= limit).mean() for limit in limits])
    alarms = np.array([(other >= limit).mean() for limit in limits])
    f1 = 2 * hits / (1 + hits + alarms)
    best = limits[int(np.flatnonzero(f1 >= f1.max() - 1e-9)[-1])]
    below = other[other < best]
    floor = max(float(below.max()), float(best) - 4) if len(below) else float(best) - 2
    given = out.logits[out.given & ~out.positive]
    share = 0.5 if len(given) else 0.2
    highest = float(np.quantile(given if len(given) else other, 1 - ALARMS))
    logit = max(best - share * (best - floor), highest)
    return float(np.clip(1 / (1 + np.exp(-logit)), 0.2, 0.9))


def _separation(out: LeftOut) -> float | None:
    """Area under the ROC curve of clips that were left out; None where it says nothing."""
    positive = out.logits[out.known & out.positive]
    real = out.given if (out.given & ~out.positive).any() else np.ones_like(out.given)
    other = out.logits[~out.positive & real]
    if not len(positive) or not len(other):
        return None
    higher = (positive[:, None] > other).mean() + 0.5 * (positive[:, None] == other).mean()
    return round(float(higher), 4)
