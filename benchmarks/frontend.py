"""Speed of the front end, in times real time, and statistics of a folder's log-mel cells.

    python benchmarks/frontend.py                    # one core, batches of 1, 8 and 32
    python benchmarks/frontend.py --json
    python benchmarks/frontend.py --preset wide-32k --statistics FOLDER_OF_SOUNDS

torchaudio's Kaldi filter bank is timed beside ours, turn and turn about, where it imports.
The target is 2,500 times real time on one core; torchaudio's reaches 2,080.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from atgnn.audio import find_sounds, load
from atgnn.errors import AtgnnError
from atgnn.frontend import FRONT_ENDS, FrontEnd, FrontEndConfig, measure_statistics


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=FRONT_ENDS, default="paper")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="B")
    parser.add_argument("--clips", type=int, default=400, help="clips to time for each batch size")
    parser.add_argument("--threads", type=int, default=1, help="cores to use")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--statistics", type=Path, metavar="FOLDER", help="measure mean and std")
    options = parser.parse_args()
    config = FRONT_ENDS[options.preset]
    try:
        if options.statistics:
            report = folder_statistics(options.statistics, config)
        else:
            report = {"preset": options.preset, **speed(config, options)}
    except AtgnnError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report) if options.json else as_text(report))
    return 0


def speed(config: FrontEndConfig, options: argparse.Namespace) -> dict:
    """Times real time for each batch size: the best and the median of many turns."""
    torch.set_num_threads(options.threads)
    front_end = FrontEnd(config).to(options.device)
    reference = torchaudio_front_end(config) if options.device == "cpu" else None
    generator = torch.Generator().manual_seed(0)
    rows = []
    for batch in options.batches:
        samples = round(options.seconds * config.sample_rate)
        wave = 0.1 * torch.randn(batch, samples, generator=generator).to(options.device)
        contestants: dict[str, Callable[[torch.Tensor], object]] = {"atgnn": front_end}
        if reference:
            contestants["torchaudio"] = reference
        turns = max(5, options.clips // batch)
        for name, seconds in timed_in_turn(contestants, wave, turns).items():
            sound = batch * samples / config.sample_rate
            best, median = min(seconds), statistics.median(seconds)
            rows.append(
                {
                    "front_end": name,
                    "batch": batch,
                    "times_real_time": round(sound / best),
                    "times_real_time_median": round(sound / median),
                    "ms_per_clip": round(1e3 * best / batch, 3),
                    "ms_per_clip_median": round(1e3 * median / batch, 3),
                }
            )
    return {
        "clip_seconds": options.seconds,
        "threads": options.threads,
        "device": options.device,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "torchaudio": "timed" if reference else "not importable here",
        "rows": rows,
    }


def timed_in_turn(
    contestants: dict[str, Callable[[torch.Tensor], object]], wave: torch.Tensor, turns: int
) -> dict[str, list[float]]:
    """Seconds of every call, A B A B: drift and neighbours on the machine hit both alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.inference_mode():
        for turn in range(turns + 3):
            for name, contestant in contestants.items():
                start = time.perf_counter()
                contestant(wave)
                if wave.is_cuda:
                    torch.cuda.synchronize()
                if turn >= 3:  # the first ones warm up
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def torchaudio_front_end(config: FrontEndConfig) -> Callable[[torch.Tensor], object] | None:
    """torchaudio's filter bank at the same settings, clip by clip, or None without torchaudio."""
    try:
        from torchaudio.compliance import kaldi
    except (ImportError, OSError, RuntimeError):
        return None
    low, high = config.band

    def features(wave: torch.Tensor) -> list[torch.Tensor]:
        return [
            kaldi.fbank(
                (clip - clip.mean())[None],
                sample_frequency=config.sample_rate,
                num_mel_bins=config.n_mels,
                low_freq=low,
                high_freq=high,
                frame_length=config.window_ms,
                frame_shift=config.hop_ms,
                preemphasis_coefficient=config.preemphasis,
                window_type="hanning",
                htk_compat=True,
                use_energy=False,
                dither=0.0,
            )
            for clip in wave
        ]

    return features


def folder_statistics(folder: Path, config: FrontEndConfig) -> dict:
    """Mean and std of the log-mel cells of every sound in a folder."""
    paths = find_sounds(folder)

    def waves() -> Iterator[np.ndarray]:
        for count, path in enumerate(paths, 1):
            if sys.stderr.isatty():
                print(f"\r{count} of {len(paths)}", end="", file=sys.stderr, flush=True)
            yield load(path, config.sample_rate).samples

    found = measure_statistics(waves(), config)
    return {
        "mean": round(found.mean, 4),
        "std": round(found.std, 4),
        "clips": found.clips,
        "frames": found.frames,
        "sample_rate": config.sample_rate,
    }


def as_text(report: dict) -> str:
    rows = report.pop("rows", [])
    lines = [", ".join(f"{name} {value}" for name, value in report.items())]
    for row in rows:
        lines.append(
            f"{row['front_end']:>10}  batch {row['batch']:>3}  "
            f"{row['times_real_time']:>6,} times real time (median "
            f"{row['times_real_time_median']:,}), {row['ms_per_clip']:.2f} ms a clip "
            f"(median {row['ms_per_clip_median']:.2f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
