"""The stage: faces of tracked frames are sampled, batched across frames and people, and restored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.config import RestoreOptions
from vidrestore.device import choose_device, choose_precision
from vidrestore.errors import DeviceError, VidrestoreError
from vidrestore.geometry import compose
from vidrestore.kernels.sample import sample_crops
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.compact import COMPACT_SIZE, load_compact
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import WeightStore
from vidrestore.types import Crop, Restoration, StreamInfo, TrackedFrame

__all__ = ["FaceRestorer", "Restorer", "load_restorer"]

logger = logging.getLogger(__name__)


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

    def restore(self, images: Tensor) -> Tensor:
        """Restored faces.

        Args:
            images: (B, 3, S, S) float32 RGB in [-1, 1] on ``device``.

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

    def restore(self, images: Tensor) -> Tensor:
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
        w: fidelity weight in [0, 1]: 0 trusts the codebook, 1 stays closest to the input.
    """

    def __init__(self, network: CodeFormer, device: torch.device, precision: torch.dtype, w: float) -> None:
        self.size = 512
        self.device = device
        self.w = w
        self._network = network.to_precision(precision).to(device).eval().requires_grad_(False)

    def restore(self, images: Tensor) -> Tensor:
        """See :class:`Restorer`; the result is clamped to [-1, 1], as published."""
        restored: Tensor = self._network(images, self.w, adain=RESTORATION.matches_statistics)
        return restored.float().clamp(-1.0, 1.0)


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
        crops = [crop for item in tracked for crop in self.sample(item)]
        done: dict[int, list[Restoration]] = {item.frame.index: [] for item in tracked}
        begin = 0
        while begin < len(crops):
            batch = crops[begin : begin + self._batch_size]
            images = self._run(np.stack([crop.image for crop in batch]))
            if images is None:
                continue  # out of memory: the same crops again in smaller batches
            for crop, image in zip(batch, images, strict=True):
                if self._is_whole(crop, image):
                    done[crop.frame_index].append(Restoration(crop, image))
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

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """One pass of the network; None where the device's memory did not suffice and the batch was halved."""
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(images).to(self._restorer.device)
                restored: NDArray[np.float32] = self._restorer.restore(batch).cpu().numpy()
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
