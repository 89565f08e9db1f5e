"""What keeping an archive's results costs: time, memory, disk, and going on.

    python -m benchmarks.archives [--minutes 60] [--known 20000] [--model everyday-mini]

An hour of 16 kHz FLAC in files of a minute, made here, is scored with the network and decoding
alone and by `atgnn.archive.tag_archive`, both in a process of their own: wall-clock time, processor
time (which a busy machine distorts less), and the most memory in use. Then `--resume` on an archive
of which everything is known. One line of JSON for each measurement.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE, SECONDS = 16_000, 60


def main() -> None:
    """Measure everything, or (`--only`) one thing in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--known", type=int, default=20_000)
    parser.add_argument("--model", default="everyday-mini")
    parser.add_argument("--only", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"what": given.only} | MEASUREMENTS[given.only](given)))
        return
    with tempfile.TemporaryDirectory(prefix="atgnn-archives-") as folder:
        make_sounds(Path(folder, "archive"), given.minutes)
        for name in MEASUREMENTS:
            command = [sys.executable, "-m", "benchmarks.archives", *sys.argv[1:]]
            command += ["--only", name, "--folder", folder]
            print(
                subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout,
                end="",
            )


def make_sounds(folder: Path, minutes: int) -> None:
    """Noise and tones, a FLAC file for each minute."""
    folder.mkdir()
    random = np.random.default_rng(0)
    time_s = np.arange(SECONDS * RATE) / RATE
    for minute in range(minutes):
        pitch = 200 + 3000 * random.random()
        tone = np.sin(2 * np.pi * pitch * time_s) * (np.sin(time_s + minute) > 0)
        noise = random.standard_normal(len(time_s))
        hour, rest = divmod(minute, 60)
        name = f"20240601_{hour:02}{rest:02}00.flac"
        soundfile.write(folder / name, 0.2 * tone + 0.05 * noise, RATE)


def network_alone(given: argparse.Namespace) -> dict[str, float]:
    """Decoding and the network, nothing kept."""
    from atgnn.tagger import Tagger

    tagger = Tagger.from_pretrained(given.model, "cpu")
    files = sorted((given.folder / "archive").iterdir())
    with _Clock(given.minutes) as clock:
        for _ in tagger.score_many(files):
            pass
    return clock.figures


def archive(given: argparse.Namespace) -> dict[str, float]:
    """The same, into a table."""
    from atgnn.archive import tag_archive
    from atgnn.tagger import Tagger

    tagger = Tagger.from_pretrained(given.model, "cpu")
    with _Clock(given.minutes) as clock:
        report = tag_archive(tagger, given.folder / "archive", given.folder / "results")
    assert report.tagged == given.minutes
    size = report.table.stat().st_size
    return clock.figures | {"kB_per_hour": round(size / 1e3 / (given.minutes / 60), 1)}


def resume(given: argparse.Namespace) -> dict[str, float]:
    """An archive of many recordings (one, linked many times) of which all is known."""
    from atgnn.archive import tag_archive
    from atgnn.archive.listing import Shard, Sound
    from atgnn.archive.rows import moved
    from atgnn.archive.settings import ArchiveSettings, describe
    from atgnn.archive.store import Store
    from atgnn.archive.work import make_rows
    from atgnn.tagger import Tagger

    tagger, settings = Tagger.from_pretrained(given.model, "cpu"), ArchiveSettings()
    first = min((given.folder / "archive").iterdir())
    folder, results = given.folder / "many", given.folder / "known"
    folder.mkdir()
    (row,) = make_rows(tagger, [Sound.at(str(first), str(first.parent))], settings)
    with _Clock() as making:
        store = Store(results, Shard(), describe(tagger, settings), resume=False, force=False)
        with store:
            for number in range(given.known):
                link = folder / f"{number:06}.flac"
                link.hardlink_to(first)
                store.add(moved(row, Sound.at(str(link), str(folder))))
            store.finish()
    with _Clock() as clock:
        report = tag_archive(tagger, folder, results, settings, resume=True)
    assert (report.known, report.tagged) == (given.known, 0)
    each = {"keeping_ms_each": round(1000 * making.figures["cpu_s"] / given.known, 3)}
    return clock.figures | {"known": given.known} | each


MEASUREMENTS = {"network alone": network_alone, "archive": archive, "resume": resume}


class _Clock:
    """Time and memory of what happens within."""

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes
        self.figures: dict[str, float] = {}

    def __enter__(self) -> _Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self.figures = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}
        if self.minutes:
            self.figures["times_real_time"] = round(60 * self.minutes / wall, 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.figures["peak_MB"] = round(peak)


if __name__ == "__main__":
    main()
