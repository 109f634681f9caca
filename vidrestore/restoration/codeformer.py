"""CodeFormer: a damaged face looked up, piece by piece, in a codebook of clean ones.

Figure (default dims):
    RGB face (B, 3, 512, 512) in [-1, 1]
    -> ``encode``: latent (B, 256, 16, 16) and the encoder's features on 32, 64, 128 and 256 pixels
    -> ``predict_logits`` / ``predict_codes``: the 256 latent vectors as tokens of 512, nine transformer layers,
       one of 1024 code entries for each
    -> ``decode``: the entries (optionally with the latent's statistics, AdaIN) through the generator; after the first
       block of each kept size the features are fused in with weight w
    -> RGB face, not clamped: it may leave [-1, 1] by a little.

Paper:
    Zhou, Chan, Li, Loy: Towards Robust Blind Face Restoration with Codebook Lookup Transformer, NeurIPS 2022,
    sections 3.2 and 3.3. As the published weights do, and unlike the paper: the position embedding is
    learned, tokens are widened to 512 first, and AdaIN is applied at inference.

Weights:
    ``codeformer.pth`` (:data:`RESTORATION`), ``codeformer_colorization.pth`` (:data:`COLORIZATION`) and
    ``codeformer_inpainting.pth`` (:data:`INPAINTING`), release v0.1.0, wrapped in ``params_ema``. Parameter names
    are those of the files.

Precision:
    float32. ``to_precision(torch.bfloat16)`` casts generator and fusion (72 % of the work) and keeps what decides the
    codes: encoder, transformer, arg max, codebook and AdaIN stay float32. The encoder may be float16 too; bfloat16 is
    too coarse for it. With seeded weights 0.3 % of the codes change in a float16 encoder and 2 % in a bfloat16 one,
    1.2 % by the rounding of its weights alone.

Licence:
    The published weights are under S-Lab License 1.0: non-commercial use only. This code is written anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.restoration.vqgan import (
    Encoder,
    Encoding,
    Generator,
    ResBlock,
    VectorQuantizer,
    VqganDims,
    full_precision,
)

__all__ = [
    "COLORIZATION",
    "INPAINTING",
    "RESTORATION",
    "VARIANTS",
    "CodeFormer",
    "CodeFormerDims",
    "FusionBlock",
    "TransformerLayer",
    "Variant",
    "match_statistics",
]


@dataclass(frozen=True, slots=True)
class CodeFormerDims:
    """The numbers that fix the layout of a :class:`CodeFormer`; the defaults are those of ``codeformer.pth``."""

    autoencoder: VqganDims = field(default_factory=VqganDims)
    """Encoder, codebook and generator."""
    width: int = 512
    """Length of a token."""
    num_heads: int = 8
    """Attention heads; they share ``width``."""
    num_layers: int = 9
    """Transformer layers."""
    mlp_ratio: int = 2
    """Hidden units of a layer's feed-forward part, as a multiple of ``width``."""
    fusion_sizes: tuple[int, ...] = (32, 64, 128, 256)
    """Sides in pixels at which the encoder's features are fused into the generator."""

    def __post_init__(self) -> None:
        """Checks the heads and that each fused size exists in the autoencoder."""
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of {self.num_heads} heads")
        if not set(self.fusion_sizes) <= set(self.autoencoder.sizes):
            raise ValueError(f"fusion_sizes {self.fusion_sizes} are not all among {self.autoencoder.sizes}")


@dataclass(frozen=True, slots=True)
class Variant:
    """A published network: its layout and how its authors call it."""

    dims: CodeFormerDims
    """Layout of the file."""
    w: float
    """Fidelity weight of the published script."""
    matches_statistics: bool
    """The published script applies AdaIN."""


RESTORATION = Variant(CodeFormerDims(), w=0.5, matches_statistics=True)
"""``codeformer.pth``: blind restoration."""

COLORIZATION = Variant(CodeFormerDims(fusion_sizes=(32, 64, 128)), w=0.0, matches_statistics=True)
"""``codeformer_colorization.pth``: a grey or faded face in, colours from the codebook out."""

INPAINTING = Variant(
    CodeFormerDims(autoencoder=VqganDims(codebook_size=512), fusion_sizes=(32, 64, 128)),
    w=1.0,
    matches_statistics=False,
)
"""``codeformer_inpainting.pth``: pure white pixels of the input are holes. The released option file says 1024 code
entries, the released weights hold 512."""

VARIANTS = {"restoration": RESTORATION, "colorization": COLORIZATION, "inpainting": INPAINTING}
"""Every published variant by name."""


class SelfAttention(nn.Module):
    """Multi-head attention with the parameter names of ``nn.MultiheadAttention``, batch first.

    Queries and keys carry the position, values do not.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, T, width) and (T, width) -> (B, T, width)."""
        width = tokens.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        q, k = functional.linear(tokens + position, weight[: 2 * width], bias[: 2 * width]).chunk(2, dim=-1)
        v = functional.linear(tokens, weight[2 * width :], bias[2 * width :])
        heads = (*tokens.shape[:2], self.num_heads, width // self.num_heads)
        q, k, v = (x.reshape(heads).transpose(1, 2) for x in (q, k, v))  # (B, heads, T, width / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each on the layer norm of what it is added to."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, num_heads)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, T, width) and (T, width) -> (B, T, width)."""
        x: Tensor = tokens + self.self_attn(self.norm1(tokens), position)
        out: Tensor = x + self.linear2(functional.gelu(self.linear1(self.norm2(x))))
        return out


class FusionBlock(nn.Module):
    """Controllable feature transformation: the encoder's feature scales and shifts the generator's, w says how far."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels, groups=groups)
        self.scale = _two_convolutions(channels)
        self.shift = _two_convolutions(channels)

    def forward(self, skip: Tensor, feature: Tensor, w: float | Tensor) -> Tensor:
        """feature + w * (feature * scale + shift), scale and shift from both.

        Args:
            skip: (B, C, H, W) of the encoder.
            feature: (B, C, H, W) of the generator.
            w: one number, or (B, 1, 1, 1).
        """
        h = self.encode_enc(torch.cat([skip, feature], dim=1))
        out: Tensor = feature + w * (feature * self.scale(h) + self.shift(h))
        return out


class CodeFormer(nn.Module):
    """The network in clear parts: ``encode``, ``predict_codes``, ``decode(codes, skips, w)``.

    Codebook and generator are frozen, as in every published training stage; ``requires_grad_`` undoes it. Image losses
    reach the fusion blocks only: codes are indices, and ``decode`` detaches the encoder's features and statistics.
    Encoder and transformer learn from losses on the latent and the logits.
    """

    def __init__(self, dims: CodeFormerDims | None = None) -> None:
        super().__init__()
        self.dims = dims or CodeFormerDims()
        inner, width = self.dims.autoencoder, self.dims.width
        self.position_emb = nn.Parameter(torch.zeros(inner.num_codes, width))
        self.encoder = Encoder(inner)
        self.quantize = VectorQuantizer(inner)
        self.generator = Generator(inner)
        self.feat_emb = nn.Linear(inner.code_channels, width)
        hidden = self.dims.mlp_ratio * width
        self.ft_layers = nn.ModuleList(
            TransformerLayer(width, self.dims.num_heads, hidden) for _ in range(self.dims.num_layers)
        )
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner.codebook_size, bias=False))
        channels = dict(zip(inner.sizes, inner.widths, strict=True))
        self.fuse_convs_dict = nn.ModuleDict(
            {str(size): FusionBlock(channels[size], groups=inner.norm_groups) for size in self.dims.fusion_sizes}
        )
        self.quantize.requires_grad_(False)
        self.generator.requires_grad_(False)

    def encode(self, images: Tensor) -> Encoding:
        """Latent and skip features of pictures, (B, 3, S, S) in [-1, 1].

        Raises:
            ValueError: the pictures have another size than the network was made for.
        """
        side = self.dims.autoencoder.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"expected pictures (B, 3, {side}, {side}), got {tuple(images.shape)}")
        encoding: Encoding = self.encoder(images, self.dims.fusion_sizes)
        return encoding

    def predict_logits(self, latent: Tensor) -> Tensor:
        """How well each code entry fits each place, (B, C, H, W) -> (B, num_codes, codebook_size) float32."""
        with full_precision(latent.device):
            x = self.feat_emb(latent.float().flatten(2).transpose(1, 2))  # (B, num_codes, width)
            for layer in self.ft_layers:
                x = layer(x, self.position_emb)
            logits: Tensor = self.idx_pred_layer(x)
        return logits

    def predict_codes(self, latent: Tensor) -> Tensor:
        """The best code index of each place, (B, C, H, W) -> (B, num_codes) int64, row by row."""
        return self.predict_logits(latent).argmax(-1)

    def decode(
        self,
        codes: Tensor,
        skips: tuple[Tensor, ...],
        w: float | Tensor,
        *,
        latent: Tensor | None = None,
        detaches_skips: bool = True,
    ) -> Tensor:
        """The pictures that codes and skip features stand for.

        Args:
            codes: (B, num_codes) int64.
            skips: of ``encode``; not looked at where w is the number 0.
            w: fidelity weight, 0 for the codebook alone, 1 for closest to the input; one number for all, or (B,).
            latent: of ``encode``: its mean and deviation are given to the code entries (AdaIN); None leaves them.
            detaches_skips: no gradient flows into the skip features, as in the released training; without, image
                losses reach the encoder through them, as the paper has it.

        Returns:
            (B, 3, S, S) float32, about [-1, 1].
        """
        with full_precision(codes.device):
            x = self.quantize.lookup(codes).detach()
            if latent is not None:
                x = match_statistics(x, latent.detach().float())
        if isinstance(w, Tensor):
            w = w.reshape(-1, 1, 1, 1)
        elif w == 0.0:
            skips = ()
        if detaches_skips:
            skips = tuple(skip.detach() for skip in skips)
        return self._generate(x, skips, w)

    def forward(self, images: Tensor, w: float | Tensor = 0.5, *, adain: bool = True) -> Tensor:
        """Restores pictures; the defaults are those of the published restoration script.

        Args:
            images: (B, 3, S, S) RGB in [-1, 1].
            w: fidelity weight, see ``decode``.
            adain: give the code entries the statistics of the latent.

        Returns:
            (B, 3, S, S) float32, about [-1, 1].
        """
        latent, skips = self.encode(images)
        return self.decode(self.predict_codes(latent), skips, w, latent=latent if adain else None)

    def to_precision(self, dtype: torch.dtype, *, encoder: torch.dtype = torch.float32) -> CodeFormer:
        """Casts the weights of generator and fusion, and apart from them those of the encoder, in place.

        Args:
            dtype: of generator and fusion, which turn codes into pixels: bfloat16 is precise enough.
            encoder: of the encoder, which decides the codes: float32 or float16 (see the file's docstring).

        Returns:
            The network itself. Inputs and outputs stay float32, as do transformer, arg max, codebook and AdaIN.
        """
        self.encoder.to(encoder)
        self.generator.to(dtype)
        self.fuse_convs_dict.to(dtype)
        return self

    def _generate(self, latent: Tensor, skips: tuple[Tensor, ...], w: float | Tensor) -> Tensor:
        fused = dict(zip(self.dims.fusion_sizes, skips, strict=False))
        after = {self.generator.fusion_index[size]: size for size in fused}
        x = latent.to(next(self.generator.parameters()).dtype)
        if isinstance(w, Tensor):
            w = w.to(x.dtype)
        for index, block in enumerate(self.generator.blocks):
            x = block(x)
            if index in after:
                size = after[index]
                x = self.fuse_convs_dict[str(size)](fused[size].to(x.dtype), x, w)
        return x.float()


def match_statistics(content: Tensor, style: Tensor) -> Tensor:
    """Gives each channel of ``content`` the mean and deviation of the same channel of ``style`` (AdaIN).

    Args:
        content: (B, C, H, W) float32.
        style: (B, C, H, W) float32.

    Source:
        Huang and Belongie: Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, 2017,
        equation 8, with the deviation as CodeFormer has it: root of the unbiased variance plus 1e-5.
    """
    content_mean, content_std = _statistics(content)
    style_mean, style_std = _statistics(style)
    return (content - content_mean) / content_std * style_std + style_mean


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (B, C, 1, 1) each."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=1, keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def _two_convolutions(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
