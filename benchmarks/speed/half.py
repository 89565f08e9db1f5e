"""How far scores in bfloat16 are from those in float32 on real sounds, and what being nearer costs.

python -m benchmarks.speed half --data FOLDER

Parts of `everyday-mini` are computed in float32 while the rest is in bfloat16; for each choice
the largest difference of any label's score, clip by clip, and the time of pyr-s with the same
choice, beside all in bfloat16 and all in float32, turn by turn.
"""

import argparse
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.data import Clips
from atgnn.graph.precision import without_autocast
from atgnn.model.inference import InferenceModel, for_inference

from .harness import Case, Contestant, finish, heading, machine, parser, table, threads, timed
from .systems import Workshop, log_mel

TAGGER = "everyday-mini"  # plain stages, as pyr-s has them
FOLDERS = ("esc10", "cc_sounds", "ambient", "sonicpi")

#: What is computed in float32: expressions for the names of modules.
STREAM = (r"stages\.\d\.entry",)  # strided convolutions; what is added to theirs is float32 then
HEADS = ("label_branch", "patch_head")
GRAPHS = (*STREAM, *HEADS, r"stages.*grapher")
CHOICES = {
    "nothing": (),
    "strided convolutions (residual stream)": STREAM,
    "these and grapher.fc1": (*STREAM, r"stages.*grapher\.fc1"),
    "these, labels and patch head": (*STREAM, *HEADS, r"stages.*grapher\.fc1"),
    "all but feed-forward networks": GRAPHS,
    "all but the third stage's on": (*GRAPHS, r"stages\.[01].*ffn"),
    "labels and patch head": HEADS,
}


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    out = parser(__doc__.splitlines()[0], memory=False, rounds=3)
    out.add_argument("--data", type=Path, required=True, help="folder of the four collections")
    out.add_argument("--every", type=int, default=8, help="take every n-th clip")
    options = out.parse_args(argv)
    with threads(options.threads):
        facts = machine(options)
        rows = measured(options)
    report = {"command": "half", "machine": facts, "options": vars(options), "choices": rows}
    report["options"]["data"] = str(options.data)
    text = [heading("half", facts), f"{rows[0]['clips']} clips", *table(rows, COLUMNS)]
    return finish(report, "\n".join(text), options)


COLUMNS = {"in_float32": "", "over_0.01": "d", "median": ".4f", "ninth_tenth": ".4f",
           "largest": ".3f", "pyr_s_ms": ".1f"}  # fmt: skip


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Differences and times of every choice."""
    checkpoint = Checkpoint.from_pretrained(TAGGER)
    sounds = list(features(checkpoint, options.data, options.every))
    exact = scores(for_inference(checkpoint.model), sounds)
    large = Workshop().network(Case("infer", "ours"))
    mel = log_mel(Case("infer", "ours"))
    contestants = [
        Contestant(Case("infer", "ours", "bf16"), partial(with_parts(large, parts), mel))
        for parts in CHOICES.values()
    ]
    contestants.append(Contestant(Case("infer", "ours"), partial(for_inference(large), mel)))
    seconds = timed(contestants, options.rounds)
    rows = []
    for (name, parts), times in zip(CHOICES.items(), seconds, strict=False):
        apart = (scores(with_parts(checkpoint.model, parts), sounds) - exact).abs().amax(1)
        rows.append(
            {
                "in_float32": name,
                "clips": len(sounds),
                "over_0.01": int((apart > 0.01).sum()),
                "median": float(apart.median()),
                "ninth_tenth": float(apart.quantile(0.9)),
                "largest": float(apart.max()),
                "pyr_s_ms": 1e3 * statistics.median(times),
            }
        )
    rows.append({"in_float32": "everything", "pyr_s_ms": 1e3 * statistics.median(seconds[-1])})
    return rows


def features(checkpoint: Checkpoint, data: Path, every: int) -> list[Tensor]:
    """Log-mel of up to ten seconds of every n-th clip."""
    tables = [data / name for name in FOLDERS]
    front_end = checkpoint.make_front_end()
    rate, found = front_end.config.sample_rate, []
    for path in (path for folder in tables for path in Clips.read(folder).paths[::every]):
        wave = torch.from_numpy(audio.load(path, rate).samples[: 10 * rate])
        with torch.inference_mode():
            found.append(front_end(wave[None])[0])
    return found


@torch.inference_mode()
def scores(model: Callable[[Tensor], Tensor], sounds: list[Tensor]) -> Tensor:
    """``(clips, labels)``."""
    return torch.cat([model(mel).sigmoid() for mel in sounds])


def with_parts(model: Any, parts: tuple[str, ...]) -> InferenceModel:
    """The model for inference in bfloat16, parts of it, as regular expressions, in float32."""
    half, exact = for_inference(model, torch.bfloat16), for_inference(model)
    known = dict(exact.named_modules())
    for name, module in list(half.named_modules()):
        weights = getattr(module, "weight", getattr(module, "packed", None))
        if weights is not None and any(re.search(part, name) for part in parts):
            own = known[name]
            half.set_submodule(name, _Exact(own) if isinstance(own, nn.Conv2d) else own)
    return half


class _Exact(nn.Module):
    """A convolution without autocast; linear maps take theirs from their weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            out: Tensor = self.conv(x.float())
        return out
