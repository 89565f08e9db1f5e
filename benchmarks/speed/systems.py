"""The systems that are timed against each other, ready to be called.

All take the same normalised log-mel ``(B, T, 128)`` of a made-up sound and give 200 logits (the
front end: the same waveforms); a baseline among our presets takes what it heard where it was
published. Weights are random, as time does not depend on them, but the batch norms have seen data:
without, activations grow until they overflow in half precision.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from atgnn.baselines.ast import AST, AST_PRESETS
from atgnn.errors import ConfigError
from atgnn.frontend import FrontEnd, FrontEndConfig, front_end_preset
from atgnn.memory import give_back_freed_memory
from atgnn.model import ModelConfig
from atgnn.model.segments import lean
from atgnn.networks import build as network_of
from atgnn.networks import network_preset, own_front_end

from .harness import DTYPES, Case, Contestant
from .kaldi import fbank
from .mobilenet import MobileNetTagger
from .published import Published, published_from

__all__ = ["Workshop", "available", "build", "prepare", "waveform"]

LABELS = 200
NEEDS = {"ast": "transformers"}


def available(systems: list[str], known: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The systems that can take part here, and a line about each that cannot."""
    for name in systems:
        if name not in known:
            raise ConfigError(f"unknown system {name!r} (there are {', '.join(known)})")
    missing = [name for name in systems if name in NEEDS and find_spec(NEEDS[name]) is None]
    notes = [
        f"{name} is left out: {NEEDS[name]} is not installed (pip install {NEEDS[name]})"
        for name in missing
    ]
    return [name for name in systems if name not in missing], notes


# ---------------------------------------------------------------------------- what they hear


def waveform(seconds: float, batch: int = 1, rate: int = 16_000) -> Tensor:
    """Made-up sound ``(B, S)``: gliding tones and noise that comes and goes, each clip another."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(round(seconds * rate)) / rate
    clips = []
    for number in range(batch):
        tone = torch.sin(6.2832 * (250 + 100 * (number % 8) + 300 * torch.sin(time / 2)) * time)
        loudness = 0.02 + torch.sin((1 + number / 8) * time).abs() ** 3
        noise = torch.randn(len(time), generator=generator)
        clips.append(0.1 * tone + 0.2 * loudness * noise)
    return torch.stack(clips)


def log_mel(case: Case) -> Tensor:
    """What the networks are given: ``(B, T, 128)``, padded to `Case.frames` as published.

    Baselines among our presets have front ends of their own.
    """
    config = own_front_end(case.preset) if case.system == "ours" else FrontEndConfig()
    if config == FrontEndConfig():
        config = FrontEndConfig(pad_to_frames=case.frames)
    wave = waveform(case.seconds, case.batch, config.sample_rate)
    return FrontEnd(config)(wave)[0].to(case.device)


# ---------------------------------------------------------------------------- making them


class Workshop:
    """Makes contestants; those of one preset share their weights."""

    def __init__(self) -> None:
        self._ours: dict[tuple[str, int], nn.Module] = {}

    def contestant(self, case: Case) -> Contestant:
        """One ready to run."""
        if case.task == "frontend":
            return Contestant(case, front_end(case))
        return Contestant(case, build(case, self.network(case)))

    def network(self, case: Case) -> nn.Module:
        """A network for clips of the case's length, on the CPU, not yet prepared."""
        if case.system not in ("ours", "published"):
            return bare_network(case)
        key = case.preset, case.frames
        if key not in self._ours:
            torch.manual_seed(0)
            self._ours[key] = settled(bare_network(Case("infer", "ours", preset=case.preset,
                                                        seconds=case.seconds)), case)  # fmt: skip
        ours = self._ours[key]
        return copy.deepcopy(ours) if case.system == "ours" else published_from(ours, case.frames)


def bare_network(case: Case) -> nn.Module:
    """A network with random weights."""
    if case.system == "ast":
        return AST(AST_PRESETS["ast"].replace(num_labels=LABELS, nominal_frames=case.frames))
    if case.system == "mobilenet":
        return MobileNetTagger(LABELS).to(memory_format=torch.channels_last)
    config = network_preset(case.preset, num_labels=LABELS)
    if isinstance(config, ModelConfig):
        config = config.replace(nominal_frames=max(1024, case.frames))
    if case.system == "ours":
        return network_of(config)
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"{case.preset} is not in the published code: add --systems ours")
    return Published(config, case.frames)


@torch.no_grad()
def settled(model: nn.Module, case: Case) -> Any:
    """The same model, its batch norms set to what they see in a few seconds of sound."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    few = Case("infer", "ours", preset=case.preset, batch=4, seconds=min(5.0, case.seconds))
    model.train()(log_mel(few))
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
    return model.eval()


# ---------------------------------------------------------------------------- running them


def build(case: Case, network: nn.Module) -> Callable[[], object]:
    """One call of a case's task with a network."""
    return {"infer": inference, "train": training_step}[case.task](case, network)


def inference(case: Case, network: nn.Module) -> Callable[[], Tensor]:
    """Logits of a batch."""
    model, mixed = prepare(case, network)
    if case.compiled:
        model = torch.compile(model)
    mel = log_mel(case)
    if next(network.parameters()).dtype != torch.float32 and case.system != "ours":
        mel = mel.to(DTYPES[case.precision])

    def run() -> Tensor:
        with torch.inference_mode(), mixed():
            return model(mel)

    return run


def prepare(case: Case, network: nn.Module) -> tuple[Any, Callable[[], AbstractContextManager]]:
    """A network for inference, each in its own fastest way, and the context to call it in.

    Ours as `atgnn.model.inference` makes it; the published code under autocast, as published; AST
    and MobileNet with weights in half precision, which is faster than autocast.
    """
    network = network.to(case.device).eval()
    mixed = partial(torch.autocast, torch.device(case.device).type, DTYPES[case.precision])
    plain = partial(mixed, enabled=False)
    if case.system == "ours":
        ready = _for_inference(network, case)
        if ready is not None:
            return ready, plain
    if case.precision == "fp32":
        return network, plain
    if case.system in ("ast", "mobilenet"):
        return network.to(DTYPES[case.precision]), plain
    return network, mixed


def _for_inference(model: nn.Module, case: Case) -> Any:
    """Norms folded, weights in the case's dtype; a single clip on a GPU as one CUDA graph."""
    try:
        from atgnn.networks import for_inference
    except ImportError:
        return None
    ready = for_inference(model, dtype=DTYPES[case.precision])
    if not case.device.startswith("cuda") or case.compiled:
        return ready
    from atgnn.model.graphs import CapturedModel

    return CapturedModel(ready)


def training_step(case: Case, network: nn.Module) -> Callable[[], Tensor]:
    """Forward, backward, Adam on one batch; half precision through autocast, for all systems."""
    model: Any = network.to(case.device).train()
    if case.keep != "usual":
        lean(network)
    if case.keep == "least":
        give_back_freed_memory()
    if case.compiled:
        model = torch.compile(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fp16 needs its scaler, whose class warns on a CPU
        scaler = torch.amp.GradScaler(
            torch.device(case.device).type, enabled=case.precision == "fp16"
        )
    optimizer = torch.optim.Adam(
        [p for p in network.parameters() if p.requires_grad],
        lr=1e-4, betas=(0.95, 0.999), weight_decay=5e-7, fused=True,
    )  # fmt: skip
    mel = log_mel(case)
    targets = (torch.rand(case.batch, LABELS) < 0.02).float().to(case.device)

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(
            mel.device.type, DTYPES[case.precision], enabled=case.precision != "fp32"
        ):
            logits = model(mel)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return run


# ---------------------------------------------------------------------------- front ends


def front_end(case: Case) -> Callable[[], object]:
    """Log-mel of a batch of waveforms: ours, Kaldi's or librosa's as published, transformers'."""
    config = front_end_preset(case.preset)
    wave = waveform(case.seconds, case.batch, config.sample_rate).to(case.device)
    if case.system == "ours":
        ours = FrontEnd(config).to(case.device)
        return torch.inference_mode()(lambda: ours(wave)[0])
    if case.system == "ast":
        from transformers import ASTFeatureExtractor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the filter without an FFT bin, as in Kaldi
            extract = ASTFeatureExtractor(max_length=case.frames)
        clips = [clip.numpy() for clip in wave.cpu()]
        return lambda: extract(clips, sampling_rate=config.sample_rate, return_tensors="pt")
    if config.kind == "stft":
        return librosa_mel(config, [clip.numpy() for clip in wave.cpu()])
    clip_by_clip = torchaudio_fbank(config) or partial(fbank, config=config)

    @torch.inference_mode()
    def published() -> Tensor:
        features = torch.stack([clip_by_clip(clip) for clip in wave])
        return (features - config.mean) / config.std

    return published


def librosa_mel(config: FrontEndConfig, clips: list[Any]) -> Callable[[], Any]:
    """librosa's log-mel spectrogram, clip by clip; the first call makes its filters."""
    import librosa

    settings = {
        "sr": config.sample_rate,
        "n_fft": config.n_fft,
        "win_length": config.window,
        "hop_length": config.hop,
        "n_mels": config.n_mels,
        "fmin": config.band[0],
        "fmax": config.band[1],
        "htk": config.mel_scale == "htk",
        "norm": "slaney" if config.mel_area else None,
        "pad_mode": "reflect",
    }

    def published() -> Any:
        mel = [librosa.feature.melspectrogram(y=clip, **settings) for clip in clips]
        return [librosa.power_to_db(one, amin=config.least_power, top_db=None) for one in mel]

    return published


def torchaudio_fbank(config: FrontEndConfig) -> Callable[[Tensor], Tensor] | None:
    """torchaudio's own filter bank for one clip, or None where it does not import."""
    try:
        from torchaudio.compliance import kaldi
    except (ImportError, OSError, RuntimeError):
        return None
    low, high = config.band
    settings = {
        "sample_frequency": config.sample_rate,
        "num_mel_bins": config.n_mels,
        "low_freq": low,
        "high_freq": high,
        "frame_length": config.window_ms,
        "frame_shift": config.hop_ms,
        "preemphasis_coefficient": config.preemphasis,
        "window_type": "hanning",
        "htk_compat": True,
        "use_energy": False,
        "dither": 0.0,
    }
    return lambda clip: kaldi.fbank((clip - clip.mean())[None], **settings)
