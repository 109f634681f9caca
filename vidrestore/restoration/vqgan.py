"""The vector-quantised autoencoder under CodeFormer, and the patch discriminator that it was trained against.

Figure (default dims; every line of the two halves is one or more entries of the flat list ``blocks``):
    RGB face (B, 3, 512, 512) in [-1, 1]
    -> encoder: 3 x 3 to 64; two residual blocks on each of 512, 256, 128, 64, 32, 16 pixels with 64, 128, 128, 256,
       256, 512 channels, a strided convolution between; self-attention after each block on 16 pixels; residual,
       attention, residual; group norm; 3 x 3 to 256: the latent (B, 256, 16, 16)
    -> quantizer: each of the 256 latent vectors is replaced by the nearest of 1024 code entries
    -> generator: the encoder backwards, with nearest doubling and a 3 x 3 in place of the strided convolutions
    -> RGB face, not clamped: the last layer is linear and may leave [-1, 1] by a little.

Paper:
    Esser, Rombach, Ommer: Taming Transformers for High-Resolution Image Synthesis, 2021, section 3.1; in the form of
    Zhou et al.: Towards Robust Blind Face Restoration with Codebook Lookup Transformer, 2022, section 3.1. Differs
    from the former as the published weights do: no activation between the last norm and the last convolution of
    either half, and the factor 0.25 on the codebook's term of the loss instead of the encoder's.

Weights:
    ``vqgan_code1024.pth`` (autoencoder, stage I) and ``vqgan_discriminator.pth``, release v0.1.0 of CodeFormer;
    wrapped in ``params_ema`` / ``params`` and ``params_d`` / ``params``. Parameter names are those of the files.

Precision:
    float32; bfloat16 in the convolutions (weights cast, or autocast). Distances to the code entries are always
    computed in float32.

Licence:
    The published weights are under S-Lab License 1.0: non-commercial use only. This code is written anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError

__all__ = [
    "AttnBlock",
    "DiscriminatorDims",
    "Encoder",
    "Encoding",
    "Generator",
    "PatchDiscriminator",
    "Quantised",
    "Reconstruction",
    "ResBlock",
    "VQAutoencoder",
    "VectorQuantizer",
    "VqganDims",
    "full_precision",
    "load_published",
]

_WRAPPERS = ("params_ema", "params", "params_d", "net_recon")
"""Keys that published files wrap their weights in, the best first: the moving average is what was evaluated."""


@dataclass(frozen=True, slots=True)
class VqganDims:
    """The numbers that fix the layout of the autoencoder; the defaults are those of the published weights."""

    image_size: int = 512
    """Side of the square input in pixels."""
    base_channels: int = 64
    """Channels at full size."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    """Channels of each level as multiples of ``base_channels``, full size first; each level halves the side."""
    blocks_per_level: int = 2
    """Residual blocks of a level, in each half."""
    attention_sizes: tuple[int, ...] = (16,)
    """Sides in pixels at which self-attention follows each residual block."""
    codebook_size: int = 1024
    """Number of code entries."""
    code_channels: int = 256
    """Length of a code entry and channels of the latent."""
    codebook_weight: float = 0.25
    """Weight of the loss term that moves the codebook (0.25 in the released training code)."""
    norm_groups: int = 32
    """Groups of every group norm; all channel counts are multiples of it."""

    def __post_init__(self) -> None:
        """Checks that sizes halve and channels group without a remainder."""
        if not self.multipliers or self.image_size % 2 ** (len(self.multipliers) - 1):
            raise ValueError(f"image_size {self.image_size} does not halve {len(self.multipliers) - 1} times")
        if any(width % self.norm_groups for width in self.widths):
            raise ValueError(f"channels {self.widths} are no multiples of {self.norm_groups} groups")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, full size first."""
        return tuple(self.base_channels * multiplier for multiplier in self.multipliers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side in pixels of each level, full size first."""
        return tuple(self.image_size >> level for level in range(len(self.multipliers)))

    @property
    def latent_size(self) -> int:
        """Side of the latent: the coarsest level."""
        return self.sizes[-1]

    @property
    def num_codes(self) -> int:
        """Code indices of one picture."""
        return self.latent_size**2


@dataclass(frozen=True, slots=True)
class DiscriminatorDims:
    """The numbers that fix the layout of the patch discriminator; the defaults are the published ones."""

    channels: int = 64
    """Channels after the first convolution."""
    num_layers: int = 4
    """Normalised convolutions; all but the last have stride 2."""


class Encoding(NamedTuple):
    """What an encoder makes of a batch of pictures."""

    latent: Tensor
    """(B, code_channels, latent_size, latent_size), float32."""
    skips: tuple[Tensor, ...]
    """Features of the requested sizes, in the order asked for, in the encoder's dtype."""


class Quantised(NamedTuple):
    """A latent moved onto the codebook."""

    latent: Tensor
    """(B, C, H, W); forward value: code entries; backward: the gradient passes to the encoder unchanged."""
    loss: Tensor
    """Scalar: mean((sg[q] - z)^2) + codebook_weight * mean((q - sg[z])^2)."""
    codes: Tensor
    """(B, H * W) int64, row by row."""
    perplexity: Tensor
    """Scalar in [1, codebook_size]: how many entries the batch uses, as exp of the entropy of their frequencies."""


class Reconstruction(NamedTuple):
    """What the autoencoder makes of a batch of pictures."""

    image: Tensor
    """(B, 3, S, S), about [-1, 1]."""
    quantised: Quantised
    """The codes in between and their loss."""


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A region in which autocast does not lower the precision; costs and traces nothing where none is on."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)  # eps of the published networks, not torch's 1e-5


class ResBlock(nn.Module):
    """Two normalised 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        h: Tensor = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        shortcut: Tensor = x if self.conv_out is None else self.conv_out(x)
        return shortcut + h


class AttnBlock(nn.Module):
    """Self-attention with one head over all positions, added to the input."""

    def __init__(self, channels: int, *, groups: int = 32) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        t = self.norm(x)
        q, k, v = (_as_tokens(conv(t)).unsqueeze(1) for conv in (self.q, self.k, self.v))  # (B, 1, H * W, C)
        mixed = functional.scaled_dot_product_attention(q, k, v).squeeze(1)  # logits are scaled by C ** -0.5
        out: Tensor = self.proj_out(_as_map(mixed, x.shape[-2], x.shape[-1]))
        return x + out


class Downsample(nn.Module):
    """Halves the side by a 3 x 3 convolution whose zero padding is on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        out: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles the side by repeating pixels, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Encoder(nn.Module):
    """Picture -> latent, with the features on the way where they are asked for."""

    def __init__(self, dims: VqganDims) -> None:
        super().__init__()
        groups = dims.norm_groups
        layers: list[nn.Module] = [nn.Conv2d(3, dims.base_channels, 3, padding=1)]
        self.skip_index: dict[int, int] = {}
        """{size in pixels: index of the last residual block at that size}."""
        channels = dims.base_channels
        for size, width in zip(dims.sizes, dims.widths, strict=True):
            for _ in range(dims.blocks_per_level):
                self.skip_index[size] = len(layers)
                layers.append(ResBlock(channels, width, groups=groups))
                channels = width
                if size in dims.attention_sizes:
                    layers.append(AttnBlock(channels, groups=groups))
            if size != dims.latent_size:
                layers.append(Downsample(channels))
        layers += _middle(channels, groups)
        layers += [_norm(channels, groups), nn.Conv2d(channels, dims.code_channels, 3, padding=1)]
        self.blocks = nn.ModuleList(layers)

    def forward(self, images: Tensor, sizes: tuple[int, ...] = ()) -> Encoding:
        """(B, 3, S, S) in [-1, 1] -> latent and the features of the given sizes."""
        wanted = {self.skip_index[size]: size for size in sizes}
        kept: dict[int, Tensor] = {}
        x = images.to(_dtype_of(self.blocks[0]))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in wanted:
                kept[wanted[index]] = x
        return Encoding(x.float(), tuple(kept[size] for size in sizes))


class Generator(nn.Module):
    """Latent -> picture: the encoder's layout read backwards."""

    def __init__(self, dims: VqganDims) -> None:
        super().__init__()
        groups, channels = dims.norm_groups, dims.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(dims.code_channels, channels, 3, padding=1)]
        layers += _middle(channels, groups)
        self.fusion_index: dict[int, int] = {}
        """{size in pixels: index of the block whose output is fused}: the first residual block at that size, but
        the last one at the coarsest size, as in the published tables."""
        for size, width in zip(reversed(dims.sizes), reversed(dims.widths), strict=True):
            for _ in range(dims.blocks_per_level):
                if size not in self.fusion_index or size == dims.latent_size:
                    self.fusion_index[size] = len(layers)
                layers.append(ResBlock(channels, width, groups=groups))
                channels = width
                if size in dims.attention_sizes:
                    layers.append(AttnBlock(channels, groups=groups))
            if size != dims.image_size:
                layers.append(Upsample(channels))
        layers += [_norm(channels, groups), nn.Conv2d(channels, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(layers)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, code_channels, H, W) -> (B, 3, S, S) float32, about [-1, 1]."""
        x = latent.to(_dtype_of(self.blocks[0]))
        for block in self.blocks:
            x = block(x)
        return x.float()


class VectorQuantizer(nn.Module):
    """The codebook: nearest entry of a vector, and entries by index."""

    def __init__(self, dims: VqganDims) -> None:
        super().__init__()
        self.codebook_weight = dims.codebook_weight
        self.embedding = nn.Embedding(dims.codebook_size, dims.code_channels)
        bound = 1.0 / dims.codebook_size  # as published
        nn.init.uniform_(self.embedding.weight, -bound, bound)

    def nearest(self, latent: Tensor) -> Tensor:
        """Index of the code entry with the least squared distance, (B, C, H, W) -> (B, H * W) int64."""
        with full_precision(latent.device):
            tokens, entries = _as_tokens(latent.float()), self.embedding.weight.float()
            products = tokens @ entries.t()  # (B, H * W, codebook_size)
            distances = tokens.square().sum(-1, keepdim=True) + entries.square().sum(-1) - 2.0 * products
        return distances.argmin(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The entries of a square of code indices, (B, H * H) int64 -> (B, C, H, H) float32.

        Equal to the product of a one-hot matrix with the codebook, which the released code computes.
        """
        side = round(codes.shape[-1] ** 0.5)
        return _as_map(functional.embedding(codes, self.embedding.weight.float()), side, side)

    def forward(self, latent: Tensor) -> Quantised:
        """Moves the latent onto the codebook; for training."""
        z = latent.float()
        codes = self.nearest(z)
        q = self.lookup(codes)
        loss = functional.mse_loss(z, q.detach()) + self.codebook_weight * functional.mse_loss(q, z.detach())
        frequency = torch.bincount(codes.flatten(), minlength=self.embedding.num_embeddings) / codes.numel()
        perplexity = torch.exp(-(frequency * torch.log(frequency + 1e-10)).sum())
        return Quantised(z + (q - z).detach(), loss, codes, perplexity)


class VQAutoencoder(nn.Module):
    """Encoder, codebook and generator: what stage I trains.

    The same three parts, under the same names, are inside CodeFormer.
    """

    def __init__(self, dims: VqganDims | None = None) -> None:
        super().__init__()
        self.dims = dims or VqganDims()
        self.encoder = Encoder(self.dims)
        self.quantize = VectorQuantizer(self.dims)
        self.generator = Generator(self.dims)

    def encode(self, images: Tensor) -> Tensor:
        """The latent of pictures, (B, 3, S, S) in [-1, 1] -> (B, code_channels, latent_size, latent_size)."""
        latent: Tensor = self.encoder(images).latent
        return latent

    def predict_codes(self, latent: Tensor) -> Tensor:
        """Nearest code entries, (B, num_codes) int64: the targets of the later stages."""
        return self.quantize.nearest(latent)

    def decode(self, codes: Tensor) -> Tensor:
        """The pictures that code indices stand for, (B, num_codes) -> (B, 3, S, S), about [-1, 1]."""
        image: Tensor = self.generator(self.quantize.lookup(codes))
        return image

    def forward(self, images: Tensor) -> Reconstruction:
        """Encodes, quantises with a straight-through gradient, and decodes."""
        quantised: Quantised = self.quantize(self.encode(images))
        return Reconstruction(self.generator(quantised.latent), quantised)


class PatchDiscriminator(nn.Module):
    """Real or restored, judged on overlapping patches: (B, 3, 512, 512) -> (B, 1, 30, 30), higher is more real.

    Source:
        Isola et al.: Image-to-Image Translation with Conditional Adversarial Networks, 2017, section 3.2.2.
    """

    def __init__(self, dims: DiscriminatorDims | None = None) -> None:
        super().__init__()
        self.dims = dims or DiscriminatorDims()
        base, count = self.dims.channels, self.dims.num_layers
        layers: list[nn.Module] = [nn.Conv2d(3, base, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = base
        for layer in range(1, count + 1):
            width = base * min(2**layer, 8)
            stride = 2 if layer < count else 1
            layers.append(nn.Conv2d(channels, width, 4, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
            channels = width
        layers.append(nn.Conv2d(channels, 1, 4, stride=1, padding=1))
        self.main = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """One score per patch."""
        scores: Tensor = self.main(images)
        return scores


def load_published(
    network: nn.Module, state: Mapping[str, Any], *, source: str = "weights", may_lack: tuple[str, ...] = ()
) -> None:
    """Gives a network the weights of a published file.

    Args:
        network: the network, on any device; one on the meta device takes over the file's tensors without a copy.
        state: what the file holds: a flat state dict, or one wrapped in ``params_ema``, ``params`` or ``params_d``;
            a leading ``module.`` of every key is taken off.
        source: the file's name, for the message.
        may_lack: beginnings of keys that may be missing and then keep their values: the fusion blocks where stage III
            starts from ``codeformer_stage2.pth``, all but the autoencoder where stage II starts from stage I.

    Raises:
        WeightsError: a key is missing, unexpected, no tensor, of a wrong shape or not finite; the first one is named.
            The network is as it was.
    """
    given = _unwrapped(state)
    own = network.state_dict()
    ready: dict[str, Tensor] = {}
    for key, expected in own.items():
        if key not in given:
            if key.startswith(may_lack) and not expected.is_meta:
                continue
            raise WeightsError(f"{source}: {key} is missing; is the file of another network or variant?")
        ready[key] = _checked(key, given[key], expected, source)
    for key in given:
        if key not in own:
            raise WeightsError(f"{source}: {key} is unexpected; is the file of another network or variant?")
    on_meta = any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict(ready, assign=on_meta, strict=not may_lack)


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _checked(key: str, value: object, expected: Tensor, source: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise WeightsError(f"{source}: {key} is a {type(value).__name__}, expected a tensor")
    if value.shape != expected.shape:
        raise WeightsError(f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
    if not value.is_meta and not bool(torch.isfinite(value).all()):
        raise WeightsError(f"{source}: {key} holds NaN or infinity; the file is damaged")
    return value.to(expected.dtype)


def _middle(channels: int, groups: int) -> list[nn.Module]:
    """Residual, attention, residual on the coarsest size."""
    return [
        ResBlock(channels, channels, groups=groups),
        AttnBlock(channels, groups=groups),
        ResBlock(channels, channels, groups=groups),
    ]


def _as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


def _dtype_of(layer: nn.Module) -> torch.dtype:
    return cast(nn.Conv2d, layer).weight.dtype
