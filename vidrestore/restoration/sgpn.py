"""SGPN: a shape prior and a generative prior, fused level by level.

Figure (default dims):
    degraded face (B, 3, 512, 512), rendered face (B, 3, 512, 512), both RGB in [-1, 1]
    -> encoder, the same one for both: 1 x 1 to 64, then seven halving 3 x 3 to 128, 256, 512, ... 512 channels on
       256 ... 4 pixels; each of the eight maps is kept, the last one becomes a latent of 256
    latents 256 + 256 and the 257 coefficients of the 3D model -> norm, three layers: the style w (B, 512)
    -> generator: a learned 4 x 4 map; on each level 4, 8, ... 512 two modulated convolutions (one on 4 pixels), after
       each of them an AFFB: a mask M in [0, 1], computed from the convolution's output and both encoder maps, mixes
       M * degraded + (1 - M) * rendered, and the mixture is put beside the convolution's output
    -> sum of the levels' pictures, not clamped.

Paper:
    Zhu et al.: Blind Face Restoration via Integrating Face Shape and Generative Priors, CVPR 2022. Differs from its
    text as the published weights do: three mapping layers, one encoder for both pictures, a learned factor before the
    mixture, the mask sees the convolution before bias and activation, and on 4 pixels the degraded map goes in alone.

Weights:
    ``sgpn.pth`` (flat state dict) of the authors' archive. Parameter names are those of the file: ``netE`` the encoder,
    ``netG`` the generator, ``noise.weight`` the factor before the mixture, ``convs_mask`` the mask.
    A StyleGAN2 face generator in the layout of rosinality's port fills the generator (:func:`start_from_stylegan`).

Precision:
    float32, bfloat16 under autocast.

Licence:
    The published weights may be used for academic research only. This code is written anew.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidrestore.errors import WeightsError
from vidrestore.restoration.stylegan import (
    ConstantInput,
    ConvLayer,
    EqualLinear,
    FusedLeakyReLU,
    ModulatedConv2d,
    PixelNorm,
    ResidualDown,
    ToRgb,
)

__all__ = [
    "Encoded",
    "Sgpn",
    "SgpnDims",
    "SgpnDiscriminator",
    "SgpnEncoder",
    "SgpnGenerator",
    "StyledConv",
    "StyledConvAffb",
    "start_from_stylegan",
]

_FIRST_SIZE = 4
_NEW_KERNELS = 0.1  # of a pretrained generator's: the demodulation, a norm over all inputs, then changes by 0.5 %


@dataclass(frozen=True, slots=True)
class SgpnDims:
    """Layout of the network; the defaults fit the published weights, ``size`` and widths may be smaller in tests.

    ``has_shape_prior``, ``has_generative_prior`` and ``fusion`` are the paper's ablations.
    """

    size: int = 512
    """Side of the pictures, a power of two from 8 on."""
    max_channels: int = 512
    """Width of the coarse levels."""
    area_channels: int = 32768
    """A level of S pixels has this many channels over S, at most ``max_channels``: 64 at 512."""
    latent: int = 256
    """Length of the encoder's latent."""
    style: int = 512
    """Length of w."""
    coefficients: int = 257
    """Numbers of the 3D model that reach the mapping."""
    mapping_layers: int = 3
    has_shape_prior: bool = True
    """False: neither render nor coefficients are looked at; the degraded map is mixed in alone."""
    has_generative_prior: bool = True
    """False: no style; the convolutions are not modulated, and the generator is a plain decoder with skips."""
    fusion: Literal["affb", "concat"] = "affb"
    """``concat`` puts both encoder maps beside the convolution's output, without a mask."""

    def __post_init__(self) -> None:
        if self.size < 2 * _FIRST_SIZE or self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two from {2 * _FIRST_SIZE} on, got {self.size}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the levels, 4 first."""
        return tuple(_FIRST_SIZE << i for i in range(int(math.log2(self.size // _FIRST_SIZE)) + 1))

    def channels(self, size: int) -> int:
        """Width of the level of a size."""
        return min(self.max_channels, self.area_channels // size)

    @property
    def mapped(self) -> int:
        """Length of the vector that is mapped to w."""
        return 2 * self.latent + self.coefficients if self.has_shape_prior else self.latent

    def fused(self, size: int) -> int:
        """Channels of a level after fusion."""
        both = self.fusion == "concat" and self.has_shape_prior and size > _FIRST_SIZE
        return self.channels(size) * (3 if both else 2)


class Encoded(NamedTuple):
    """What the encoder makes of a batch of pictures."""

    latent: Tensor
    """(B, latent)."""
    maps: tuple[Tensor, ...]
    """One per level, 4 pixels first, (B, channels, S, S) each."""

    def select(self, index: Tensor) -> Encoded:
        """The pictures of the given indices, (N,) int64; they may repeat."""
        return Encoded(self.latent[index], tuple(m[index] for m in self.maps))


class SgpnEncoder(nn.Module):
    """A picture to one map per level and a latent."""

    def __init__(self, dims: SgpnDims) -> None:
        super().__init__()
        sizes = dims.sizes[::-1]
        self.ecd0 = nn.Sequential(ConvLayer(3, dims.channels(sizes[0]), 1))
        for i, (size, below) in enumerate(itertools.pairwise(sizes), 1):
            layer = ConvLayer(dims.channels(size), dims.channels(below), 3, halves=True)
            self.add_module(f"ecd{i}", nn.Sequential(layer))
        self.num_layers = len(sizes)
        features = dims.channels(_FIRST_SIZE) * _FIRST_SIZE * _FIRST_SIZE
        self.final_linear = nn.Sequential(EqualLinear(features, dims.latent, activates=True))

    def forward(self, images: Tensor) -> Encoded:
        """(B, 3, S, S) RGB in [-1, 1]."""
        maps: list[Tensor] = []
        x = images
        for i in range(self.num_layers):
            x = self.get_submodule(f"ecd{i}")(x)
            maps.append(x)
        return Encoded(self.final_linear(x.flatten(1)), tuple(reversed(maps)))


class Strength(nn.Module):
    """The learned factor before what is mixed in; 0 at first, so that a pretrained generator begins as it is.

    The published name of this module is ``noise``: StyleGAN2 adds noise in this place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, *mixed: Tensor) -> Tensor:
        """(B, C, H, W) and maps of its size -> all of them side by side."""
        return torch.cat([x, *(self.weight * m for m in mixed)], 1)

    def seeded_tensor(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Seeded networks mix half of the features in (``seeded.py``)."""
        return np.asarray(0.5 + 0.25 * values, np.float32)


class StyledConv(nn.Module):
    """The block of the 4 x 4 level: modulated convolution, the degraded map beside it, bias and activation."""

    def __init__(self, channels: int, fused: int, style: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, channels, 3, style)
        self.noise = Strength()
        self.activate = FusedLeakyReLU(fused)

    def forward(self, x: Tensor, style: Tensor, degraded: Tensor) -> Tensor:
        """(B, C, H, W), (B, style), (B, C, H, W) -> (B, 2 C, H, W)."""
        result: Tensor = self.activate(self.noise(self.conv(x, style), degraded))
        return result


class StyledConvAffb(nn.Module):
    """A modulated convolution and the adaptive feature fusion block (AFFB) behind it."""

    def __init__(self, in_channels: int, out_channels: int, dims: SgpnDims, fused: int, *, upsamples: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, dims.style, upsamples=upsamples)
        self.noise = Strength()
        self.activate = FusedLeakyReLU(fused)
        self.convs_mask: ConvLayer | None = None
        if dims.has_shape_prior and dims.fusion == "affb":
            self.convs_mask = ConvLayer(3 * out_channels, out_channels, 1, activates=False, bias=True)

    def mask(self, out: Tensor, degraded: Tensor, rendered: Tensor) -> Tensor:
        """Where the degraded picture is to be believed, (B, C, H, W) in [0, 1]; 1 - mask believes the render."""
        assert self.convs_mask is not None
        return torch.sigmoid(self.convs_mask(torch.cat([out, degraded, rendered], 1)))

    def forward(
        self, x: Tensor, style: Tensor, degraded: Tensor, rendered: Tensor | None, masks: list[Tensor] | None = None
    ) -> Tensor:
        """Convolves, fuses, activates.

        Args:
            x: (B, in_channels, H, W).
            style: (B, style).
            degraded: (B, C, H', W') encoder map of the degraded picture.
            rendered: the render's, or None where the network has no shape prior.
            masks: the block's mask is appended, where it has one.

        Returns:
            (B, 2 C, H', W'), or 3 C where maps are concatenated.
        """
        out = self.conv(x, style)
        if rendered is None:
            mixed: tuple[Tensor, ...] = (degraded,)
        elif self.convs_mask is None:
            mixed = (degraded, rendered)
        else:
            mask = self.mask(out, degraded, rendered)
            if masks is not None:
                masks.append(mask)
            mixed = (torch.lerp(rendered, degraded, mask),)
        result: Tensor = self.activate(self.noise(out, *mixed))
        return result


class SgpnGenerator(nn.Module):
    """StyleGAN2's generator with both priors' features in place of its noise."""

    def __init__(self, dims: SgpnDims) -> None:
        super().__init__()
        self.dims = dims
        style, first = dims.style, dims.channels(_FIRST_SIZE)
        self.mlp: nn.Sequential | None = None
        if dims.has_generative_prior:
            widths = [dims.mapped, *[style] * dims.mapping_layers]
            layers = [EqualLinear(a, b, rate=0.01, activates=True) for a, b in itertools.pairwise(widths)]
            self.mlp = nn.Sequential(PixelNorm(), *layers)
        self.input = ConstantInput(first, _FIRST_SIZE)
        self.conv1 = StyledConv(first, dims.fused(_FIRST_SIZE), style)
        self.to_rgb1 = ToRgb(dims.fused(_FIRST_SIZE), style, upsamples=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        below = dims.fused(_FIRST_SIZE)
        for size in dims.sizes[1:]:
            channels, fused = dims.channels(size), dims.fused(size)
            self.convs.append(StyledConvAffb(below, channels, dims, fused, upsamples=True))
            self.convs.append(StyledConvAffb(fused, channels, dims, fused, upsamples=False))
            self.to_rgbs.append(ToRgb(fused, style))
            below = fused

    def map(self, degraded: Encoded, rendered: Encoded | None, coefficients: Tensor | None) -> Tensor:
        """The style w, (B, style); zeros without a generative prior, so that every channel's scale is its bias, 1."""
        if self.mlp is None:
            return degraded.latent.new_zeros(len(degraded.latent), self.dims.style)
        parts = [degraded.latent]
        if rendered is not None and coefficients is not None:
            parts += [rendered.latent, coefficients.to(degraded.latent.dtype)]
        style: Tensor = self.mlp(torch.cat(parts, 1))
        return style

    def forward(
        self, style: Tensor, degraded: Encoded, rendered: Encoded | None, masks: list[Tensor] | None = None
    ) -> Tensor:
        """The picture, (B, 3, S, S), about [-1, 1], not clamped; masks of all blocks are appended to ``masks``."""
        x = self.conv1(self.input(len(style)), style, degraded.maps[0])
        image: Tensor = self.to_rgb1(x, style)
        for level, to_rgb in enumerate(self.to_rgbs, 1):
            there = None if rendered is None else rendered.maps[level]
            for conv in self.convs[2 * level - 2 : 2 * level]:
                x = conv(x, style, degraded.maps[level], there, masks)
            image = to_rgb(x, style, image)
        return image


class Sgpn(nn.Module):
    """The whole network.

    ``encode`` and ``decode`` are its two halves: on video the encoded render of one frame can serve several.
    """

    def __init__(self, dims: SgpnDims | None = None) -> None:
        super().__init__()
        self.dims = dims or SgpnDims()
        self.netE = SgpnEncoder(self.dims)
        self.netG = SgpnGenerator(self.dims)

    def encode(self, images: Tensor) -> Encoded:
        """Maps and latent of pictures, degraded or rendered, (B, 3, S, S) in [-1, 1].

        Raises:
            ValueError: pictures of another shape.
        """
        size = self.dims.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"expected pictures (B, 3, {size}, {size}), got {tuple(images.shape)}")
        encoded: Encoded = self.netE(images)
        return encoded

    def decode(
        self,
        degraded: Encoded,
        rendered: Encoded | None,
        coefficients: Tensor | None,
        masks: list[Tensor] | None = None,
    ) -> Tensor:
        """The restored pictures.

        Args:
            degraded: the encoded input.
            rendered: the encoded render; not looked at where the network has no shape prior, and may be None then.
            coefficients: (B, coefficients) of the 3D model, likewise.
            masks: gets the mask of every AFFB, coarse to fine, (B, C, S, S) each.

        Returns:
            (B, 3, S, S), about [-1, 1], not clamped.
        """
        if not self.dims.has_shape_prior:
            rendered = coefficients = None
        elif rendered is None or coefficients is None:
            raise ValueError("this network has a shape prior: it wants the encoded render and the coefficients")
        style = self.netG.map(degraded, rendered, coefficients)
        image: Tensor = self.netG(style, degraded, rendered, masks)
        return image

    def forward(self, degraded: Tensor, rendered: Tensor | None = None, coefficients: Tensor | None = None) -> Tensor:
        """Degraded picture, rendered picture (background -1) and coefficients -> restored picture."""
        seen = self.encode(degraded)
        drawn = self.encode(rendered) if rendered is not None and self.dims.has_shape_prior else None
        return self.decode(seen, drawn, coefficients)


class SgpnDiscriminator(nn.Module):
    """StyleGAN2's discriminator: (B, 3, S, S) -> (B, 1), higher is more real.

    The published class cannot be constructed: it hands its block an argument more than the block takes. Dropping it, as
    here, is the evident repair; its value is the block's own.

    Args:
        dims: sizes and widths.
        group: pictures over which the standard deviation is taken; a batch that it does not divide is one group.
    """

    def __init__(self, dims: SgpnDims | None = None, *, group: int = 4) -> None:
        super().__init__()
        self.dims = dims = dims or SgpnDims()
        self.group = group
        sizes = dims.sizes[::-1]
        layers: list[nn.Module] = [ConvLayer(3, dims.channels(sizes[0]), 1)]
        layers += [ResidualDown(dims.channels(size), dims.channels(below)) for size, below in itertools.pairwise(sizes)]
        self.convs = nn.Sequential(*layers)
        channels = dims.channels(_FIRST_SIZE)
        self.final_conv = ConvLayer(channels + 1, channels, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels * _FIRST_SIZE * _FIRST_SIZE, channels, activates=True), EqualLinear(channels, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, 1)."""
        x: Tensor = self.convs(images)
        x = torch.cat([x, self._spread(x)], 1)
        scores: Tensor = self.final_linear(self.final_conv(x).flatten(1))
        return scores

    def _spread(self, x: Tensor) -> Tensor:
        """One channel: the mean standard deviation over a group of pictures, the same for all of its pictures."""
        batch, _, height, width = x.shape
        group = min(batch, self.group)
        if batch % group:
            group = batch
        parts = x.view(group, -1, *x.shape[1:])  # picture i is in group i mod (batch / group), as published
        spread = torch.sqrt(parts.var(0, unbiased=False) + 1e-8).mean((1, 2, 3), keepdim=True)
        return spread.repeat(group, 1, 1, 1).expand(batch, 1, height, width)


def start_from_stylegan(
    network: Sgpn, state: Mapping[str, Any], *, source: str = "weights", seed: int = 0
) -> tuple[str, ...]:
    """Gives the generator the weights of a StyleGAN2 face model, so that it begins as a painter of faces.

    Our layers have twice the input channels of StyleGAN2's: the first half is its own, the second takes the mixed
    features. The first half is filled from the file; the new kernels are small random numbers and the factor before
    the mixture is 0, so the generator paints what StyleGAN2 paints (without its noise) to within half a percent, and
    yet every new weight has a gradient. The mapping is our own: it has other inputs.

    Args:
        network: with a generative prior.
        state: of rosinality's port: ``g_ema`` of its checkpoint, or the checkpoint itself; of the network's size or
            larger, whose finest levels are then left out.
        source: the file's name, for the message.
        seed: of the new kernels.

    Returns:
        The keys of the network that were filled.

    Raises:
        WeightsError: a key is missing, no tensor, not finite, or of a shape that does not fit.
    """
    given = state.get("g_ema", state)
    if not isinstance(given, Mapping) or network.netG.mlp is None:
        raise WeightsError(f"{source}: no StyleGAN2 generator, or the network has no generative prior to start")
    generator = torch.Generator().manual_seed(seed)
    own = dict(network.netG.state_dict())
    ready: dict[str, Tensor] = {}
    for key, tensor in own.items():
        if key.startswith("mlp.") or "convs_mask" in key or key.endswith("noise.weight"):
            continue
        value = given.get(key)
        if not isinstance(value, Tensor):
            raise WeightsError(f"{source}: {key} is missing; is it a StyleGAN2 generator of at least our size?")
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{source}: {key} holds NaN or infinity; the file is damaged")
        ready[key] = _widened(key, value.to(tensor.dtype), tensor, source, generator)
    for key in own:
        if key.endswith("noise.weight"):
            ready[key] = torch.zeros_like(own[key])
    network.netG.load_state_dict(ready, strict=False)
    return tuple(f"netG.{key}" for key in ready)


def _widened(key: str, value: Tensor, own: Tensor, source: str, generator: torch.Generator) -> Tensor:
    """The published values in the first channels of ours; kernels keep their effect under our runtime scale."""
    if value.shape == own.shape:
        return value
    name = key.rsplit(".", 2)
    if value.ndim != own.ndim or any(a > b for a, b in zip(value.shape, own.shape, strict=True)):
        raise WeightsError(f"{source}: {key} has shape {tuple(value.shape)}, which does not fit {tuple(own.shape)}")
    place = tuple(slice(0, n) for n in value.shape)
    if own.ndim == 5:  # a kernel: scaled by 1 / sqrt(fan-in) as it runs, and our fan-in is larger
        gain = math.sqrt(own.shape[2] / value.shape[2])
        wide = torch.randn(own.shape, generator=generator, dtype=own.dtype) * _NEW_KERNELS * value.std() * gain
        wide[place] = value * gain
    elif name[-2] == "modulation" and name[-1] == "bias":
        wide = torch.ones_like(own)
        wide[place] = value
    else:
        wide = torch.zeros_like(own)
        wide[place] = value
    return wide
