"""The optimiser of a run, and its learning rate."""

import math
from typing import Any

import torch
from torch import nn

from atgnn.training.recipe import OptimSettings

__all__ = ["learning_rate_factor", "scheduled_optimizer"]

STAIR = 50  # steps of the published warm-up


def scheduled_optimizer(
    module: nn.Module, settings: OptimSettings, updates: int, precision: str
) -> dict[str, Any]:
    """Adam or AdamW for all weights of a module, and the rate of every update, for Lightning.

    `updates` are those of an epoch. One kernel changes all weights, which takes a third of the
    time; not in float16, where the scaler of losses does not get along with it.
    """
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(
        _parameter_groups(module, settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=precision != "16-mixed",
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, updates, settings)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _parameter_groups(model: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Adam decays all parameters, as published; AdamW spares vectors (biases, norms)."""
    parameters = list(model.parameters())
    if settings.optimizer == "adam":
        return [{"params": parameters, "weight_decay": settings.weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate_factor(step: int, steps_per_epoch: int, settings: OptimSettings) -> float:
    """Share of the recipe's learning rate that update number `step` (from 0) uses.

    Warm-up, linear or in PSLA's stairs of 50 steps, the first of which stands at 0; then
    less by a factor (0.5) after each milestone epoch, or a cosine down to zero.
    """
    warm = 1.0
    if step < settings.warmup_steps:
        stairs = settings.warmup == "staircase"
        warm = (step // STAIR * STAIR if stairs else step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return warm
    if settings.schedule == "steps":
        epoch = step // steps_per_epoch + 1
        return warm * settings.decay ** sum(epoch > milestone for milestone in settings.milestones)
    total = max(1, settings.epochs * steps_per_epoch - settings.warmup_steps)
    done = min(1.0, max(0, step - settings.warmup_steps) / total)
    return warm * 0.5 * (1 + math.cos(math.pi * done))
