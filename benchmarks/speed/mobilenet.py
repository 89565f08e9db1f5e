"""A MobileNetV3-Large tagger of the size of EfficientAT's mn10, stated plainly.

Width 1.0 on one spectrogram: 3x3 stem to 16 channels, fifteen inverted residual blocks, 960
channels, mean over the map, 1280 hidden units, one logit per class; 4.88 M parameters with 527
classes. Layout: Howard et al., "Searching for MobileNetV3" (2019), Table 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MobileNetTagger"]

# kernel, expanded width, outputs, squeeze and excitation, hard swish (else ReLU), stride
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class MobileNetTagger(nn.Module):
    """``(B, T, n_mels)`` to logits ``(B, S)``."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.stem = _conv(1, 16, 3, 2)
        inputs, blocks = 16, []
        for kernel, width, outputs, excite, swish, stride in BLOCKS:
            blocks.append(_Inverted(inputs, kernel, width, outputs, excite, swish, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _conv(inputs, 6 * inputs, 1)
        self.head = nn.Sequential(
            nn.Linear(6 * inputs, 1280),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(1280, num_labels),
        )

    def forward(self, mel: Tensor) -> Tensor:
        """Channels-last throughout, which is the faster order on a CPU."""
        image = mel.transpose(1, 2).unsqueeze(1).contiguous(memory_format=torch.channels_last)
        x = functional.hardswish(self.stem(image))
        x = functional.hardswish(self.last(self.blocks(x)))
        return self.head(x.mean((2, 3)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    )


class _Inverted(nn.Module):
    """Expand, filter each channel by itself, weigh the channels, project; around a residual."""

    def __init__(
        self,
        inputs: int,
        kernel: int,
        width: int,
        outputs: int,
        excite: bool,
        swish: bool,
        stride: int,
    ) -> None:
        super().__init__()
        self.expand = _conv(inputs, width, 1) if width != inputs else None
        self.filter = _conv(width, width, kernel, stride, groups=width)
        self.excite = None
        if excite:
            squeezed = max(24, (width // 4 + 4) // 8 * 8)  # a quarter, in whole eights
            self.excite = nn.Sequential(
                nn.Conv2d(width, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, width, 1)
            )
        self.project = _conv(width, outputs, 1)
        self.activation = functional.hardswish if swish else functional.relu
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else self.activation(self.expand(x))
        hidden = self.activation(self.filter(hidden))
        if self.excite is not None:
            hidden = hidden * functional.hardsigmoid(self.excite(hidden.mean((2, 3), keepdim=True)))
        out = self.project(hidden)
        return x + out if self.residual else out
