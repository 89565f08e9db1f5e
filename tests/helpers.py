"""A tiny random model and generated sounds, for tests of everything around the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN, ModelConfig

LABELS = ("Animal", "Bark", "Dog", "Rain", "Siren")
RATE = 16_000


def tiny_model(num_labels: int = len(LABELS), seed: int = 0) -> ATGNN:
    """A random model whose logits are of order 1 and depend on the sound."""
    config = ModelConfig(
        num_labels=num_labels,
        n_mels=32,
        stem_widths=(8, 16, 16),
        stem_strides=(2, 2, 2),
        channels=(16, 32),
        blocks=(1, 1),
        reductions=(2, 1),
        k=3,
        k_plg=3,
        head_width=16,
        label_blocks=(1, 1),
        nominal_frames=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ATGNN(config).train()
        with torch.no_grad():
            for _ in range(30):  # realistic batch-norm statistics
                model(torch.randn(8, 64, 32))
            model.eval()
            spread = model(torch.randn(16, 64, 32)).std()
            model.patch_head.fc2.weight.div_(spread)
            model.label_branch.readout.div_(spread)
    return model


def tiny_checkpoint(labels: tuple[str, ...] = LABELS, **settings: object) -> Checkpoint:
    """A whole checkpoint around `tiny_model`."""
    settings = {"front_end": FrontEndConfig(n_mels=32), "window_seconds": 2.0, **settings}
    front_end = settings.pop("front_end")
    settings.setdefault("provenance", Provenance(summary="A model for tests.", licence="none"))
    return Checkpoint(tiny_model(len(labels)), front_end, Vocabulary.from_names(labels), **settings)


def sound(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise whose level and colour change, float32 (T,): no two windows of it are alike."""
    random = np.random.default_rng(seed)
    time = np.arange(max(1, round(seconds * rate))) / rate
    tone = np.sin(2 * np.pi * (300 + 200 * seed + 400 * time) * time)
    noise = random.standard_normal(len(time)) * (0.2 + 0.8 * np.abs(np.sin(time + seed)))
    return (0.2 * tone + 0.1 * noise).astype(np.float32)


def write(path: Path, samples: np.ndarray | None = None, rate: int = RATE, **options: str) -> Path:
    """Write a sound file, by default one second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(1) if samples is None else samples, rate, **options)
    return path


def sparse_wav(path: Path, seconds: int, rate: int, channels: int) -> None:
    """A silent 16-bit WAV file that takes no disk space."""
    frame = 2 * channels
    size = seconds * rate * frame
    words = [(b"RIFF", size + 36), (b"WAVEfmt ", 16)]
    header = b"".join(mark + number.to_bytes(4, "little") for mark, number in words)
    for number, width in ((1, 2), (channels, 2), (rate, 4), (rate * frame, 4), (frame, 2), (16, 2)):
        header += number.to_bytes(width, "little")
    with path.open("wb") as handle:
        handle.write(header + b"data" + size.to_bytes(4, "little"))
        handle.truncate(44 + size)
