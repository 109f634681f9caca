"""What a network does to a face's brightness, colour and contrast is held along its track.

Networks guess light anew in every frame: the mean of each channel and its contrast waver by a step or two of 8 bits
over the whole face, which is seen at once on a smooth cheek. Only the *change* that the network makes is held, so a
lamp that is switched on in the scene passes at once.

    offset = mean(restored) - mean(degraded)
    gain   = deviation(restored) / deviation(degraded)      of each channel, over the middle of the crop, coarsely

Both are averaged along the track, and the restored crop is brought to the averages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Exposure", "hold", "measure"]

_LEAST_DEVIATION = 0.02
"""Of [-1, 1]: below, a crop has no contrast that a gain could be told from."""
_MOST_GAIN = 1.5
"""No crop's contrast is corrected by more than so much either way."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Means and deviations of B crops before and after the network, (B, 3) each, or what is kept of one track."""

    mean: Tensor
    """Of the degraded crop."""
    restored_mean: Tensor
    offset: Tensor
    """restored_mean - mean."""
    gain: Tensor
    """Deviation after over deviation before."""

    def of(self, index: int) -> Exposure:
        """One crop of the batch, (3,) each."""
        return Exposure(self.mean[index], self.restored_mean[index], self.offset[index], self.gain[index])


def measure(degraded: Tensor, restored: Tensor) -> Exposure:
    """Exposure of B crops, coarse: (B, 3, G, G) each, so that noise does not count as contrast."""
    weight = _face(degraded.shape[-1], degraded.device)
    mean, deviation = _moments(degraded, weight)
    restored_mean, restored_deviation = _moments(restored, weight)
    gain = (restored_deviation + _LEAST_DEVIATION) / (deviation + _LEAST_DEVIATION)
    return Exposure(mean, restored_mean, restored_mean - mean, gain)


def hold(now: Exposure, kept: Exposure, share: float) -> tuple[Exposure, Tensor, Tensor]:
    """What is kept from now on, and how to bring the crop there: corrected = scale * restored + shift, (3,) each.

    Args:
        now: of one crop.
        kept: of its track so far.
        share: of ``now`` in the new average, in (0, 1].
    """
    offset = kept.offset + share * (now.offset - kept.offset)
    gain = kept.gain + share * (now.gain - kept.gain)
    offset, gain = _or(offset, now.offset), _or(gain, now.gain)
    scale = (gain / now.gain).clamp(1.0 / _MOST_GAIN, _MOST_GAIN)
    shift = now.mean + offset - scale * now.restored_mean
    return Exposure(now.mean, now.restored_mean, offset, gain), scale, shift


def _or(kept: Tensor, now: Tensor) -> Tensor:
    """What is kept, or begun anew after a crop that was not finite."""
    return torch.where(kept.isfinite(), kept, now)


def _moments(pictures: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    flat = pictures.flatten(2)  # (B, 3, cells)
    mean = flat @ weight
    square = (flat - mean[..., None]).square() @ weight
    return mean, square.clamp_min(0.0).sqrt()


@lru_cache(maxsize=16)
def _face(size: int, device: torch.device) -> Tensor:
    """(cells,) weights that sum to 1: an ellipse from brows to chin of the FFHQ template, soft at its edge."""
    line = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    weight = (1.5 - 1.5 * (((x - 0.5) / 0.32).square() + ((y - 0.58) / 0.36).square())).clamp(0.0, 1.0).flatten()
    return weight / weight.sum()
