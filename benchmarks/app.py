"""How long a visitor of the page waits, in a real browser.

    python -m benchmarks.app

`tags` is the time from the choice of a 10 s clip to its tags and events being on the page, upload
included; `reasons` from the click on a label to its regions. `within` is the part of `tags` that is
spent on the sound itself. The clip is made by a rule, another one each time, so that nothing is
answered from memory; the first one, which pays for what is loaded once, stands by itself.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from atgnn.app import AppSettings, hear, serve
from atgnn.tagger import Tagger

RATE, SECONDS = 44_100, 10
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=7)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    tagger = Tagger.from_pretrained()
    with tempfile.TemporaryDirectory() as folder, serve(tagger, AppSettings()) as served:
        clips = [_clip(Path(folder), seed) for seed in range(options.clips + 1)]
        waits = _visit(served.url, clips, options.chromium)
        within = [_seconds(lambda clip=clip: hear(tagger, str(clip), 60)) for clip in clips]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name, row in (*waits.items(), ("within", within)):
        first, *rest = row
        print(
            f"{name:<8} first {first:5.2f} s, then median {statistics.median(rest):5.2f} s, "
            f"best {min(rest):5.2f} s, worst {max(rest):5.2f} s ({len(rest)} clips of {SECONDS} s)"
        )


def _clip(folder: Path, seed: int) -> Path:
    """Noise that comes and goes, and a tone that rises."""
    random = np.random.default_rng(seed)
    times = np.arange(RATE * SECONDS) / RATE
    noise = random.standard_normal(len(times)) * np.abs(np.sin(times + seed))
    samples = 0.1 * noise + 0.2 * np.sin(2 * np.pi * (200 + 50 * times) * times)
    path = folder / f"clip{seed}.wav"
    soundfile.write(path, samples, RATE)
    return path


def _visit(url: str, clips: list[Path], chromium: str) -> dict[str, list[float]]:
    """Seconds for each clip, by what was waited for."""
    from playwright.sync_api import sync_playwright

    waits: dict[str, list[float]] = {"tags": [], "reasons": []}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        for clip in clips:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            field = page.locator("#sound input[type=file]")
            field.wait_for(state="attached")
            page.wait_for_timeout(1000)  # a person looks at the page first
            start = time.perf_counter()
            field.set_input_files(clip)
            page.locator("#found .tags button").first.wait_for()
            waits["tags"].append(time.perf_counter() - start)
            start = time.perf_counter()
            page.locator("#found .tags button").first.click()
            regions = page.frame_locator("iframe.because").locator("svg[role=img]")
            regions.first.wait_for()
            waits["reasons"].append(time.perf_counter() - start)
            page.close()
        browser.close()
    return waits


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
