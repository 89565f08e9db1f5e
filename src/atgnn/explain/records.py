"""What an explanation holds: plain records, which become dictionaries and JSON.

Times are seconds from the start of the recording, frequencies Hz. Effects are in the log-odds of a
score, where they add up: +1 multiplies the odds by 2.7.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from atgnn.errors import printable

__all__ = ["Edge", "Evidence", "Explanation", "Influence", "Region", "Sufficient", "Window"]


@dataclass(frozen=True)
class Region:
    """A box of time and frequency, and the share of the evidence that lies in it (0 to 1)."""

    start: float
    end: float
    low_hz: float
    high_hz: float
    weight: float


@dataclass(frozen=True)
class Edge:
    """A label node's edge to a patch node that it drew on (PLG).

    Attributes:
        stage, block: whose label block it is, counted from 1; `block` runs on through the stages.
        start, end, low_hz, high_hz: the patch node's cell.
        channels: the share of channels in which this patch won the extremum.
        effect: log-odds that these channels gave, over what the average patch would have given.
    """

    stage: int
    block: int
    start: float
    end: float
    low_hz: float
    high_hz: float
    channels: float
    effect: float


@dataclass(frozen=True)
class Influence:
    """Another label's node: what its being there adds to this label's log-odds."""

    label: str
    effect: float


@dataclass(frozen=True)
class Sufficient:
    """Patch nodes that carry the decision by themselves, all others being removed.

    Attributes:
        nodes, of: how many of how many nodes of the first stage.
        limit: the score from which on the decision stands.
        score: with these nodes alone; at least `limit`.
        without: with all nodes but these.
        regions: their cells, joined; weights are shares of the nodes.
    """

    nodes: int
    of: int
    limit: float
    score: float
    without: float
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Evidence:
    """Why a label scores what it scores, in one window of the recording.

    Attributes:
        label, score: as the tagger gives them for this window.
        window: index into `Explanation.windows`.
        from_labels: the part of the logit that comes from the label's node; the rest comes from
            the mean of all patch nodes. None where the label has no node of the model's own.
        regions: where the evidence for the label lies, the most first.
        covered: the share of it that the regions hold.
        edges: whom the label's node drew on, the largest effect first.
        influences: the other labels' nodes, the largest effect first.
        sufficient: the smallest set of nodes found that carries the decision; None if not sought.
    """

    label: str
    score: float
    window: int
    from_labels: float | None
    regions: tuple[Region, ...]
    covered: float
    edges: tuple[Edge, ...]
    influences: tuple[Influence, ...]
    sufficient: Sufficient | None

    def __str__(self) -> str:
        lines = [f"{self.score:.2f}  {printable(self.label)}"]
        if self.regions:
            first = self.regions[0]
            lines.append(
                f"      {len(self.regions)} regions hold {self.covered:.0%} of the evidence, most "
                f"of all {first.start:.2f} to {first.end:.2f} s, {first.low_hz:.0f} to "
                f"{first.high_hz:.0f} Hz"
            )
        if self.sufficient is not None:
            found = self.sufficient
            lines.append(
                f"      {found.nodes} of {found.of} patch nodes are enough ({found.score:.2f} with "
                f"them alone, {found.without:.2f} without them)"
            )
        moved = [f"{printable(other.label)} {other.effect:+.2f}" for other in self.influences[:3]]
        if moved:
            lines.append(f"      other labels, in log-odds: {', '.join(moved)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Window:
    """A stretch of the recording that was looked at.

    Attributes:
        start, end: s.
        samples, rate: its sound, mono, at the recording's own rate.
        picture: its log-mel spectrogram (F, T), low frequencies first.
        bands: edges of the rows of `picture` in Hz (F + 1,).
    """

    start: float
    end: float
    samples: np.ndarray = field(repr=False)
    rate: int
    picture: np.ndarray = field(repr=False)
    bands: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Explanation:
    """The reasons for a recording's tags.

    `notes` say what a reader has to know, such as that a model has no label nodes.
    """

    path: str | None
    windows: tuple[Window, ...]
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, label: str) -> Evidence:
        for one in self.evidence:
            if one.label == label:
                return one
        raise KeyError(label)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.evidence), *map(printable, self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without sound and pictures."""
        return {
            "path": self.path,
            "windows": [{"start": w.start, "end": w.end} for w in self.windows],
            "evidence": [_rounded(asdict(one)) for one in self.evidence],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON in ASCII."""
        return json.dumps(self.to_dict(), indent=1)


def _rounded(value: Any) -> Any:
    """Numbers to six places, tuples as lists."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
