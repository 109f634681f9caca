"""From tracked frames to frames with restored faces: the part of a run that owns the network's device.

Two engines do the same. :class:`HostEngine` samples and composites with the CPU kernels, wherever the network runs.
:class:`ResidentEngine` keeps frames and crops on the GPU between upload and download: samples, restores, blends and
composites there, on three lanes, with two batches on their way, and waits only for the download of the oldest frame.
Neither drops or reorders a frame, and what a batch holds depends on the frames alone, never on timing, so that a run
gives the same bytes twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.blend.compositor import Compositor
from vidrestore.blend.occluders import CropPlace
from vidrestore.blend.resident import Change, ResidentBlend
from vidrestore.config import RestoreConfig
from vidrestore.errors import VidrestoreError
from vidrestore.kernels.device import DeviceArray, composite_on, sample_crops_on
from vidrestore.lanes import Lanes, Mark, as_device_array, lanes_of
from vidrestore.restoration.batcher import BatchSizes, Graph, Graphs, capture_graph
from vidrestore.restoration.restorer import FaceRestorer, Restorer
from vidrestore.types import Frame, PixelFormat, StreamInfo, TrackedFrame

__all__ = ["Engine", "Finished", "HostEngine", "ResidentEngine", "make_engine"]

logger = logging.getLogger(__name__)

BATCHES_ON_THEIR_WAY = 2
"""While one is downloaded and handed on, the next is on the device; more would only hold more frames."""

TORCH_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.uint16): torch.uint16}


@dataclass(frozen=True, slots=True)
class Finished:
    """A tracked frame and what became of it."""

    tracked: TrackedFrame
    """As it came in."""
    frame: Frame
    """With its faces restored; the very frame that came in where nothing changed."""
    num_restored: int
    """Faces of it that were restored."""


class Engine(Protocol):
    """Restores batches of tracked frames, in order."""

    @property
    def batch_size(self) -> int:
        """Faces that go through the network together at present."""
        ...

    @property
    def num_restored(self) -> int:
        """Faces restored so far, counted once a frame."""
        ...

    @property
    def num_kept(self) -> int:
        """Faces left as they were because the network's result was not finite."""
        ...

    def run(self, batches: Iterable[Sequence[TrackedFrame]]) -> Generator[Finished, None, None]:
        """Every frame of every batch, in order; it may take further batches before it gives the first frame.

        Raises:
            DeviceError: the device ran out of memory even for a single face.
            VidrestoreError: a result was not finite and ``on_error`` is ``stop``.
        """
        ...


def make_engine(config: RestoreConfig, info: StreamInfo, restorer: Restorer) -> Engine:
    """The engine for where the restorer runs: resident on a CUDA device with CuPy, else on the host."""
    lanes = lanes_of(restorer.device)
    if lanes is None:
        if restorer.device.type == "cuda":
            logger.warning("CuPy is not installed: faces are cut out and put back on the CPU; see the extra 'cuda'")
        return HostEngine(FaceRestorer(config.restore, info, restorer), Compositor(config.blend))
    return ResidentEngine(config, info, restorer, lanes)


class HostEngine:
    """Samples and composites on the CPU.

    Args:
        faces: samples, and runs the network.
        compositor: puts the faces back.
    """

    def __init__(self, faces: FaceRestorer, compositor: Compositor) -> None:
        self._faces = faces
        self._compositor = compositor

    @property
    def batch_size(self) -> int:
        """See :class:`Engine`."""
        return self._faces.batch_size

    @property
    def num_restored(self) -> int:
        """See :class:`Engine`."""
        return self._faces.num_restored

    @property
    def num_kept(self) -> int:
        """See :class:`Engine`."""
        return self._faces.num_kept

    def run(self, batches: Iterable[Sequence[TrackedFrame]]) -> Generator[Finished, None, None]:
        """See :class:`Engine`."""
        for batch in batches:
            for item, restorations in zip(batch, self._faces.restore([_shown(item) for item in batch]), strict=True):
                frame = self._compositor.composite(item.frame, restorations)
                yield Finished(item, frame, len(restorations))


class _Slot:
    """Room for one frame on the device and on both ways; used again and again, so that nothing is allocated.

    Args:
        frame: the first that it is for; others must have its format and size.
        lanes: the device.
    """

    def __init__(self, frame: Frame, lanes: Lanes) -> None:
        # an alpha plane stays at home
        self.num_planes = 1 if frame.format.colour == "gray" else 3
        shapes = [plane.shape for plane in frame.planes[: self.num_planes]]
        dtype = TORCH_DTYPES[frame.format.dtype]
        self.sent = [lanes.staging(shape, dtype) for shape in shapes]
        self.there = [torch.empty(shape, dtype=dtype, device=lanes.device) for shape in shapes]
        self.returned = [lanes.staging(shape, dtype) for shape in shapes]


def _slot_key(frame: Frame) -> tuple[object, ...]:
    return frame.format.colour, frame.format.dtype, tuple(plane.shape for plane in frame.planes)


@dataclass(slots=True)
class _OnItsWay:
    """A frame of a batch between upload and download; without a slot it has no faces and only waits for its turn."""

    source: TrackedFrame
    """As it came in."""
    tracked: TrackedFrame
    """Without the faces of strength 0, which are left as they are."""
    slot: _Slot | None = None
    first_face: int = 0
    downloaded: Mark | None = None


@dataclass(slots=True)
class _Batch:
    items: list[_OnItsWay]
    usable: Tensor | None = None
    """(faces,) uint8 in staging memory; filled once ``counted`` is passed."""
    counted: Mark | None = None


class ResidentEngine:
    """Everything between upload and download happens on one device.

    Args:
        config: restore and blend options.
        info: the stream that the frames come from.
        restorer: the network, on the lanes' device.
        lanes: the device.
        capture: makes CUDA graphs of restorers that are pure; None runs them as they are.

    Attributes:
        num_kept: faces left as they were because the network's result was not finite.
        num_restored: faces restored so far, counted once a frame.
    """

    def __init__(
        self,
        config: RestoreConfig,
        info: StreamInfo,
        restorer: Restorer,
        lanes: Lanes,
        capture: Callable[[Callable[[Tensor], Tensor], Tensor], Graph] | None = capture_graph,
    ) -> None:
        self._options = config.restore
        self._restorer = restorer
        self._lanes = lanes
        self._faces = FaceRestorer(config.restore, info, restorer)  # geometry and contexts are its own
        self._blend = ResidentBlend(config.blend)
        self._strength = config.blend.strength
        self._sizes = BatchSizes(config.restore.batch_size)
        self._graphs = Graphs(restorer.restore, capture) if capture is not None and _is_pure(restorer) else None
        self._free: dict[tuple[object, ...], list[_Slot]] = {}
        self.num_restored = 0
        self.num_kept = 0

    @property
    def batch_size(self) -> int:
        """See :class:`Engine`."""
        return self._sizes.largest

    def run(self, batches: Iterable[Sequence[TrackedFrame]]) -> Generator[Finished, None, None]:
        """See :class:`Engine`."""
        on_their_way: deque[_Batch] = deque()
        for batch in batches:
            on_their_way.append(self._send(batch))
            if len(on_their_way) >= BATCHES_ON_THEIR_WAY:
                yield from self._receive(on_their_way.popleft())
        while on_their_way:
            yield from self._receive(on_their_way.popleft())

    # --- launching ---------------------------------------------------------------------------------------------------

    def _send(self, tracked: Sequence[TrackedFrame]) -> _Batch:
        """Launches all that is to be done with some frames; waits for nothing."""
        batch = _Batch([_OnItsWay(item, _shown(item)) for item in tracked])
        busy = [item for item in batch.items if item.tracked.tracks]
        if not busy:
            return batch
        maps = [self._faces.crop_maps(item.tracked) for item in busy]
        uploads = [self._upload(item) for item in busy]
        with torch.inference_mode(), self._lanes.on("network"):
            size = self._restorer.size
            crops = torch.empty((sum(map(len, maps)), 3, size, size), device=self._lanes.device)
            first = 0
            for item, crop_from_frame, uploaded in zip(busy, maps, uploads, strict=True):
                self._lanes.wait(uploaded)
                item.first_face, first = first, first + len(crop_from_frame)
                here = as_device_array(crops[item.first_face : first])
                sample_crops_on(self._lanes, self._planes(item), self._format(item), crop_from_frame, here)
            restored = self._restore(crops, busy, maps)
            changes = self._changes(busy, maps, crops, restored)
            for item, crop_from_frame, change in zip(busy, maps, changes, strict=True):
                self._put_back(item, crop_from_frame, change)
            usable = torch.cat([change.usable for change in changes])
            composited = self._lanes.mark()
        with self._lanes.on("download"):
            self._lanes.wait(composited)
            for item in busy:
                assert item.slot is not None
                for there, returned in zip(item.slot.there, item.slot.returned, strict=True):
                    returned.copy_(there, non_blocking=True)
                item.downloaded = self._lanes.mark()
            batch.usable = self._lanes.staging(tuple(usable.shape), torch.uint8)
            batch.usable.copy_(usable, non_blocking=True)
            batch.counted = self._lanes.mark()
            if usable.is_cuda:
                usable.record_stream(torch.cuda.current_stream(usable.device))
        return batch

    def _upload(self, item: _OnItsWay) -> Mark:
        frame = item.tracked.frame
        free = self._free.setdefault(_slot_key(frame), [])
        slot = item.slot = free.pop() if free else _Slot(frame, self._lanes)
        for plane, sent in zip(frame.planes, slot.sent, strict=False):
            np.copyto(sent.numpy(), plane)
        with self._lanes.on("upload"):
            for there, sent in zip(slot.there, slot.sent, strict=True):
                there.copy_(sent, non_blocking=True)
            return self._lanes.mark()

    def _planes(self, item: _OnItsWay) -> list[DeviceArray]:
        assert item.slot is not None
        return [as_device_array(plane) for plane in item.slot.there]

    def _format(self, item: _OnItsWay) -> PixelFormat:
        return replace(item.tracked.frame.format, has_alpha=False)

    def _restore(self, crops: Tensor, busy: Sequence[_OnItsWay], maps: Sequence[NDArray[np.float64]]) -> Tensor:
        """(N, 3, S, S) restored, in as many passes as memory asks for."""
        tracks = [track for item in busy for track in item.tracked.tracks]
        indices = [item.tracked.frame.index for item in busy for _ in item.tracked.tracks]
        every_map = [m for crop_from_frame in maps for m in crop_from_frame]
        restored = torch.empty_like(crops)
        begin = 0
        while begin < len(crops):
            end = min(begin + self._sizes.largest, len(crops))
            context = self._faces.context(tracks[begin:end], indices[begin:end], every_map[begin:end])
            try:
                if self._graphs is not None:
                    made = self._graphs.run(crops[begin:end], self._sizes.largest)
                else:
                    made = self._restorer.restore(crops[begin:end], context)
                restored[begin:end] = self._faces.steady(crops[begin:end], made, context)
            except torch.OutOfMemoryError as error:
                self._sizes.shrink(end - begin, crops.shape[-1], self._lanes.device, error)
                if self._graphs is not None:
                    self._graphs.forget()
                if crops.is_cuda:
                    torch.cuda.empty_cache()
                continue
            self._faces.remember(context)
            begin = end
        return restored

    def _changes(
        self,
        busy: Sequence[_OnItsWay],
        maps: Sequence[NDArray[np.float64]],
        crops: Tensor,
        restored: Tensor,
    ) -> list[Change]:
        """What is to change in each frame; made for all together where they are of one kind, as in any one video."""
        frames = [item.tracked.frame for item in busy]
        parts = [slice(item.first_face, item.first_face + len(m)) for item, m in zip(busy, maps, strict=True)]
        meshes = [self._faces.crop_meshes(item.tracked.tracks, m) for item, m in zip(busy, maps, strict=True)]
        topologies = [[track.topology for track in item.tracked.tracks] for item in busy]
        places = [
            [CropPlace(track.id, frame.shot, frame.index) for track in item.tracked.tracks]
            for item, frame in zip(busy, frames, strict=True)
        ]
        kinds = {(frame.height, frame.width, frame.format) for frame in frames}
        if len(kinds) > 1:
            return [
                self._blend.change(
                    crops[parts[i]],
                    restored[parts[i]],
                    maps[i],
                    (frame.height, frame.width),
                    frame.format,
                    meshes=meshes[i],
                    topologies=topologies[i],
                    places=places[i],
                )
                for i, frame in enumerate(frames)
            ]
        height, width, pixel_format = kinds.pop()
        whole = self._blend.change(
            crops,
            restored,
            np.concatenate(maps),
            (height, width),
            pixel_format,
            meshes=[mesh for of_frame in meshes for mesh in of_frame],
            topologies=[topology for of_frame in topologies for topology in of_frame],
            places=[place for of_frame in places for place in of_frame],
        )
        return [Change(whole.deltas[part], whole.masks[part], whole.usable[part]) for part in parts]

    def _put_back(self, item: _OnItsWay, crop_from_frame: NDArray[np.float64], change: Change) -> None:
        """Composites one frame, all its faces and planes in one launch."""
        composite_on(
            self._lanes,
            self._planes(item),
            self._format(item),
            as_device_array(change.deltas),
            as_device_array(change.masks),
            crop_from_frame,
            [self._strength * self._faces.strength(track) for track in item.tracked.tracks],
            as_device_array(change.usable),
        )

    # --- taking back -------------------------------------------------------------------------------------------------

    def _receive(self, batch: _Batch) -> Generator[Finished, None, None]:
        """Waits for each frame's download, in order, and hands it on."""
        usable: NDArray[np.uint8] = np.zeros(0, np.uint8)
        if batch.usable is not None and batch.counted is not None:
            batch.counted.synchronize()
            usable = batch.usable.numpy()
        for item in batch.items:
            tracked, slot = item.tracked, item.slot
            if slot is None or item.downloaded is None:
                yield Finished(item.source, tracked.frame, 0)
                continue
            item.downloaded.synchronize()
            flags = usable[item.first_face : item.first_face + len(tracked.tracks)]
            self._count(tracked, flags)
            planes = [returned.numpy().copy() for returned in slot.returned]
            self._free[_slot_key(tracked.frame)].append(slot)
            frame = replace(tracked.frame, planes=(*planes, *tracked.frame.planes[len(planes) :]))
            yield Finished(item.source, frame, int(flags.sum()))

    def _count(self, tracked: TrackedFrame, flags: NDArray[np.uint8]) -> None:
        self.num_restored += int(flags.sum())
        self.num_kept += int((flags == 0).sum())
        if self._options.on_error == "stop" and not flags.all():
            track = tracked.tracks[int(np.argmin(flags))]
            raise VidrestoreError(
                f"frame {tracked.frame.index}, track {track.id}: the network's result is not finite; "
                "set restore.on_error = 'keep' to leave such faces as they are"
            )


def _shown(tracked: TrackedFrame) -> TrackedFrame:
    """A frame without the faces that are not to be restored at all."""
    if all(track.strength > 0.0 for track in tracked.tracks):
        return tracked
    return replace(tracked, tracks=tuple(track for track in tracked.tracks if track.strength > 0.0))


def _is_pure(restorer: Restorer) -> bool:
    """The same crops give the same result whatever came before, and no context is read."""
    return bool(getattr(restorer, "is_pure", False))
