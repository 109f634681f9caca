"""ParseNet: which part of a face each pixel of a crop is.

Figure (default dims):
    RGB face (B, 3, 512, 512) in [-1, 1]
    -> encoder: 3 x 3 to 64, then four residual blocks that halve the side: 128, 256, 256, 256 channels at 32 pixels
    -> body: ten residual blocks, their result added to the encoder's
    -> decoder: four residual blocks that double the side: 256, 256, 128, 64 channels at 512 pixels
    -> two 3 x 3 heads: logits of 19 labels (B, 19, 512, 512), and a picture (B, 3, 512, 512) that nobody uses.

Paper:
    Chen et al.: Progressive Semantic-Aware Style Transformation for Blind Face Restoration (PSFR-GAN), 2021: its
    face parsing network.

Weights:
    ``parsing_parsenet.pth`` of facexlib v0.2.2 or CodeFormer v0.1.0, a flat state dict. Parameter names are those of
    the file.

Precision:
    float32; bfloat16 and float16 with the weights cast. Labels at the seams of two parts may change.

Licence:
    The file is published by facexlib (MIT) and by CodeFormer (S-Lab License 1.0, non-commercial). This code is
    written anew.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LABELS", "PASTED_LABELS", "ParseNet", "ParseNetDims", "Parsing"]

LABELS = (
    "background",
    "skin",
    "nose",
    "glasses",
    "left eye",
    "right eye",
    "left brow",
    "right brow",
    "left ear",
    "right ear",
    "mouth",
    "upper lip",
    "lower lip",
    "hair",
    "hat",
    "earring",
    "necklace",
    "neck",
    "cloth",
)
"""Names of the labels, by index; left and right as in the list of facexlib."""

PASTED_LABELS = (*range(1, 14), 15)
"""Labels that the published pipeline pastes back: all but background, hat, necklace, neck and cloth."""


@dataclass(frozen=True, slots=True)
class ParseNetDims:
    """The numbers that fix the layout of a :class:`ParseNet`; the defaults are the published ones."""

    num_labels: int = len(LABELS)
    """Labels of the mask head."""
    base_channels: int = 64
    """Channels at full size; they double with every halving of the side."""
    max_channels: int = 256
    """Upper bound of the channels."""
    halvings: int = 4
    """Residual blocks that halve the side: 512 to 32 pixels."""
    body_blocks: int = 10
    """Residual blocks at the coarsest size."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each size, full size first."""
        return tuple(min(self.base_channels * 2**level, self.max_channels) for level in range(self.halvings + 1))


class Parsing(NamedTuple):
    """What both heads say about a batch of crops."""

    logits: Tensor
    """(B, num_labels, H, W)."""
    image: Tensor
    """(B, 3, H, W), about [-1, 1]."""


class BatchNorm(nn.Module):
    """Batch norm one level down, where the published names expect it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        out: Tensor = self.norm(x)
        return out


class ConvLayer(nn.Module):
    """Optional doubling, 3 x 3 convolution on reflected borders, optional batch norm, optional leaky ReLU.

    A convolution has a bias where no norm follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        doubles: bool = False,
        normalises: bool = False,
        activates: bool = False,
    ) -> None:
        super().__init__()
        self.doubles, self.activates = doubles, activates
        self.conv2d = nn.Conv2d(in_channels, out_channels, 3, stride=stride, bias=not normalises)
        self.norm = BatchNorm(out_channels) if normalises else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if self.doubles:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"))
        if self.norm is not None:
            x = self.norm(x)
        return functional.leaky_relu(x, 0.2) if self.activates else x


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut; nothing after the sum.

    A block that halves does so in its second convolution, one that doubles in its first, and the shortcut of either,
    or of one that changes the channels, is a bare convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, doubles: bool = False) -> None:
        super().__init__()
        changes = stride != 1 or doubles or in_channels != out_channels
        self.shortcut_func = ConvLayer(in_channels, out_channels, stride=stride, doubles=doubles) if changes else None
        self.conv1 = ConvLayer(in_channels, out_channels, doubles=doubles, normalises=True, activates=True)
        self.conv2 = ConvLayer(out_channels, out_channels, stride=stride, normalises=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        shortcut: Tensor = x if self.shortcut_func is None else self.shortcut_func(x)
        out: Tensor = shortcut + self.conv2(self.conv1(x))
        return out


class ParseNet(nn.Module):
    """Crop -> labels, as logits. Sides of the input must be multiples of ``2 ** halvings``."""

    def __init__(self, dims: ParseNetDims | None = None) -> None:
        super().__init__()
        self.dims = dims or ParseNetDims()
        widths = self.dims.widths
        down = list(itertools.pairwise(widths))
        self.encoder = nn.Sequential(
            ConvLayer(3, widths[0]), *(ResidualBlock(fine, coarse, stride=2) for fine, coarse in down)
        )
        self.body = nn.Sequential(*(ResidualBlock(widths[-1], widths[-1]) for _ in range(self.dims.body_blocks)))
        self.decoder = nn.Sequential(*(ResidualBlock(coarse, fine, doubles=True) for fine, coarse in reversed(down)))
        self.out_img_conv = ConvLayer(widths[0], 3)
        self.out_mask_conv = ConvLayer(widths[0], self.dims.num_labels)

    def parse(self, images: Tensor) -> Tensor:
        """The logits alone, (B, 3, H, W) RGB in [-1, 1] -> (B, num_labels, H, W)."""
        logits: Tensor = self.out_mask_conv(self._features(images))
        return logits

    def forward(self, images: Tensor) -> Parsing:
        """Both heads, (B, 3, H, W) RGB in [-1, 1]."""
        features = self._features(images)
        return Parsing(self.out_mask_conv(features), self.out_img_conv(features))

    def _features(self, images: Tensor) -> Tensor:
        encoded = self.encoder(images)
        features: Tensor = self.decoder(encoded + self.body(encoded))  # (B, base_channels, H, W)
        return features
