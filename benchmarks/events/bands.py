"""In which band an event lies: `atgnn tag --events --bands` against scenes with true bands.

    python -m benchmarks.events.bands run --data SOUNDS --out RUNS --init MODEL --fold 2
    python -m benchmarks.events.bands report

Scenes and models are those of `benchmarks.events.scenes`. A true band holds 90 % of the energy of
the event's own sound, before mixing. Times are the true ones (their place among moments or
windows), so that bands alone are judged. "IoU" is the width, in Hz, that both bands share by the
width that they cover together; "covered" the share of the true band. The whole band that the model
hears is the trivial answer.
"""

import argparse
import csv
import datetime
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas

from atgnn.events import Event, EventSettings, Listening, events_in
from atgnn.events.rows import Layout, layout_of
from atgnn.events.settings import places_of
from atgnn.tagger import Scores, Tagger
from benchmarks.events.measures import append
from benchmarks.events.scenes import LABELS, LOOKS, READINGS, TEST, Shop

RESULTS = Path(__file__).with_name("bands.csv")
COLUMNS = ("model", "reading", "fold", "events", "iou", "covered", "width_hz")
CASES = (("init", "windows 2 s"), ("scenes", "windows 2 s"), ("scenes", "moments"))
HEARD = 0.5  # of a moment or window, from where on an event is in it


def with_truth(
    read: Scores, truth: pandas.DataFrame, tagger: Tagger, settings: EventSettings
) -> Scores:
    """What was read of a scene, with true scores in the place of the model's."""
    layout = layout_of(tagger.checkpoint, settings)
    rows = read.windows.copy()
    for row, start, seconds in zip(rows, read.starts, read.seconds, strict=True):
        edges = _edges(tagger, layout, start, seconds)
        first, parts = layout.labels if layout.moments else 0, max(1, layout.moments)
        scores = row[first : first + parts * layout.labels].reshape(parts, layout.labels)
        scores[:] = 0
        for event in truth.itertuples():
            inside = np.minimum(event.offset, edges[1:]) - np.maximum(event.onset, edges[:-1])
            share = inside / np.minimum(np.diff(edges), event.offset - event.onset)
            place = list(tagger.labels).index(event.label)
            scores[: len(share), place] = np.maximum(scores[: len(share), place], share)
    return replace(read, windows=rows)


def _edges(tagger: Tagger, layout: Layout, start: float, seconds: float) -> np.ndarray:
    if not layout.moments:
        return np.array([start, start + seconds])
    places = places_of(tagger.checkpoint)
    edges = places.time_edges(places.columns(round(seconds * tagger.rate))).clip(0, seconds)
    return start + edges


def compared(events: tuple[Event, ...], truth: pandas.DataFrame) -> list[tuple[float, ...]]:
    """IoU, share of the true band and width in Hz, for each true event that was found."""
    out = []
    for event in truth.itertuples():
        own = [e for e in events if e.label == event.label and e.start < event.offset
               and event.onset < e.end]  # fmt: skip
        if own and event.high_hz > event.low_hz:
            best = max(own, key=lambda e, t=event: min(e.end, t.offset) - max(e.start, t.onset))
            out.append(overlap((best.low_hz, best.high_hz), (event.low_hz, event.high_hz)))
    return out


def overlap(band: tuple[float, float], true: tuple[float, float]) -> tuple[float, float, float]:
    """IoU, share of the true band, width: all from Hz.

    >>> overlap((100, 300), (200, 400))
    (0.3333333333333333, 0.5, 200)
    """
    shared = max(0, min(band[1], true[1]) - max(band[0], true[0]))
    together = max(band[1], true[1]) - min(band[0], true[0])
    return shared / together, shared / (true[1] - true[0]), band[1] - band[0]


def run(args: argparse.Namespace) -> None:
    """Each model and reading on the scenes of a fold."""
    shop = Shop(args.data, args.out, args.init, args.threads)
    folder = shop.scenes((args.fold,))
    truth = pandas.read_csv(folder / "events.csv")
    paths = sorted((folder / "audio").glob("*.flac"))
    by_scene = {path.name: truth[truth["scene"] == path.name] for path in paths}
    for name, reading in CASES:
        tagger = Tagger.from_pretrained(shop.model(name), "cpu")
        settings = EventSettings(
            bands=True, ancestors=True, on=HEARD, off=HEARD, smooth_s=0, **READINGS[reading]
        ).for_model(tagger.checkpoint)
        heard = list(Listening(tagger, settings).score_many(paths))
        found = []
        for path, read in zip(paths, heard, strict=True):
            scene = by_scene[path.name]
            changed = with_truth(read, scene, tagger, settings)
            found += compared(events_in(changed, tagger.checkpoint, settings), scene)
        _note(name, reading, args.fold, found)
        if (name, reading) == CASES[-1]:
            judged = truth[truth["label"].isin(LABELS) & (truth["high_hz"] > truth["low_hz"])]
            bands = zip(judged["low_hz"], judged["high_hz"], strict=True)
            _note("whole band", "", args.fold, [overlap(tagger.band, true) for true in bands])


def _note(name: str, reading: str, fold: int, found: list[tuple[float, ...]]) -> None:
    iou, covered, width = np.mean(found, axis=0)
    row = (name, reading, fold, len(found), f"{iou:.3f}", f"{covered:.3f}", f"{width:.0f}")
    append(RESULTS, row, COLUMNS)
    if fold == TEST:
        what = f"IoU of bands of events, model {name} by {reading}"
        command = f"python -m benchmarks.events.bands run --fold {TEST}"
        today = datetime.date.today().isoformat()
        append(LOOKS, (today, "everyday scenes", fold, what, f"{iou:.3f}", command))
    print(*row, flush=True)


def report(_: argparse.Namespace | None = None) -> None:
    """What is on record."""
    if RESULTS.is_file():
        with open(RESULTS, newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                print("  ".join(f"{cell:<12}" for cell in row))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=(run.__doc__ or "").strip())
    command.set_defaults(run=run)
    command.add_argument("--data", type=Path, required=True, help="the collections")
    command.add_argument("--out", type=Path, required=True, help="folder for scenes and runs")
    command.add_argument("--init", type=Path, required=True, help="the model to go on with")
    command.add_argument("--fold", type=int, choices=(1, 2), default=2)
    command.add_argument("--threads", type=int, default=1)
    commands.add_parser("report", help="print what is on record").set_defaults(run=report)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
