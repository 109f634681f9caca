"""Shift-tolerant LPIPS: a learned distance of pictures that a shift by a pixel hardly changes.

Source:
    Ghildyal and Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022: LPIPS (Zhang et al. 2018) whose
    backbone is trained with anti-aliased striding (BlurPool, Zhang 2019), reflection padding and a first convolution
    of stride 1. This module is our own; the parameters are read out of the installed package ``stlpips-pytorch``
    (BSD-2), which is not imported, as it wants torchvision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.packages import packaged_file

__all__ = ["ShiftTolerantLpips", "find_stlpips_weights"]

_ALEX_WIDTHS = (64, 192, 384, 256, 256)
_VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_EPSILON = 1e-10  # in the division that gives feature vectors length one


def find_stlpips_weights(net: Literal["alex", "vgg"]) -> Path:
    """The parameter file in the installed package.

    Raises:
        WeightsError: the package ``stlpips-pytorch`` is not installed, or has no such file.
    """
    path = packaged_file("stlpips_pytorch", f"weights/vST0.0/{net}_shift_tolerant.pth")
    if path is not None:
        return path
    raise WeightsError("ST-LPIPS needs its parameters: pip install --no-deps stlpips-pytorch==0.0.2")


class _Blur(nn.Module):
    """Binomial 3 x 3 low-pass with stride 2 and reflection padding of 2 on each side."""

    filt: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", (taps[:, None] * taps[None]).expand(width, 1, 3, 3).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


class _Scale(nn.Module):
    """[-1, 1] to the normalisation of the backbone."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


def _alex_stages() -> list[list[nn.Module]]:
    first, second, third, fourth, fifth = _ALEX_WIDTHS
    return [
        [nn.Conv2d(3, first, 11, padding=2), _Blur(first), nn.ReLU()],
        [nn.MaxPool2d(3, 1), _Blur(first), nn.Conv2d(first, second, 5, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, 1), _Blur(second), nn.Conv2d(second, third, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(fourth, fifth, 3, padding=1), nn.ReLU()],
    ]


def _vgg_stages() -> list[list[nn.Module]]:
    stages: list[list[nn.Module]] = []
    width = 3
    for widths in _VGG_STAGES:
        stage: list[nn.Module] = [nn.MaxPool2d(2, 1), _Blur(width)] if stages else []
        for out in widths:
            stage += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
        stages.append(stage)
    return stages


class _Backbone(nn.Module):
    """Five stages; the names ``slice1.0``, ``slice2.5`` ... are those of the published file."""

    def __init__(self, stages: list[list[nn.Module]]) -> None:
        super().__init__()
        index = 0
        for number, layers in enumerate(stages, 1):
            stage = nn.Sequential()
            for layer in layers:
                stage.add_module(str(index), layer)  # numbered through all stages
                index += 1
            self.add_module(f"slice{number}", stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.children():
            x = stage(x)
            outputs.append(x)
        return outputs


class _Head(nn.Module):
    """The learned weight of each channel's squared difference."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))  # the file counts the dropout

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class ShiftTolerantLpips(nn.Module):
    """The distance; 0 for equal pictures, about 0.1 for a mild and 0.5 for a strong difference.

    Parameters are frozen, and it stays in evaluation mode. Gradients flow into the pictures.

    Args:
        net: the backbone, ``alex`` (cheap: for training) or ``vgg``.
        path: the parameter file; None looks into the installed package.

    Raises:
        WeightsError: the file is missing, damaged or of another backbone.
    """

    def __init__(self, net: Literal["alex", "vgg"] = "alex", path: Path | None = None) -> None:
        super().__init__()
        self.scaling_layer = _Scale()
        self.net = _Backbone(_alex_stages() if net == "alex" else _vgg_stages())
        widths = _ALEX_WIDTHS if net == "alex" else tuple(w[-1] for w in _VGG_STAGES)
        self.num_stages = len(widths)
        for i, width in enumerate(widths):
            self.add_module(f"lin{i}", _Head(width))
        source = path or find_stlpips_weights(net)
        try:
            self.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
        except Exception as error:
            raise WeightsError(f"{source}: not the parameters of ST-LPIPS with the backbone {net!r}") from error
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ShiftTolerantLpips:
        """Stays in evaluation mode: the dropout in the heads belongs to the metric's own training."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Features of length one per pixel: five tensors (B, C, h, w).

        Args:
            image: (B, 3, H, W) RGB in [-1, 1]; sides of at least 32 pixels.
        """
        return [
            x / (torch.sqrt((x * x).sum(1, keepdim=True) + 1e-20) + _EPSILON)
            for x in self.net(self.scaling_layer(image))
        ]

    def compare(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """(B,) distances of two results of :meth:`features`."""
        total = first[0].new_zeros(len(first[0]))
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            total = total + self.get_submodule(f"lin{i}")((a - b) ** 2).mean((1, 2, 3))
        return total

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) distances of the pictures, both (B, 3, H, W) RGB in [-1, 1]."""
        return self.compare(self.features(first), self.features(second))
