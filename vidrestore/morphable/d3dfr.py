"""D3DFR: the 257 coefficients of a face, read off one picture by a ResNet-50.

Figure:
    RGB face (B, 3, 224, 224) in [0, 1], aligned as :mod:`vidrestore.morphable.align` does, no other normalisation
    -> ResNet-50 (strides in the 3 x 3), its average over the last 7 x 7 map: 2048 numbers
    -> seven linear layers: identity 80, expression 64, texture 80, angles 3, lighting 27, translation 2 and 1
    -> (B, 257), as :mod:`vidrestore.morphable.coefficients` splits them.

Paper:
    Deng et al.: Accurate 3D Face Reconstruction with Weakly-Supervised Learning, CVPR Workshops 2019; its PyTorch
    version, and the same network adapted to degraded faces in SGPN (Zhu et al., CVPR 2022).

Weights:
    ``d3dfr_finetune_ours.pth`` and ``d3dfr_opensource.pth`` of SGPN's archive, flat state dicts; ``epoch_20.pth`` of
    Deep3DFaceRecon_pytorch, the same keys inside ``net_recon``. Parameter names are those of the files. Their
    coefficients belong to the Basel Face Model 2009, which its users have to bring.

Precision:
    float32 parameters; the trunk may run under autocast, the linear layers and what they return stay in float32.

Licence:
    SGPN's files are for academic research only; Deep3DFaceRecon_pytorch is under the MIT licence and states nothing
    else about its weights. This code is written anew.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from vidrestore.errors import WeightsError
from vidrestore.morphable.coefficients import WIDTHS

__all__ = ["D3dfr", "D3dfrDims", "folded", "load_published_d3dfr"]

HEADS = (
    *(WIDTHS[name] for name in ("identity", "expression", "texture", "angles", "lighting")),
    2,  # translation, x and y
    1,  # and z
)
"""Widths of the seven linear layers, in the order of the file."""

EXPANSION = 4
"""A bottleneck's outer channels per inner one."""


@dataclass(frozen=True, slots=True)
class D3dfrDims:
    """The numbers that fix the layout of a :class:`D3dfr`; the defaults are the published ones."""

    channels: int = 64
    """Of the first convolution; inner channels of the first stage."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Bottlenecks of each of the four stages."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride), 1 x 1, added to a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * channels, H / stride, W / stride)."""
        h = functional.relu(self.bn1(self.conv1(x)))
        h = functional.relu(self.bn2(self.conv2(h)))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn3(self.conv3(h)) + shortcut)


class Backbone(nn.Module):
    """ResNet-50 up to the average of its last map."""

    def __init__(self, dims: D3dfrDims) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dims.channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(dims.channels)
        channels = dims.channels
        for level, count in enumerate(dims.blocks):
            inner = dims.channels * 2**level
            blocks = []
            for block in range(count):
                blocks.append(Bottleneck(channels, inner, stride=2 if level > 0 and block == 0 else 1))
                channels = EXPANSION * inner
            self.add_module(f"layer{level + 1}", nn.Sequential(*blocks))
        self.num_levels, self.out_channels = len(dims.blocks), channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, 1, 1)."""
        h = functional.relu(self.bn1(self.conv1(x)))
        h = functional.max_pool2d(h, 3, stride=2, padding=1)
        for level in range(self.num_levels):
            h = self.get_submodule(f"layer{level + 1}")(h)
        return functional.adaptive_avg_pool2d(h, 1)


class D3dfr(nn.Module):
    """The published regressor.

    Args:
        dims: layout; the default is the published one, 24.0 M parameters, 4.1 G multiply-adds.
    """

    def __init__(self, dims: D3dfrDims | None = None) -> None:
        super().__init__()
        self.backbone = Backbone(dims or D3dfrDims())
        self.final_layers = nn.ModuleList(nn.Conv2d(self.backbone.out_channels, width, 1) for width in HEADS)
        for layer in self.final_layers:  # as published: an untrained network says "the mean face, seen from the front"
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 224, 224) RGB in [0, 1] -> (B, 257) coefficients, float32."""
        features = self.backbone(images).float()
        with torch.autocast(features.device.type, enabled=False):
            return torch.cat([layer(features) for layer in self.final_layers], dim=1).flatten(1)


def folded(network: D3dfr) -> D3dfr:
    """A copy for inference whose normalisation lies in its convolutions; its results differ in their last bits."""
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]
        if isinstance(module, nn.Sequential):
            pairs = [("0", "1")]  # a shortcut
        for name, after in pairs:
            convolution, norm = getattr(module, name, None), getattr(module, after, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, after, nn.Identity())
    return copied


def load_published_d3dfr(network: D3dfr, state: Mapping[str, Any], *, source: str = "weights") -> None:
    """Gives the network the weights of a published file.

    Args:
        network: on any device.
        state: a flat state dict, or one inside ``net_recon``.
        source: the file's name, for the message.

    Raises:
        WeightsError: a key is missing, unexpected, of a wrong shape or not finite; the network is as it was.
    """
    given = state["net_recon"] if isinstance(state.get("net_recon"), Mapping) else state
    own = network.state_dict()
    for key in sorted(own.keys() ^ given.keys()):
        kind = "missing" if key in own else "unexpected"
        raise WeightsError(f"{source}: {key} is {kind}; is the file of another network?")
    for key, value in given.items():
        if not isinstance(value, Tensor) or value.shape != own[key].shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise WeightsError(f"{source}: {key} must have shape {tuple(own[key].shape)}, found {found}")
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{source}: {key} holds values that are not finite")
    network.load_state_dict(given)
