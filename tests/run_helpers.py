"""Tiny sounds, recipes and runs, for tests of training."""

import subprocess
import sys
import time

import numpy as np
import soundfile

from atgnn.checkpoint import Checkpoint
from atgnn.training.recipe import load_recipe

RATE = 16000
TINY = (
    "model={preset: mini, channels: [8, 16], stem_widths: [8, 8], stem_strides: [4, 4],"
    " blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1], head_width: 16, k: 3}"
)


def tone_folders(folder):
    """A folder of folders: high and low tones in noise, easy to tell apart."""
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    for label, frequency in (("high", 3000), ("low", 300)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            pitch = frequency * rng.uniform(0.9, 1.1)
            wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))
            soundfile.write(folder / label / f"{i}.wav", wave, RATE)
    return folder


def tiny_recipe(sounds, *more):
    return load_recipe(
        "folder",
        [
            f"data.clips={sounds}",
            TINY,
            "data.ontology=false",
            "data.validation_share=0.25",
            "optim.batch_size=4",
            "optim.epochs=3",
            "optim.warmup_steps=2",
            "augment.crop_seconds=0.4",
            "save_half=false",
            *more,
        ],
    )


def weights(folder):
    return Checkpoint.from_pretrained(folder).model.state_dict()


def start(sounds, out, *more):
    """`atgnn train` in a process of its own."""
    settings = [
        TINY,
        "data.ontology=false",
        "optim.batch_size=4",
        "save_half=false",
        "optim.epochs=40",
        "select=last",
        "data.validation_share=0.25",
    ]
    command = [sys.executable, "-m", "atgnn", "train", "folder", "--clips", str(sounds)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(
        [*command, "--out", str(out), *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def wait_for_epochs(process, out, count):
    while process.poll() is None:
        history = out / "history.csv"
        if history.is_file() and len(history.read_text().splitlines()) > count:
            return
        time.sleep(0.02)
    raise AssertionError(f"ended before epoch {count}")
