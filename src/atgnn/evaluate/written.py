"""Reports and comparisons as pages, and pages as folders.

FOLDER/report.html   all of it in one file
FOLDER/report.md     the same, with the pictures beside it
FOLDER/report.json   the numbers
FOLDER/*.png         the pictures
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from atgnn.errors import AtgnnError, counted
from atgnn.evaluate.alarms import FalseAlarms
from atgnn.evaluate.compared import FIGURES, Comparison, LabelDifference
from atgnn.evaluate.curves import curve_pictures, reliability_picture
from atgnn.evaluate.pages import Bar, Block, Cell, Fact, Page, Table
from atgnn.evaluate.ranked import Ranked, Ranking
from atgnn.evaluate.report import Report
from atgnn.files import replacing_folder
from atgnn.metrics import ENOUGH, ClassMetrics, Interval, Metrics

__all__ = ["check_report_folder", "comparison_page", "ranking_page", "report_page", "write_report"]

FILE = "report.html"
OURS = {FILE, "report.md", "report.json"}  # and pictures
LISTED = 30  # clips or labels named in a note before it says "and so many more"


def write_report(
    report: Report | Comparison | Ranking, folder: str | os.PathLike[str], force: bool = False
) -> Path:
    """Write the folder, whole or not at all; returns the HTML file.

    Raises `AtgnnError` where something else is in the folder, or a report and not `force`.
    """
    folder = check_report_folder(folder, force)
    if isinstance(report, Ranking):
        page = ranking_page(report)
    else:
        page = report_page(report) if isinstance(report, Report) else comparison_page(report)
    try:
        with replacing_folder(folder) as new:
            (new / FILE).write_text(page.html(), encoding="utf-8")
            (new / "report.md").write_text(page.markdown(), encoding="utf-8")
            numbers = json.dumps(report.to_dict(), indent=1, allow_nan=False)
            (new / "report.json").write_text(numbers + "\n", encoding="utf-8")
            for picture in page.pictures:
                (new / picture.name).write_bytes(picture.png)
    except OSError as error:
        raise AtgnnError(f"{folder} cannot be written ({error.strerror or error})") from None
    return folder / FILE


def check_report_folder(folder: str | os.PathLike[str], force: bool = False) -> Path:
    """The folder, if a report may be written there; commands ask before they compute."""
    folder = Path(folder)
    if folder.is_file():
        raise AtgnnError(f"{folder} is a file: give a folder for the report")
    if folder.is_dir() and any(folder.iterdir()):
        foreign = [p.name for p in folder.iterdir() if p.name not in OURS and p.suffix != ".png"]
        if foreign or not (folder / FILE).is_file():
            raise AtgnnError(
                f"{folder} holds something else than a report"
                f"{f' ({min(foreign)})' if foreign else ''}: give another folder"
            )
        if not force:
            raise AtgnnError(f"{folder} holds a report: give another folder, or --force")
    return folder


# --- one model -----------------------------------------------------------------------------


def report_page(report: Report, pictures: bool = True) -> Page:
    """All that is known of a model on a set of clips."""
    metrics = report.metrics
    return Page(
        f"How well {_short(report.name)} tags {_short(report.subject)}",
        f"{report.name} on {counted(metrics.clips, 'clip')} of {report.subject}, "
        f"{counted(len(metrics.per_class), 'label')}. Intervals hold 95 %; they come from "
        f"resampling {_drawn(report.noun)}.",
        tuple(_facts(report)),
        tuple(_notes(report)),
        tuple(_blocks(report, pictures)),
    )


def _facts(report: Report) -> Iterator[Fact]:
    metrics = report.metrics
    positive = sum(one.positives > 0 for one in metrics.per_class)
    enough = sum(one.enough for one in metrics.per_class)
    yield _fact(
        report, "mean_ap", "mAP", f"mean over the {counted(positive, 'label')} with a positive clip"
    )
    yield _fact(
        report,
        "mean_ap_enough",
        f"mAP, {ENOUGH}+ independent positives",
        f"mean over {counted(enough, 'label')}" if enough else "no label has so many",
    )
    yield _fact(report, "auc", "AUC", "mean over labels")
    yield _fact(report, "d_prime", "d'", "from the mean AUC", 2)
    yield _fact(report, "lwlrap", "lwlrap", "every marked label counts alike")
    if metrics.accuracy is not None:
        yield _fact(report, "accuracy", "accuracy", "")
    found = report.reliability
    if found is not None:
        yield Fact("calibration error", number(found.error), "mean distance of score and share")
    if report.background is not None:
        heard = report.background
        yield Fact(
            "false alarms an hour",
            number(heard.per_hour.mean, 1),
            f"{span(heard.per_hour, 1)}; {heard.minutes:.1f} min without any of the labels",
        )


def _fact(report: Report, field: str, name: str, detail: str, digits: int = 3) -> Fact:
    between = span(getattr(report.intervals, field, None), digits)
    value = number(getattr(report.metrics, field), digits)
    return Fact(name, value, "; ".join(part for part in (between, detail) if part))


def _notes(report: Report) -> Iterator[str]:
    metrics = report.metrics
    if metrics.too_few:
        yield (
            f"fewer than {ENOUGH} independent positives, so in the first mean alone and without an "
            f"average precision of their own: {counted(len(metrics.too_few), 'label')}"
        )
    if metrics.left_out:
        yield f"no positive clip, in no mean: {_listed(metrics.left_out)}"
    if metrics.without_negatives:
        yield f"no negative clip, not in AUC: {_listed(metrics.without_negatives)}"
    if report.ignored_labels:
        yield (
            "labels of the clips that the model does not know, so ignored: "
            f"{_listed(report.ignored_labels)}"
        )
    if report.left_out_clips:
        left_out = counted(len(report.left_out_clips), "clip")
        yield f"{left_out} left out: {_listed(report.left_out_clips, 3)}"
    yield from report.notes


def _blocks(report: Report, pictures: bool) -> Iterator[Block]:
    classes = report.metrics.per_class
    shown = [label for label, one in enumerate(classes) if one.enough]
    shown.sort(key=lambda label: -classes[label].average_precision)
    if shown:
        spans = [report.intervals.per_class[i] if report.intervals else None for i in shown]
        pairs = zip(shown, spans, strict=True)
        rows = tuple(_class_row(classes[label], interval) for label, interval in pairs)
        columns = ("label", "AP", "95 %", "0 to 1", "AUC", "positive", "independent", "known")
        yield Table("Labels", columns, rows)
    rare = sorted((one for one in classes if not one.enough), key=lambda one: -one.positives)
    if rare:
        yield Table(
            f"Labels with fewer than {ENOUGH} independent positives",
            ("label", "positive", "independent", "known"),
            tuple((one.label, *_counts(one)) for one in rare),
            "Average precision of so few says more of the clips than of the model.",
            folded=len(rare) > 12,
        )
    if pictures and report.targets.size:
        yield from curve_pictures(classes, report.targets, report.scores)
        if report.reliability is not None:
            yield reliability_picture(report.reliability)
    if report.background is not None:
        yield _alarms(report.background)


def _class_row(one: ClassMetrics, interval: Interval | None) -> tuple[Cell, ...]:
    ap = one.average_precision
    bar: Cell = "" if interval is None else Bar(interval.low, ap, interval.high)
    return (one.label, number(ap), span(interval), bar, number(one.auc), *_counts(one))


def _counts(one: ClassMetrics) -> tuple[str, str, str]:
    independent = "" if one.independent is None else str(one.independent)
    return str(one.positives), independent, str(one.known)


def _alarms(heard: FalseAlarms) -> Table:
    whose = "its own thresholds" if heard.own_thresholds else "a threshold of 0.5"
    passed = (
        f", {counted(heard.excluded, 'clip')} with known labels passed over"
        if heard.excluded
        else ""
    )
    bad = f", {counted(len(heard.failures), 'clip')} unreadable" if heard.failures else ""
    return Table(
        "False alarms",
        ("label", "threshold", "windows", "an hour"),
        tuple(
            (one.label, f"{one.threshold:.2f}", str(one.alarms), number(one.per_hour, 1))
            for one in heard.labels
            if one.alarms
        ),
        f"{heard.alarmed} of {counted(heard.windows, 'window')} ({heard.minutes:.1f} min, "
        f"{heard.clips} "
        f"clips{passed}{bad}) in which some label reaches {whose}. Labels without alarms are not "
        "listed.",
    )


# --- two models ----------------------------------------------------------------------------


def comparison_page(found: Comparison) -> Page:
    """What differs between two models."""
    a, b = map(_short, found.names)
    wins = found.wins
    facts = [Fact(FIGURES[name], *_change(found, name)) for name in found.differences]
    if found.labels:
        facts.append(
            Fact(
                "labels better / worse",
                f"{wins['better']} / {wins['worse']}",
                f"{wins['equal']} equal; interval without zero: {wins['surely_better']} / "
                f"{wins['surely_worse']}",
            )
        )
    edge = max((abs(end) for one in found.labels for end in _ends(one)), default=1.0) or 1.0
    columns = ("label", "A", "B", "B less A", "95 %", "worse, better", "positive", "independent")
    table = Table("Labels", columns, tuple(_difference_row(one, edge) for one in found.labels))
    return Page(
        f"{b} against {a}",
        f"A is {found.names[0]}, B is {found.names[1]}. {found.metrics[0].clips} clips of "
        f"{found.subject}, {counted(len(found.metrics[0].per_class), 'label')} that both know. "
        "Both were "
        f"measured on the same resamples of {_drawn(found.noun)}; intervals hold 95 %.",
        tuple(facts),
        tuple(_comparison_notes(found)),
        (table,) if found.labels else (),
    )


def _comparison_notes(found: Comparison) -> Iterator[str]:
    if found.metrics[0].too_few:
        yield (
            f"fewer than {ENOUGH} independent positives, so not listed: "
            f"{counted(len(found.metrics[0].too_few), 'label')}"
        )
    yield from _common_notes(found, found.metrics[0])


def _common_notes(found: Comparison | Ranking, metrics: Metrics) -> Iterator[str]:
    """What holds for two models as for several; `metrics` are of one of them."""
    if metrics.left_out:
        yield f"no positive clip, in no mean: {_listed(metrics.left_out)}"
    if found.dropped_labels:
        yield f"only one of the models knows, so left out: {_listed(found.dropped_labels)}"
    if found.ignored_labels:
        yield f"labels of the clips that were ignored: {_listed(found.ignored_labels)}"
    if found.left_out_clips:
        yield f"left out without scores: {counted(len(found.left_out_clips), 'clip')}"
    yield from found.notes


def _change(found: Comparison, name: str) -> tuple[str, str]:
    change = found.differences[name]
    values = (number(getattr(metrics, name)) for metrics in found.metrics)
    between = span(change, signed=True)
    return number(change.mean, signed=True), "; ".join(filter(None, [between, " to ".join(values)]))


def _difference_row(one: LabelDifference, edge: float) -> tuple[Cell, ...]:
    change = one.second - one.first
    low, high = _ends(one)
    bar: Cell = "" if one.difference is None else Bar(low, change, high, -edge, edge, 0.0)
    return (
        one.label,
        number(one.first),
        number(one.second),
        number(change, signed=True),
        span(one.difference, signed=True),
        bar,
        str(one.positives),
        "" if one.independent is None else str(one.independent),
    )


def _ends(one: LabelDifference) -> tuple[float, float]:
    if one.difference is None or math.isnan(one.difference.low):
        return 0.0, 0.0
    return one.difference.low, one.difference.high


# --- several models ------------------------------------------------------------------------


def ranking_page(found: Ranking) -> Page:
    """Models in the order of their mAP, each with what it falls short of the best."""
    first = found.models[0].metrics
    columns = ("model", "mAP", "95 %", "behind", "95 %", "AUC", "lwlrap")
    accurate = first.accuracy is not None
    table = Table(
        "Models",
        (*columns, *(["accuracy"] if accurate else [])),
        tuple(_ranked_row(one, accurate) for one in found.models),
    )
    return Page(
        f"{len(found.models)} models on {_short(found.subject)}",
        f"{counted(first.clips, 'clip')} of {found.subject}, "
        f"{counted(len(first.per_class), 'label')} that all know. All were measured on the same "
        f"resamples of {_drawn(found.noun)}; intervals hold 95 %.",
        (),
        tuple(_common_notes(found, first)),
        (table,),
    )


def _ranked_row(one: Ranked, accurate: bool) -> tuple[Cell, ...]:
    metrics, behind = one.metrics, one.behind
    row = (
        _short(one.name),
        number(metrics.mean_ap),
        span(None if one.intervals is None else one.intervals.mean_ap),
        "" if behind is None else number(behind.mean, signed=True),
        span(behind, signed=True),
        number(metrics.auc),
        number(metrics.lwlrap),
    )
    return (*row, number(metrics.accuracy or 0.0)) if accurate else row


# --- words ---------------------------------------------------------------------------------


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """A figure for people; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"


def span(interval: Interval | None, digits: int = 3, signed: bool = False) -> str:
    """``0.612 to 0.734``; nothing where there is no interval."""
    if interval is None or math.isnan(interval.low):
        return ""
    ends = (number(end, digits, signed) for end in (interval.low, interval.high))
    return " to ".join(ends)


def _short(name: str) -> str:
    """The last part of a path, without what a score file ends with."""
    parts = name.rstrip("/").rsplit("/", 1)
    return parts[-1].removesuffix(".parquet")


def _drawn(noun: str) -> str:
    return f"{noun}, then their recordings" if noun in ("authors", "groups") else noun


def _listed(names: tuple[str, ...], most: int = LISTED) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
