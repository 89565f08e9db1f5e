"""A spectrogram as a small PNG in an inferno of colours, without a library. F rows, T columns."""

from __future__ import annotations

import struct
import zlib

import numpy as np

__all__ = ["png"]

#: Colours from silence to loud, evenly spaced: dark to light, so that they print in grey as well.
COLOURS = (
    (8, 8, 20), (30, 20, 66), (78, 22, 112), (128, 38, 122), (178, 56, 112),
    (222, 84, 88), (247, 132, 70), (252, 190, 100), (252, 248, 190),
)  # fmt: skip


def png(picture: np.ndarray) -> bytes:
    """Values (F, T), low frequencies first, to a PNG with the low frequencies at the bottom."""
    low, high = np.quantile(picture, [0.02, 0.999])
    scaled = (picture - low) / max(float(high - low), 1e-9)
    pixels = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)[::-1]
    rows = np.concatenate([np.zeros((len(pixels), 1), np.uint8), pixels], axis=1)  # filter: none
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", _palette().tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _palette() -> np.ndarray:
    """256 colours, uint8 (256, 3)."""
    places = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), places, values) for values in zip(*COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
