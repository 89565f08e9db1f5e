"""What a data set has and lacks after packing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atgnn.data.clips import GROUP_COLUMNS
from atgnn.data.listing import EXAMPLES, Listing, Oddity
from atgnn.data.store import BadClip, PackedWaveforms
from atgnn.errors import counted

__all__ = ["Crossing", "Report", "Split", "report_on"]

#: A clip that is so much longer (s) than its segment of a list was not cut out of its video.
TOO_LONG = 1.0


@dataclass(frozen=True)
class Split:
    """One split, or one fold, of a data set; `name` is "" where there is no division.

    `listed` counts different clips of the official list, `packed` those with sound in the folder.
    """

    name: str
    listed: int
    packed: int
    hours: float
    labels: int  # marked labels of all packed clips together
    empty_classes: int  # labels of the vocabulary that no packed clip here has


@dataclass(frozen=True)
class Crossing:
    """Authors or sources (`column`) with clips in several splits or folds (`division`)."""

    column: str
    division: str
    groups: int
    of: int
    clips: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All of it; `to_dict` is what report.json holds."""

    name: str
    folder: str
    rate: int
    longest: float | None
    splits: tuple[Split, ...]
    listed: int
    found: int
    missing: int
    missing_examples: tuple[str, ...]
    packed: int
    hours: float
    unreadable: tuple[BadClip, ...]
    damaged: tuple[BadClip, ...]
    unlabelled: int
    too_long: int
    classes: int
    empty_classes: tuple[str, ...]
    label_counts: dict[str, int]
    source_rates: dict[int, int]
    crossings: tuple[Crossing, ...]
    oddities: tuple[Oddity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        plain["unreadable"] = [bad._asdict() for bad in self.unreadable]
        plain["damaged"] = [bad._asdict() for bad in self.damaged]
        return plain

    def markdown(self) -> str:
        """To read, and to show in a terminal."""
        parts = [
            f"# {self.name} in {self.folder}",
            _bullets(self._facts()),
            _table(self.splits),
            _named("Unreadable files, left out", [bad.reason for bad in self.unreadable]),
            _named("Damaged files, packed in part", [bad.reason for bad in self.damaged]),
            _named(
                "Listed, but not here (all in missing.csv)", self.missing_examples, self.missing
            ),
            _classes(self.empty_classes),
        ]
        for odd in self.oddities:
            parts.append(_named(odd.kind[:1].upper() + odd.kind[1:], odd.examples, odd.count))
        for one in self.crossings:
            where = f"in several {one.division}s ({counted(one.clips, 'clip')})"
            title = f"Of {one.of} values of {one.column}, {where}"
            parts.append(_named(title, one.examples, one.groups))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _facts(self) -> list[str]:
        share = f"{100 * self.found / self.listed:.1f} %" if self.listed else "none"
        rates = ", ".join(
            f"{rate / 1000:g} kHz {count}" if rate else f"not noted {count}"
            for rate, count in self.source_rates.items()
        )
        cut = "" if self.longest is None else f", cut to {self.longest:g} s"
        facts = [
            f"found {self.found} of {self.listed} listed clips ({share}), {self.missing} missing",
            f"packed {counted(self.packed, 'clip')}, {self.hours:.2f} hours, at {self.rate} "
            f"Hz{cut}; "
            f"{len(self.unreadable)} unreadable, {len(self.damaged)} damaged",
            f"{sum(self.label_counts.values())} labels of "
            f"{counted(self.classes, 'class', 'classes')}, "
            f"{counted(len(self.empty_classes), 'class', 'classes')} without clips",
            f"rates of the recordings: {rates}",
        ]
        installable = sum("pip install" in bad.reason for bad in self.unreadable)
        if installable:
            facts.append(
                f"{installable} of the unreadable need a package that is not installed: install "
                "it, and give the same command with --retry"
            )
        if self.unlabelled:
            facts.append(f"{counted(self.unlabelled, 'clip')} without any label")
        if self.too_long:
            facts.append(
                f"{counted(self.too_long, 'clip is', 'clips are')} over {TOO_LONG:g} s longer than "
                "their "
                "segment: if the "
                "sounds are whole videos, prepare them with --whole-videos"
            )
        if not self.crossings:
            facts.append("no author or source is known to be in several splits or folds")
        return facts


def report_on(listing: Listing, packed: PackedWaveforms) -> Report:
    """Compare what was packed with what the lists name."""
    clips = packed.clips
    seconds = packed.lengths / packed.rate
    labels = clips.labels
    counts = Counter(name for names in labels for name in names)
    rates = Counter(packed.source_rates.tolist())
    return Report(
        name=listing.name,
        folder=str(packed.folder),
        rate=packed.rate,
        longest=packed.longest,
        splits=_splits(listing, packed, seconds),
        listed=sum(listing.listed.values()),
        found=len(listing.clips),
        missing=len(listing.missing),
        missing_examples=tuple(row.name for row in listing.missing[:EXAMPLES]),
        packed=len(packed),
        hours=round(float(seconds.sum()) / 3600, 4),
        unreadable=packed.failures,
        damaged=packed.damaged,
        unlabelled=sum(not names for names in labels),
        too_long=_too_long(clips.table, seconds),
        classes=len(listing.vocabulary),
        empty_classes=tuple(name for name in listing.vocabulary.names if not counts[name]),
        label_counts={name: counts[name] for name in listing.vocabulary.names},
        source_rates={int(rate): count for rate, count in rates.most_common()},
        crossings=_crossings(clips.table),
        oddities=listing.oddities,
    )


def _splits(listing: Listing, packed: PackedWaveforms, seconds: np.ndarray) -> tuple[Split, ...]:
    """A row for each split of the lists, or, where they have none, for each fold."""
    table = packed.clips.table
    listed = dict(listing.listed)
    if "split" in table:
        names = table["split"].fillna("").astype(str).to_numpy()
    elif "fold" in table:
        names = table["fold"].astype(str).to_numpy()
        listed = dict.fromkeys(sorted(set(names)), -1)  # the lists count no folds
    else:
        names = np.full(len(table), "")
    rows = []
    for name in [*listed, *sorted(set(names) - set(listed))]:
        here = names == name
        marked = [label for labels in table["labels"][here] for label in labels]
        count = listed.get(name, 0)
        rows.append(
            Split(
                name,
                int(here.sum()) if count < 0 else count,
                int(here.sum()),
                round(float(seconds[here].sum()) / 3600, 4),
                len(marked),
                len(listing.vocabulary) - len(set(marked)),
            )
        )
    return tuple(rows)


def _too_long(table: Any, seconds: np.ndarray) -> int:
    if "segment_end" not in table:
        return 0
    stated = (table["segment_end"] - table["segment_start"]).to_numpy(float)
    return int((seconds > stated + TOO_LONG).sum())


def _crossings(table: Any) -> tuple[Crossing, ...]:
    """Groups of any kind that are on both sides of a division."""
    found = []
    named = [name for name in GROUP_COLUMNS if name in table]
    if any(name != "group" and table[name].equals(table["group"]) for name in named):
        named.remove("group")  # which repeats one of the others
    for division in (name for name in ("split", "fold") if name in table):
        for column in named:
            rows = table[[column, division]].dropna().astype(str)
            rows = rows[(rows[column] != "") & (rows[division] != "")]
            sides = rows.drop_duplicates().groupby(column)[division].agg(list)
            several = sides[sides.map(len) > 1]
            if len(several):
                examples = [
                    f"{name} in {', '.join(sorted(where))}"
                    for name, where in several.head(EXAMPLES).items()
                ]
                clips = int(rows[column].isin(several.index).sum())
                found.append(
                    Crossing(column, division, len(several), len(sides), clips, tuple(examples))
                )
    return tuple(found)


# --- text ------------------------------------------------------------------------------------


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _named(title: str, lines: Sequence[str], count: int | None = None, shown: int = 20) -> str:
    """A headed list, cut off with what is left; nothing where there is nothing."""
    total = len(lines) if count is None else count
    if not total:
        return ""
    kept = list(lines[:shown])
    rest = [f"and {total - len(kept)} more"] if total > len(kept) else []
    return f"## {title}: {total}\n\n{_bullets([*kept, *rest])}"


def _classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"## Classes without clips: {len(names)}\n\n{', '.join(names)}"


def _table(splits: Sequence[Split]) -> str:
    lines = [
        "| split | listed | packed | hours | labels | classes without clips |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    nameless = "all" if len(splits) == 1 else "none"
    for row in splits:
        lines.append(
            f"| {row.name or nameless} | {row.listed} | {row.packed} | {row.hours:.2f} | "
            f"{row.labels} | {row.empty_classes} |"
        )
    return "\n".join(lines)
