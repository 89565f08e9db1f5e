"""Copies of the clips that no longer tell which collection they come from.

    python -m benchmarks.everyday.variants --clips RUNS/clips.csv --out RUNS/variants [--copies 1]

In the development sounds most labels occur in one collection only, so length, silence at the ends,
codec and bandwidth give a label away (`probe.py` shows how much). Here every clip is decoded to
16 kHz, freed of digital silence at its ends, and written beside copies that went through a lossy
codec of low rate (MP3, Vorbis or Opus), through 8-bit mu-law, or through a lower sampling rate, or
twice through such. Which one, is a function of the clip's name and the copy's number alone.

OUT/audio/NAME.0.flac is the trimmed clip, NAME.1.flac and so on are its copies; OUT/clips.csv has
a row for each, with the clip's own labels, fold and group, the column `copy`, and `treatment`.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from atgnn.data import Clips
from atgnn.data.store import decode
from atgnn.errors import AtgnnError
from atgnn.training.augment import trim

RATE = 16_000
#: Containers and codecs of libsndfile, at rates and strengths that people meet.
CODECS = (
    ("mp3", "MP3", "MPEG_LAYER_III", 16_000, (0.6, 0.9)),
    ("mp3", "MP3", "MPEG_LAYER_III", 44_100, (0.6, 0.95)),
    ("vorbis", "OGG", "VORBIS", 16_000, (0.5, 1.0)),
    ("vorbis", "OGG", "VORBIS", 44_100, (0.5, 1.0)),
    ("opus", "OGG", "OPUS", 16_000, (0.7, 0.97)),
    ("mulaw", "WAV", "ULAW", 16_000, None),
)
LOW_RATES = (8_000, 11_025, 12_000)
LEAST = RATE // 10  # samples: codecs want more than a click


def through_codec(wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A wave (S,) in [-1, 1] at 16 kHz after a random codec, of the same length, and its name."""
    name, container, codec, rate, strength = CODECS[int(rng.integers(len(CODECS)))]
    sound = resampled(wave, RATE, rate)
    how: dict[str, Any] = {} if strength is None else {"compression_level": rng.uniform(*strength)}
    file = io.BytesIO()
    soundfile.write(file, np.clip(sound, -1, 1), rate, format=container, subtype=codec, **how)
    file.seek(0)
    heard, _ = soundfile.read(file, dtype="float32")
    shown = f"{name} {rate / 1000:g} kHz" + (f" {how['compression_level']:.2f}" if how else "")
    return fitted(resampled(heard, rate, RATE), len(wave)), shown


def through_low_rate(wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The same through a lower sampling rate and back."""
    rate = int(rng.choice(LOW_RATES))
    narrow = resampled(resampled(wave, RATE, rate), rate, RATE)
    return fitted(narrow, len(wave)), f"{rate / 1000:g} kHz"


def treated(wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One treatment, or, of every third clip, two in a row."""
    names = []
    for _ in range(1 + (rng.random() < 1 / 3)):
        way = through_low_rate if rng.random() < 0.2 else through_codec
        wave, name = way(wave, rng)
        names.append(name)
    return wave, ", ".join(names)


def resampled(wave: np.ndarray, source: int, target: int) -> np.ndarray:
    """At another rate."""
    return wave if source == target else soxr.resample(wave, source, target)


def fitted(wave: np.ndarray, samples: int) -> np.ndarray:
    """Cut or filled with zeros to so many samples; codecs add some."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def write_clip(clips: Clips, row: int, folder: Path, copies: int) -> list[dict[str, Any]]:
    """The trimmed clip and its copies as files; a row of the new table for each."""
    clip = clips[row]
    name = f"{clip.collection}__{clip.path.stem}"
    wave = trim(decode(clip, RATE)).astype(np.float32) / 32768
    if len(wave) < LEAST:
        wave = fitted(wave, LEAST)
    rows = []
    for copy in range(copies + 1):
        rng = np.random.default_rng((zlib.crc32(name.encode()), copy))
        sound, treatment = treated(wave, rng) if copy else (wave, "trimmed")
        path = folder / "audio" / f"{name}.{copy}.flac"
        soundfile.write(path, np.clip(sound, -1, 1), RATE, subtype="PCM_16")
        own = clips.table.iloc[row].to_dict()
        rows.append({**own, "path": path.resolve(), "copy": str(copy), "treatment": treatment})
    return rows


def make(clips: Clips, folder: Path, copies: int) -> Clips:
    """Write all files and the table."""
    import pandas

    (folder / "audio").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda row: write_clip(clips, row, folder, copies), range(len(clips)))
        rows = [one for part in parts for one in part]
    made = Clips(pandas.DataFrame(rows))
    made.write(folder / "clips.csv")
    return made


def main() -> int:
    """Exit code 0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="table of clips")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--copies", type=int, default=1, help="treated copies of each clip")
    options = parser.parse_args()
    try:
        made = make(Clips.read(options.clips), options.out, options.copies)
    except AtgnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(made)} rows written to {options.out / 'clips.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
