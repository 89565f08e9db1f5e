"""Scenes on disk: packed waveforms, FLAC files, the table of clips and the table of events.

OUT/packed/            the scenes' sound as packed waveforms, with their table of clips
OUT/audio/, meta.csv   the same as FLAC files with a table of clips, which `Clips.read(OUT)` reads
OUT/events.csv         every event: scene, label, onset, offset, band, level, source
OUT/cooccurrence.csv   the matrix that was asked for
OUT/drawn.csv          the co-occurrence of what was drawn
OUT/scenes.json        the settings, and a report
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import soundfile

from atgnn.data.ahead import map_ahead
from atgnn.data.clips import SEPARATOR, Clips
from atgnn.data.scenes.ingredients import part_name
from atgnn.data.scenes.mixing import Event, Scenes
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ClipsError, ConfigError, MissingExtraError, counted
from atgnn.files import replacing_folder, write_text

__all__ = ["Form", "SceneReport", "check_form", "check_free", "scene_clips", "write_scenes"]

Form = Literal["packed", "flac", "both"]


def check_form(name: str) -> Form:
    """The name as a form; `ConfigError` for others."""
    for form in get_args(Form):
        if name == form:
            return cast(Form, form)
    raise ConfigError(f"unknown form {name!r}: choose from {', '.join(get_args(Form))}")


@dataclass(frozen=True)
class SceneReport:
    """What was made.

    Attributes:
        scenes, events: how many.
        labels: events of each label.
        parts: scenes of each part.
        passed_over: clips that were not used, by the reason, and the first of each.
        distance: share of pairs that differ from what the matrix asks for, at best.
        drawn_distance: the same of what was drawn; more where few scenes are made.
        unknown: share of the cells of the table that nobody knows.
    """

    scenes: int
    events: int
    labels: dict[str, int]
    parts: dict[str, int]
    passed_over: dict[str, tuple[int, str]]
    distance: float
    drawn_distance: float
    unknown: float

    def lines(self) -> list[str]:
        """For people."""
        parts = ", ".join(f"{name} {count}" for name, count in self.parts.items())
        labels = ", ".join(f"{name} {count}" for name, count in self.labels.items())
        out = [
            f"{counted(self.scenes, 'scene')} ({parts}), {counted(self.events, 'event')}",
            f"events of each label: {labels}",
            f"pairs of labels: {self.drawn_distance:.1%} differ from the matrix "
            f"({self.distance:.1%} with endless scenes)",
            f"cells of the table that are unknown: {self.unknown:.1%}",
        ]
        for reason, (count, first) in self.passed_over.items():
            out.append(f"passed over, {reason}: {counted(count, 'clip')}, the first is {first}")
        return out


def write_scenes(
    scenes: Scenes,
    out: Path,
    *,
    form: Form = "packed",
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SceneReport:
    """Make all scenes and write them; nothing is left where that fails or is stopped.

    Raises `ClipsError` where `out` is in use or cannot be written.
    """
    check_free(out)
    out = out.resolve()
    workers = threads or os.cpu_count() or 1
    try:
        with replacing_folder(out) as new:
            clips = scene_clips(scenes, out)
            making = _Making(scenes, new, [path.name for path in clips.paths], form)
            if form == "flac":
                making.run(workers, progress)
            else:
                PackedWaveforms.write(
                    clips, new / "packed", scenes.settings.rate,
                    threads=workers, progress=progress, sound=making.one,
                )  # fmt: skip
            if form != "packed":
                scene_clips(scenes, new).write(new / "meta.csv")
            report = _report(scenes, clips, making.events)
            _describe(scenes, clips, making.events, report, new)
    except OSError as error:
        raise ClipsError(f"{out} cannot be written ({error.strerror or error})") from None
    return report


def check_free(out: Path) -> None:
    """`ClipsError` where there is something in `out` already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClipsError(f"{out} is not empty: choose another folder, nothing was written")


def scene_clips(scenes: Scenes, folder: Path) -> Clips:
    """The table of clips of scenes whose sound is below `folder`, or would be."""
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", "a table of scenes") from None
    casts = [scenes.cast(number) for number in range(len(scenes))]
    digits = len(str(len(scenes) - 1))
    table = pandas.DataFrame(
        {
            "path": [folder / "audio" / f"scene-{i:0{digits}d}.flac" for i in range(len(casts))],
            "labels": [cast.labels for cast in casts],
            "unknown": [cast.unknown for cast in casts],
            "start": 0.0,
            "end": np.nan,
            "collection": "scenes",
            "group": [SEPARATOR.join(cast.owners) for cast in casts],
            "background": [cast.background.name if cast.background else "" for cast in casts],
        }
    )
    splits, folds = zip(*scenes.part_of, strict=True)
    if any(split is not None for split in splits):
        table["split"] = list(splits)
    if any(fold is not None for fold in folds):
        table["fold"] = pandas.array(list(folds), dtype="Int64")
    return Clips(table)


class _Making:
    """Makes scenes in threads, keeps their events, and writes FLAC files where they are wanted."""

    def __init__(self, scenes: Scenes, folder: Path, names: Sequence[str], form: Form) -> None:
        self.scenes, self.folder, self.names, self.form = scenes, folder, names, form
        self.events: list[tuple[Event, ...]] = [()] * len(scenes)
        if form != "packed":
            (folder / "audio").mkdir()

    def one(self, number: int) -> np.ndarray:
        """Make one; its samples, int16 (S,)."""
        scene = self.scenes[number]
        self.events[number] = scene.events
        if self.form != "packed":
            flac, rate = io.BytesIO(), self.scenes.settings.rate
            soundfile.write(flac, scene.samples, rate, "PCM_16", format="FLAC")
            # Through Python: libsndfile would not say that the disk is full.
            (self.folder / "audio" / self.names[number]).write_bytes(flac.getbuffer())
        return scene.samples

    def run(self, threads: int, progress: Callable[[int], None] | None) -> None:
        """Make all; `progress` is told how many are done."""
        numbers = range(len(self.scenes))
        with closing(map_ahead(self.one, numbers, threads, 4 * threads)) as done:
            for number, _ in enumerate(done):
                if progress is not None:
                    progress(number + 1)


def _report(scenes: Scenes, clips: Clips, events: Sequence[tuple[Event, ...]]) -> SceneReport:
    vocabulary = scenes.ingredients.vocabulary
    unknown = sum(len(set(names) & set(vocabulary)) for names in clips.table["unknown"])
    labels = Counter(event.label for of_one in events for event in of_one)
    passed = scenes.ingredients.passed_over
    return SceneReport(
        scenes=len(scenes),
        events=sum(labels.values()),
        labels=dict(sorted(labels.items())),
        parts=dict(Counter(map(part_name, scenes.part_of))),
        passed_over={why: (n, scenes.ingredients.examples[why]) for why, n in passed.items()},
        distance=scenes.distance,
        drawn_distance=float(np.abs(scenes.drawn_pairs() - scenes.matrix.pairs).sum() / 4),
        unknown=unknown / (len(scenes) * len(vocabulary)),
    )


def _describe(
    scenes: Scenes,
    clips: Clips,
    events: Sequence[tuple[Event, ...]],
    report: SceneReport,
    folder: Path,
) -> None:
    """Write the tables beside the sound."""
    import pandas

    rows = [
        {"scene": path.name, **asdict(event), "labels": SEPARATOR.join(event.labels)}
        for path, of_one in zip(clips.paths, events, strict=True)
        for event in of_one
    ]
    pandas.DataFrame(rows).to_csv(folder / "events.csv", index=False, lineterminator="\n")
    write_text(folder / "cooccurrence.csv", scenes.matrix.to_csv())
    drawn = replace(scenes.matrix, pairs=scenes.drawn_pairs())
    write_text(folder / "drawn.csv", drawn.to_csv())
    about: dict[str, Any] = {
        "format": "atgnn scenes",
        "version": 1,
        "settings": scenes.settings.model_dump(mode="json"),
        "report": asdict(report),
    }
    write_text(folder / "scenes.json", json.dumps(about, indent=1) + "\n")
