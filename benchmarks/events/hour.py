"""One hour of 16 kHz FLAC with time stamps every 10 s, decoding included; and memory.

    python -m benchmarks.events.hour               # the hour: seconds, in a process of its own
    python -m benchmarks.events.hour --hours 10 --rate 44100 --channels 2 --form wav   # memory
    python -m benchmarks.events.hour --window 2 --hop 0.5               # events

Each figure is that of a fresh process, as a user starts it: `atgnn tag FILE --events --format csv`.
Its wall time, its time on processors, and its peak of resident memory are printed; "start" is the
same for one second of sound, so the difference is the hour itself. The sound is drums, hum and
noise from a seed, no two windows alike, and compresses like a recording.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

LIMIT_S, GOAL_S = 20.0, 12.0  # for the hour, on 2 processors
LIMIT_MB = 1500.0  # for any length


def write_sound(path: Path, seconds: float, rate: int, channels: int) -> None:
    """Sound of any length in bounded memory."""
    kind = {"subtype": "PCM_16", "format": "RF64"} if path.suffix == ".wav" else {}
    with soundfile.SoundFile(path, "w", samplerate=rate, channels=channels, **kind) as file:
        for second in range(0, round(seconds), 10):
            length = min(10, round(seconds) - second)
            file.write(_ten_seconds(second, length * rate, rate, channels))


def _ten_seconds(seed: int, samples: int, rate: int, channels: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    time_ = np.arange(samples) / rate
    hum = 0.05 * np.sin(2 * np.pi * random.uniform(80, 400) * time_)
    beats = np.exp(-8 * (time_ * random.uniform(1, 3) % 1)) * np.sin(2 * np.pi * 180 * time_)
    noise = 0.02 * random.standard_normal(samples)
    mono = hum + 0.2 * beats + noise
    return np.stack([mono] * channels, axis=1).astype(np.float32)


def measure(command: list[str], threads: int) -> dict[str, float]:
    """Wall and processor seconds of a process, and its peak of memory in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * unit / 1e6,
    }


def main(argv: list[str] | None = None) -> int:
    """Make the sound, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--form", choices=("flac", "wav"), default="flac")
    parser.add_argument("--window", type=float, default=10.0)
    parser.add_argument("--hop", type=float, default=10.0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="by default the one that ships")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        long, short = (Path(folder, f"{name}.{args.form}") for name in ("long", "short"))
        write_sound(long, 3600 * args.hours, args.rate, args.channels)
        write_sound(short, 1, args.rate, args.channels)
        options = ["--events", "--window", str(args.window), "--hop", str(args.hop)]
        options += ["--format", "csv", "--precision", args.precision]
        options += ["--batch-size", str(args.batch_size)] if args.batch_size else []
        options += ["--model", args.model] if args.model else []
        command = [sys.executable, "-m", "atgnn", "tag", *options]
        starts, runs = [], []
        for _ in range(args.rounds):
            starts.append(measure([*command, str(short)], args.threads))
            runs.append(measure([*command, str(long)], args.threads))
            one = runs[-1]
            print(
                f"start {starts[-1]['wall_s']:.1f} s; {args.hours:g} h: {one['wall_s']:.1f} s, "
                f"{one['cpu_s']:.1f} s of processor time, peak {one['peak_mb']:.0f} MB",
                flush=True,
            )
    best, median = (f([one["wall_s"] for one in runs]) for f in (min, statistics.median))
    peak = max(one["peak_mb"] for one in runs)
    print(
        f"{args.hours:g} h of {args.rate} Hz {args.form}, {args.channels} channels, a window of "
        f"{args.window:g} s every {args.hop:g} s, {args.precision}, {args.threads} threads: "
        f"median {median:.1f} s, best {best:.1f} s; peak {peak:.0f} MB of {LIMIT_MB:.0f}"
    )
    if args.hours == 1:
        print(f"limit {LIMIT_S:g} s, goal {GOAL_S:g} s")
    return 0 if peak < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
