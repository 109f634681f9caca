"""Colours for grey faces, steady along a track: CodeFormer's colour variant behind the :class:`Restorer` protocol.

The network is shown the grey picture alone (a sepia tone or the chroma noise of a tape would pass for colours) and
draws a coloured face; only its colours are of use, the compositor leaves the luma as it was. From frame to frame they
would wander, so the low frequencies of *colour per luma* are averaged along the track: light that flickers scales luma
and colour alike, and a person's complexion does not change within a shot. Fine differences (lips, eyes) stay those of
the frame.

Weights:
    ``codeformer_colorization.pth``, called as its authors do: w = 0, AdaIN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidrestore.restoration.codeformer import COLORIZATION, CodeFormer
from vidrestore.types import CropContext

__all__ = ["HOLD_FRAMES", "ColorizationRestorer", "luma_of"]

HOLD_FRAMES = 48
"""Length of the running mean in frames: two seconds of film; until then it is the plain mean of what was seen."""
_COARSE = 32  # px: the mean is taken on a copy of this size, so that lips and eyes are not smeared over a turned head
_BLACK = 0.1  # of the luma's range: below it colour per luma says nothing
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, of which the grey pictures that the network was trained on are made


class ColorizationRestorer:
    """Gives grey faces colours that stay.

    Args:
        network: the colour variant with its weights.
        device: where it goes.
        precision: of its generator.
        hold_frames: length of the running mean along a track; 1 takes each frame's own colours.
    """

    is_pure = False
    """What comes out depends on the frames before."""

    def __init__(
        self, network: CodeFormer, device: torch.device, precision: torch.dtype, *, hold_frames: int = HOLD_FRAMES
    ) -> None:
        if hold_frames < 1:
            raise ValueError(f"hold_frames must be at least 1, got {hold_frames}")
        self.size = network.dims.autoencoder.image_size
        self.device = device
        self._network = network.to_precision(precision).to(device).eval().requires_grad_(False)
        self._hold_frames = hold_frames
        self._means: dict[int, tuple[Tensor, int]] = {}  # {track: mean (3, s, s) of colour per luma, frames in it}

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`: the network's luma with held colours; only the latter are meant to be used."""
        grey = luma_of(images).expand(-1, 3, -1, -1)
        drawn: Tensor = (
            self._network(grey, COLORIZATION.w, adain=COLORIZATION.matches_statistics).float().clamp(-1.0, 1.0)
        )
        if context is None or self._hold_frames == 1:
            return drawn
        for track_id in context.ended:
            self._means.pop(track_id, None)
        colour = drawn - luma_of(drawn)  # (B, 3, S, S), its luma is 0
        light = _coarse((luma_of(images) + 1.0) / 2.0) + _BLACK  # (B, 1, s, s)
        ratio = _coarse(colour) / light
        means = torch.stack([self._mean(i, r) for i, r in zip(context.track_ids, ratio, strict=True)])
        shift: Tensor = functional.interpolate((means - ratio) * light, size=images.shape[-2:], mode="bicubic")
        return drawn + shift

    def _mean(self, track_id: int, ratio: Tensor) -> Tensor:
        """The track's mean with one more frame in it; a frame that is not finite is left out."""
        mean, count = self._means.get(track_id, (ratio, 0))
        if not bool(torch.isfinite(ratio).all()):
            return ratio
        count = min(count + 1, self._hold_frames)
        mean = mean + (ratio - mean) / count
        self._means[track_id] = mean, count
        return mean


def luma_of(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), Rec. 601."""
    weights = torch.tensor(_LUMA, device=images.device, dtype=images.dtype).reshape(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _coarse(images: Tensor) -> Tensor:
    return functional.interpolate(images, size=(min(_COARSE, images.shape[-1]),) * 2, mode="area")
