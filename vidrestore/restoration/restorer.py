"""The stage: faces of tracked frames are sampled, batched across frames and people, and restored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.config import RestoreOptions
from vidrestore.device import choose_device, choose_precision
from vidrestore.errors import DeviceError, VidrestoreError
from vidrestore.geometry import compose, invert
from vidrestore.kernels.sample import sample_crops
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.compact import COMPACT_SIZE, load_compact
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import WeightStore
from vidrestore.types import Crop, CropContext, Restoration, StreamInfo, Track, TrackedFrame

__all__ = ["FaceRestorer", "Restorer", "load_restorer"]

logger = logging.getLogger(__name__)

FORGET_FRAMES = 600
"""A track without a crop for so many frames has ended: twice the longest absence that ``track.max_missed`` allows."""


class Restorer(Protocol):
    """A face restoration network with its weights, on its device."""

    @property
    def size(self) -> int:
        """Side of its input and output in pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        ...

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """Restored faces.

        Args:
            images: (B, 3, S, S) float32 RGB in [-1, 1] on ``device``.
            context: whose crops they are, and which tracks have ended; None for pictures that have nothing to do with
                one another, which are then restored one by one without any memory.

        Returns:
            (B, 3, S, S) float32 in about [-1, 1], on the same device.
        """
        ...


class CompactRestorer:
    """Our own ``compact`` network as a :class:`Restorer`."""

    def __init__(self, device: torch.device, precision: torch.dtype) -> None:
        self.size = COMPACT_SIZE
        self.device = device
        self._precision = precision
        self._network = load_compact(None, device)

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`."""
        autocast = self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision if autocast else torch.bfloat16, enabled=autocast):
            restored: Tensor = self._network(images.contiguous(memory_format=torch.channels_last))
        return restored.float()


class CodeFormerRestorer:
    """The published CodeFormer as a :class:`Restorer`.

    Args:
        network: with its weights.
        device: where it goes.
        precision: of generator and fusion; the encoder, which decides the codes, stays in float32.
        w: fidelity weight in [0, 1] where no context gives one: 0 trusts the codebook, 1 stays closest to the input.
    """

    def __init__(self, network: CodeFormer, device: torch.device, precision: torch.dtype, w: float) -> None:
        self.size = 512
        self.device = device
        self.w = w
        self._network = network.to_precision(precision).to(device).eval().requires_grad_(False)

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`; w is the context's. The result is clamped to [-1, 1], as published."""
        w = self.w if context is None else _one_or_each(context.w, images.device)
        restored: Tensor = self._network(images, w, adain=RESTORATION.matches_statistics)
        return restored.float().clamp(-1.0, 1.0)


def _one_or_each(w: NDArray[np.float32], device: torch.device) -> float | Tensor:
    """One number where all are equal (0 then spares the fusion), else one per picture."""
    return float(w[0]) if (w == w[0]).all() else torch.from_numpy(w).to(device)


def load_restorer(options: RestoreOptions, weights_folder: Path | None = None) -> Restorer:
    """The network that the options name, on its device.

    Args:
        options: network, device, precision, w.
        weights_folder: where converted weights are kept; None is the user's data folder.

    Raises:
        DeviceError: the device is not there.
        WeightsError: the weight file is missing or damaged.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    if options.network == "codeformer":
        with torch.device("meta"):
            network = CodeFormer(RESTORATION.dims)
        load_published(network, WeightStore(weights_folder).load("codeformer"), source="codeformer.safetensors")
        return CodeFormerRestorer(network, device, precision, options.w)
    return CompactRestorer(device, precision)


@dataclass(frozen=True, slots=True)
class _Face:
    crop: Crop
    track: Track


class FaceRestorer:
    """Restores the faces of several frames together.

    Args:
        options: batch size and what to do with a failed crop.
        info: the stream that the frames come from.
        restorer: the network.

    Attributes:
        num_kept: crops whose result was not finite and that were left as they were.
        num_restored: crops that were restored.
    """

    def __init__(self, options: RestoreOptions, info: StreamInfo, restorer: Restorer) -> None:
        self._options = options
        self._info = info
        self._restorer = restorer
        self._batch_size = options.batch_size
        self._frame_from_display = invert(info.display_from_frame)
        self._seen: dict[int, tuple[int, int]] = {}  # {track id: (frame index, shot) of its last crop}
        self.num_kept = 0
        self.num_restored = 0

    @property
    def batch_size(self) -> int:
        """Crops that go through the network together; smaller than configured after memory ran out."""
        return self._batch_size

    def restore(self, tracked: Sequence[TrackedFrame]) -> list[list[Restoration]]:
        """For each frame the restorations of its faces, in the order of its tracks.

        Raises:
            DeviceError: the device ran out of memory even for a single face.
            VidrestoreError: a result was not finite and ``on_error`` is ``stop``.
        """
        sampled = [
            _Face(crop, track) for item in tracked for crop, track in zip(self.sample(item), item.tracks, strict=True)
        ]
        done: dict[int, list[Restoration]] = {item.frame.index: [] for item in tracked}
        begin = 0
        while begin < len(sampled):
            batch = sampled[begin : begin + self._batch_size]
            context = self._context(batch)
            images = self._run(np.stack([face.crop.image for face in batch]), context)
            if images is None:
                continue  # out of memory: the same crops again in smaller batches
            for face, image in zip(batch, images, strict=True):
                if self._is_whole(face.crop, image):
                    done[face.crop.frame_index].append(Restoration(face.crop, image))
            self._remember(context)
            begin += len(batch)
        return [done[item.frame.index] for item in tracked]

    def sample(self, item: TrackedFrame) -> list[Crop]:
        """The faces of a frame in the network's square, in the order of its tracks."""
        if not item.tracks:
            return []
        size = self._restorer.size
        maps = np.stack(
            [compose(crop_from_display(track.landmarks, size), self._info.display_from_frame) for track in item.tracks]
        )
        images = sample_crops(item.frame.planes, item.frame.format, maps, size)
        return [
            Crop(track.id, item.frame.index, image, crop_from_frame, track.strength)
            for track, image, crop_from_frame in zip(item.tracks, images, maps, strict=True)
        ]

    def _context(self, faces: Sequence[_Face]) -> CropContext:
        present = {face.track.id for face in faces}
        first = faces[0]
        ended = {
            track_id
            for track_id, (frame_index, shot) in self._seen.items()
            if track_id not in present
            and (shot != first.track.shot or first.crop.frame_index - frame_index > FORGET_FRAMES)
        }
        maps = [face.crop.crop_from_frame for face in faces]
        w = [self._options.w_of_track.get(face.track.id, self._options.w) for face in faces]
        return CropContext(
            tracks=tuple(face.track for face in faces),
            frame_indices=tuple(face.crop.frame_index for face in faces),
            crop_from_display=np.stack([compose(m, self._frame_from_display) for m in maps]),
            crop_from_frame=np.stack(maps),
            w=np.array(w, np.float32),
            ended=frozenset(ended),
        )

    def _remember(self, context: CropContext) -> None:
        """Notes when each track was last restored, and drops those whose end was told."""
        for track_id in context.ended:
            del self._seen[track_id]
        for track, frame_index in zip(context.tracks, context.frame_indices, strict=True):
            self._seen[track.id] = frame_index, track.shot

    def _run(self, images: NDArray[np.float32], context: CropContext) -> NDArray[np.float32] | None:
        """One pass of the network; None where the device's memory did not suffice and the batch was halved."""
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(images).to(self._restorer.device)
                restored: NDArray[np.float32] = self._restorer.restore(batch, context).cpu().numpy()
                return restored
        except torch.OutOfMemoryError as error:
            if self._batch_size == 1 or len(images) == 1:
                raise DeviceError(
                    f"{self._restorer.device} has too little memory for one face of {images.shape[-1]} px; "
                    "close other programs, or use --device cpu"
                ) from error
            self._batch_size = max(1, len(images) // 2)
            torch.cuda.empty_cache()
            logger.warning("out of device memory, going on with batches of %s", self._batch_size)
            return None

    def _is_whole(self, crop: Crop, image: NDArray[np.float32]) -> bool:
        if np.isfinite(image).all():
            self.num_restored += 1
            return True
        if self._options.on_error == "stop":
            raise VidrestoreError(
                f"frame {crop.frame_index}, track {crop.track_id}: the network's result is not finite; "
                "set restore.on_error = 'keep' to leave such faces as they are"
            )
        self.num_kept += 1
        return False
