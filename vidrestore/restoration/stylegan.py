"""What StyleGAN2 is made of, in plain torch: equalised layers, the resampling filter, the modulated convolution.

Paper:
    Karras et al.: Analyzing and Improving the Image Quality of StyleGAN, 2020, section 2 and appendix B; equalised
    layers: Karras et al.: Progressive Growing of GANs, 2018, section 4.1.

Names:
    Parameters and buffers are called as in the PyTorch port that most published weights follow (rosinality), so that
    such files load: ``weight``, ``bias``, ``kernel``, ``modulation``, ``blur``, ``activate``.

Differences from the published programs, none in the result:
    - ``upfirdn2d`` is one depthwise convolution, or one depthwise transposed convolution where it enlarges, and no
      custom operator: the same sums, many times faster than padding with zeros and filtering one channel after the
      other (``benchmarks/upfirdn.py``).
    - The modulated convolution scales its input and its output and not the kernel: a batch shares one kernel, where
      the published form convolves each picture with a kernel of its own.

Precision:
    float32, bfloat16 under autocast; the demodulation is always computed in float32.

Licence:
    This code is written anew from the papers. NVIDIA's own StyleGAN2 code and weights are for non-commercial use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "BLUR",
    "Blur",
    "ConstantInput",
    "ConvLayer",
    "EqualConv2d",
    "EqualLinear",
    "FusedLeakyReLU",
    "ModulatedConv2d",
    "PixelNorm",
    "ResidualDown",
    "ToRgb",
    "Upsample",
    "filter_kernel",
    "fused_leaky_relu",
    "upfirdn2d",
    "upfirdn2d_plain",
]

BLUR = (1.0, 3.0, 3.0, 1.0)
"""Taps of the resampling filter of all published networks."""

_SLOPE = 0.2
_EPSILON = 1e-8


def filter_kernel(taps: Sequence[float] = BLUR, gain: float = 1.0) -> Tensor:
    """The separable filter of the given taps with sum ``gain``, (K, K) float32."""
    line = torch.tensor(taps, dtype=torch.float64)
    square = torch.outer(line, line)
    return (square * (gain / square.sum())).float()


def upfirdn2d(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> Tensor:
    """Zeros between the pixels, padding, a filter, and every n-th pixel of the result.

    Args:
        x: (B, C, H, W).
        kernel: (K, L), of the *convolution*: it is turned by half a turn before it slides.
        up: each pixel is followed by ``up - 1`` zeros, to the right and below.
        down: every ``down``-th pixel is kept, the first one included.
        padding: zeros left, right, above and below; negative ones cut off.

    Returns:
        (B, C, (H * up + above + below - K) // down + 1, (W * up + left + right - L) // down + 1).

    Source:
        Karras et al. 2020, appendix B. As a depthwise convolution, transposed where ``up`` is above 1.
    """
    channels, (rows, columns) = x.shape[1], kernel.shape
    left, right, above, below = padding
    weight = kernel.to(x.dtype)
    if up == 1:
        if left == right >= 0 and above == below >= 0:  # the convolution pads by itself, which saves a copy
            pad = (above, left)
        else:
            x, pad = functional.pad(x, padding), (0, 0)
        flipped = weight.flip(0, 1).expand(channels, 1, rows, columns)
        return functional.conv2d(x, flipped, stride=down, padding=pad, groups=channels)
    height = x.shape[2] * up + above + below - rows + 1
    width = x.shape[3] * up + left + right - columns + 1
    full = functional.conv_transpose2d(x, weight.expand(channels, 1, rows, columns), stride=up, groups=channels)
    # of the whole convolution, row ``rows - 1 - above`` is the first that is wanted
    top, start = above - rows + 1, left - columns + 1
    cut = (start, width - full.shape[3] - start, top, height - full.shape[2] - top)
    return functional.pad(full, cut)[:, :, ::down, ::down]


def upfirdn2d_plain(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> Tensor:
    """The definition of :func:`upfirdn2d`, step by step as the published Python does it; for tests and benchmarks."""
    batch, channels, height, width = x.shape
    left, right, above, below = padding
    zeros = functional.pad(x.reshape(-1, 1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    spread = zeros.reshape(-1, 1, height * up, width * up)
    framed = functional.pad(spread, (left, right, above, below))
    filtered = functional.conv2d(framed, kernel.to(x.dtype).flip(0, 1)[None, None])
    return filtered.reshape(batch, channels, *filtered.shape[2:])[:, :, ::down, ::down]


def fused_leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """sqrt(2) * leaky_relu(x + bias, 0.2) with one bias per channel; sqrt(2) keeps the variance."""
    gain = math.sqrt(2.0)  # before the leaky ReLU, which lets a positive factor through: one pass less over the map
    shifted = torch.add((bias * gain).to(x.dtype).view(-1, *(1,) * (x.ndim - 2)), x, alpha=gain)
    return functional.leaky_relu(shifted, _SLOPE, inplace=True)


class EqualConv2d(nn.Module):
    """A convolution whose weights have variance 1 and are scaled by 1 / sqrt(fan-in) as it runs."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, *, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1.0 / math.sqrt(in_channels * size * size)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        return functional.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How seeded values become a parameter of this layer (``seeded.py``)."""
        return _unit(values) if name == "weight" else _small(values)


class EqualLinear(nn.Module):
    """A matrix whose weights have variance 1 / rate² and are scaled by rate / sqrt(fan-in) as it runs.

    Args:
        in_features: length of the input.
        out_features: length of the output.
        rate: factor of the learning rate (``lr_mul``); the bias is scaled by it too.
        bias: first value of the bias.
        activates: the fused leaky ReLU follows.
    """

    def __init__(
        self, in_features: int, out_features: int, *, rate: float = 1.0, bias: float = 0.0, activates: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), bias))
        self.scale = rate / math.sqrt(in_features)
        self.rate = rate
        self.first_bias = bias
        self.activates = activates

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        if self.activates:
            return fused_leaky_relu(functional.linear(x, self.weight * self.scale), self.bias * self.rate)
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How seeded values become a parameter of this layer (``seeded.py``)."""
        scaled = _unit(values) if name == "weight" else self.first_bias + _small(values)
        return np.asarray(scaled / np.float32(self.rate), np.float32)


class FusedLeakyReLU(nn.Module):
    """Bias, leaky ReLU and gain; see :func:`fused_leaky_relu`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, ...) -> the same shape."""
        return fused_leaky_relu(x, self.bias)


class PixelNorm(nn.Module):
    """Each vector divided by its root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> the same shape."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + _EPSILON)


class _Filter(nn.Module):
    """A resampling filter; its kernel is in the published files, although it is no parameter."""

    kernel: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("kernel", filter_kernel(gain=gain))

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The filter is what it is, whatever the seed (``seeded.py``)."""
        with torch.device("cpu"):
            return cast("NDArray[np.float32]", filter_kernel(gain=self.gain).numpy())


class Blur(_Filter):
    """The filter without a change of the grid, under the given zeros before and after each axis."""

    def __init__(self, before: int, after: int, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.padding = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + before + after - 3, W + before + after - 3)."""
        return upfirdn2d(x, self.kernel, padding=self.padding)


class Upsample(_Filter):
    """Twice the size, filtered."""

    def __init__(self) -> None:
        super().__init__(4.0)  # three of four pixels are zeros before the filter

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return upfirdn2d(x, self.kernel, up=2, padding=(2, 1, 2, 1))


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output has unit variance again.

    With style s, kernel w and input x of unit variance, the published form convolves x with
    ``w s / |w s|``. The scale s is moved to x and 1 / |w s| to the result, so one kernel serves the batch.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        size: side of the kernel.
        style: length of the style vector.
        demodulates: divides by |w s|.
        upsamples: a transposed convolution of stride 2 and the filter follow each other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        style: int,
        *,
        demodulates: bool = True,
        upsamples: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, size, size))
        self.modulation = EqualLinear(style, in_channels, bias=1.0)
        self.blur = Blur(1, 1, 4.0) if upsamples else None
        self.scale = 1.0 / math.sqrt(in_channels * size * size)
        self.demodulates = demodulates

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, in_channels, H, W), (B, style) -> (B, out_channels, H', W'), twice the side where it upsamples."""
        weight = self.weight[0] * self.scale  # (out, in, k, k)
        scales = self.modulation(style)  # (B, in)
        x = x * scales[:, :, None, None].to(x.dtype)
        if self.blur is None:
            y = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            y = self.blur(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not self.demodulates:
            return y
        power = scales.float().square() @ weight.float().square().sum((2, 3)).t()  # (B, out)
        return y * torch.rsqrt(power + _EPSILON)[:, :, None, None].to(y.dtype)

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How seeded values become a parameter of this layer (``seeded.py``)."""
        return _unit(values)


class ToRgb(nn.Module):
    """Features to a picture, added to the enlarged picture of the level below."""

    def __init__(self, channels: int, style: int, *, upsamples: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample() if upsamples else None
        self.conv = ModulatedConv2d(channels, 3, 1, style, demodulates=False)

    def forward(self, x: Tensor, style: Tensor, below: Tensor | None = None) -> Tensor:
        """(B, channels, H, W), (B, style), (B, 3, H / 2, W / 2) -> (B, 3, H, W)."""
        image: Tensor = self.conv(x, style) + self.bias
        if self.upsample is not None and below is not None:
            image = image + self.upsample(below)
        return image

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How seeded values become a parameter of this layer (``seeded.py``)."""
        return _small(values)


class ConstantInput(nn.Module):
    """The learned (1, channels, 4, 4) map that a generator begins with."""

    def __init__(self, channels: int, size: int = 4) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, size, size))

    def forward(self, batch: int) -> Tensor:
        """-> (batch, channels, size, size)."""
        return self.input.expand(batch, -1, -1, -1)

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How seeded values become a parameter of this layer (``seeded.py``)."""
        return _unit(values)


class ConvLayer(nn.Sequential):
    """[filter,] convolution[, fused leaky ReLU]: the unit of encoder and discriminator.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        size: side of the kernel, 1 or 3.
        halves: the filter and a stride of 2.
        activates: bias and leaky ReLU at the end.
        bias: of the convolution, where nothing activates.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        halves: bool = False,
        activates: bool = True,
        bias: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        if halves:
            room = (len(BLUR) - 2) + (size - 1)
            layers.append(Blur((room + 1) // 2, room // 2))
        stride, padding = (2, 0) if halves else (1, size // 2)
        layers.append(EqualConv2d(in_channels, out_channels, size, stride=stride, padding=padding, bias=bias))
        if activates:
            layers.append(FusedLeakyReLU(out_channels))
        super().__init__(*layers)


class ResidualDown(nn.Module):
    """The discriminator's block: two convolutions, the second halving, beside a halving 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, halves=True)
        self.skip = ConvLayer(in_channels, out_channels, 1, halves=True, activates=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2)."""
        h: Tensor = self.conv2(self.conv1(x))
        shortcut: Tensor = self.skip(x)
        return (h + shortcut) / math.sqrt(2.0)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values * np.float32(math.sqrt(3.0))  # uniform in [-1, 1] has variance 1/3


def _small(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values * np.float32(0.1)
