"""The generator of ``mobile``: a style network of depthwise convolutions and inverse Haar transforms.

Architecture: MobileStyleGAN (Belousov 2021), sections 3.1 to 3.3: each block doubles the size by an inverse wavelet
transform in place of interpolation, and has two modulated convolutions, depthwise 3 x 3 and then pointwise 1 x 1.
Input is a style w (B, 512); the output is RGB in about [-1, 1], twice the size of the last block.

``vidrestore.train.generator`` reads the published weights from the package that carries them. Two facts make it a
decoder at real-time size: in training each block had a picture head of its own, so the last block can be left out and
a head be fitted to the one before; and no step mixes samples of a batch, so float32 on a CPU, and float16 or bfloat16
on a GPU, give one sample the same picture in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GeneratorDims", "ModulatedConvolution", "PictureHead", "StyleBlock", "StyleGenerator", "inverse_haar"]

SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True, slots=True)
class GeneratorDims:
    """Sizes of a generator; the defaults are those of the published one."""

    style: int = 512
    """Length of w."""
    base: int = 512
    """Channels at 4 px."""
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)
    """Channels of the blocks at 8, 16, ... px."""

    @property
    def size(self) -> int:
        """Side of the picture in pixels: twice that of the last block."""
        return int(8 * 2 ** len(self.channels))


def inverse_haar(x: Tensor) -> Tensor:
    """The picture of four wavelet bands, twice the size.

    Args:
        x: (B, C, H, W), C a multiple of 4. The first C / 4 channels are the low band, the others (C / 4, 3): change
            along y, along x, along both.

    Returns:
        (B, C / 4, 2 H, 2 W).
    """
    c = x.shape[1]
    low, bands = x[:, : c // 4], torch.unflatten(x[:, c // 4 :], 1, (c // 4, 3))
    along_y, along_x, along_both = bands.unbind(2)
    top, bottom = low + along_y, low - along_y
    odd, even = along_x + along_both, along_x - along_both
    cells = torch.stack([top + odd, top - odd, bottom + even, bottom - even], 2)  # (B, C / 4, 4, H, W)
    return functional.pixel_shuffle((0.5 * cells).flatten(1, 2), 2)


class ModulatedConvolution(nn.Module):
    """Style, depthwise 3 x 3, pointwise 1 x 1, stored noise and bias, leaky ReLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the result.
        style: length of w.
        size: side in pixels, of the noise map.
        extra: further channels that the pointwise convolution reads, unmodulated; see :meth:`forward`.
    """

    def __init__(self, inputs: int, outputs: int, style: int, size: int, *, extra: int = 0, depthwise: bool = True):
        super().__init__()
        self.modulation = nn.Linear(style, inputs)
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False) if depthwise else None
        kernel = 1 if depthwise else 3
        self.pointwise = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.extra = nn.Conv2d(extra, outputs, 1, bias=False) if extra else None
        self.register_buffer("noise", torch.zeros(1, 1, size, size))
        self.noise: Tensor

    def forward(self, x: Tensor, style: Tensor, extra: Tensor | None = None) -> Tensor:
        """(B, outputs, S, S) of (B, inputs, S, S), w (B, style) and, where built for it, (B, extra, S, S)."""
        x = x * self.modulation(style)[..., None, None]
        if self.depthwise is not None:
            x = self.depthwise(x)
        weight = self.pointwise.weight
        if extra is not None and self.extra is not None:  # one product: at 64 px maps are dearer to write than to make
            x, weight = torch.cat([x, extra], 1), torch.cat([weight, self.extra.weight], 1)
        x = functional.conv2d(x, weight, self.pointwise.bias, padding=self.pointwise.padding)
        return functional.leaky_relu(x.add_(self.noise), SLOPE, inplace=True)


class StyleBlock(nn.Module):
    """One doubling of the size: style, inverse Haar, two modulated convolutions.

    Args:
        inputs: channels of the input.
        outputs: channels of the result.
        style: length of w.
        size: side of the result in pixels.
        extra: further channels that the first convolution reads.
        whole: with the second convolution.
    """

    def __init__(self, inputs: int, outputs: int, style: int, size: int, *, extra: int = 0, whole: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(style, inputs)
        self.conv1 = ModulatedConvolution(inputs // 4, outputs, style, size, extra=extra)
        self.conv2 = ModulatedConvolution(outputs, outputs, style, size) if whole else None

    def grow(self, x: Tensor, style: Tensor) -> Tensor:
        """The first half: (B, inputs / 4, 2 S, 2 S) of (B, inputs, S, S)."""
        return inverse_haar(x * self.up(style)[..., None, None])

    def refine(self, x: Tensor, style: Tensor, extra: Tensor | None = None) -> Tensor:
        """The second half: (B, outputs, 2 S, 2 S) of what :meth:`grow` gives, and of (B, extra, 2 S, 2 S)."""
        refined: Tensor = self.conv1(x, style, extra)
        return refined if self.conv2 is None else self.conv2(refined, style)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, outputs, 2 S, 2 S) of (B, inputs, S, S) and w (B, style)."""
        return self.refine(self.grow(x, style), style)


class PictureHead(nn.Module):
    """Style, 1 x 1 to the wavelet bands of a picture, inverse Haar.

    Args:
        inputs: channels of the input.
        style: length of w.
    """

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(style, inputs)
        self.pointwise = nn.Conv2d(inputs, 12, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, 3, 2 S, 2 S) RGB of (B, inputs, S, S)."""
        return inverse_haar(self.pointwise(x * self.modulation(style)[..., None, None]))


class StyleGenerator(nn.Module):
    """Pictures of styles.

    Args:
        dims: sizes.
    """

    def __init__(self, dims: GeneratorDims | None = None) -> None:
        super().__init__()
        self.dims = dims = dims or GeneratorDims()
        self.constant = nn.Parameter(torch.randn(1, dims.base, 4, 4))
        self.first = ModulatedConvolution(dims.base, dims.base, dims.style, 4, depthwise=False)
        widths = (dims.base, *dims.channels)
        self.blocks = nn.ModuleList(
            StyleBlock(widths[i], widths[i + 1], dims.style, 8 * 2**i) for i in range(len(dims.channels))
        )
        self.head = PictureHead(widths[-1], dims.style)

    def features(self, style: Tensor, num_blocks: int | None = None) -> list[Tensor]:
        """The maps after the first convolution (4 px) and after each block, (B, C, S, S), smallest first.

        Args:
            style: (B, style), or (B, 1 + blocks, style): one for the first convolution and one for each block.
            num_blocks: how many blocks are computed; None is all.
        """
        styles = self._per_level(style)
        maps = [self.first(self.constant.expand(len(style), -1, -1, -1), styles[0])]
        for block, own in zip(self.blocks[:num_blocks], styles[1:], strict=False):
            maps.append(block(maps[-1], own))
        return maps

    def forward(self, style: Tensor) -> Tensor:
        """(B, 3, size, size) RGB in about [-1, 1] of w, (B, style) or (B, 1 + blocks, style)."""
        picture: Tensor = self.head(self.features(style)[-1], self._per_level(style)[-1])
        return picture

    def _per_level(self, style: Tensor) -> list[Tensor]:
        levels = 1 + len(self.blocks)
        return list(style.unbind(1)) if style.ndim == 3 else [style] * levels
