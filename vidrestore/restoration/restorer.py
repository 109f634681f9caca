"""The stage: faces of tracked frames are sampled, batched across frames and people, and restored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.config import RestoreOptions
from vidrestore.device import choose_device, choose_precision
from vidrestore.errors import ConfigError, VidrestoreError
from vidrestore.geometry import compose, invert
from vidrestore.kernels.sample import sample_crops
from vidrestore.restoration.align import FFHQ_TEMPLATE_512, crop_from_display
from vidrestore.restoration.batcher import BatchSizes
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.compact import COMPACT_SIZE, load_compact
from vidrestore.restoration.compiled import CompiledNetwork
from vidrestore.restoration.hysteresis import CodeHysteresis, HysteresisOptions, TrackPlace
from vidrestore.restoration.mobile import shipped_mobile
from vidrestore.restoration.mobile_restorer import MobileRestorer
from vidrestore.restoration.motion import mesh_in_crop
from vidrestore.restoration.sgpn_restorer import PriorOptions, load_sgpn
from vidrestore.restoration.steady import make_steadiness
from vidrestore.restoration.turned import strength_of, w_of
from vidrestore.restoration.vqgan import load_published
from vidrestore.restoration.weights import MODELS, WeightStore, sha256_of
from vidrestore.types import Crop, CropContext, PixelFormat, Restoration, StreamInfo, Track, TrackedFrame

__all__ = ["FaceRestorer", "Restorer", "choose_network", "load_restorer", "weights_used"]

logger = logging.getLogger(__name__)

_HOLE_FORMAT = PixelFormat("gray", "gray", 8, full_range=True)

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
    """Our own ``compact`` network as a :class:`Restorer`.

    Args:
        device: where it goes.
        precision: its arithmetic.
        compiles: whether torch compiles it, batch size by batch size.

    Attributes:
        is_pure: the same crops give the same result whatever came before: it may be padded and captured.

    Raises:
        DeviceError: it is to be compiled, and no compiler is there.
    """

    is_pure = True

    def __init__(self, device: torch.device, precision: torch.dtype, *, compiles: bool = False) -> None:
        self.size = COMPACT_SIZE
        self.device = device
        self._precision = precision
        network = load_compact(None, device)
        self._network: Callable[[Tensor], Tensor] = CompiledNetwork(network, device) if compiles else network

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`."""
        autocast = self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision if autocast else torch.bfloat16, enabled=autocast):
            restored = self._network(images.contiguous(memory_format=torch.channels_last))
        return restored.float()


class CodeFormerRestorer:
    """The published CodeFormer as a :class:`Restorer`.

    Args:
        network: with its weights.
        device: where it goes.
        precision: of generator and fusion; the encoder, which decides the codes, stays in float32.
        w: fidelity weight in [0, 1] where no context gives one: 0 trusts the codebook, 1 stays closest to the input.
        hysteresis: holds codes along tracks; None takes each frame's own, as published.
    """

    def __init__(
        self,
        network: CodeFormer,
        device: torch.device,
        precision: torch.dtype,
        w: float,
        *,
        hysteresis: CodeHysteresis | None = None,
    ) -> None:
        self.size = network.dims.autoencoder.image_size
        self.device = device
        self.w = w
        self._hysteresis = hysteresis
        self._network = network.to_precision(precision).to(device).eval().requires_grad_(False)

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        """See :class:`Restorer`; w is the context's. The result is clamped to [-1, 1], as published."""
        w = self.w if context is None else _one_or_each(context.w, images.device)
        if self._hysteresis is None or context is None:
            restored: Tensor = self._network(images, w, adain=RESTORATION.matches_statistics)
            return restored.float().clamp(-1.0, 1.0)
        latent, skips = self._network.encode(images)
        places = [
            TrackPlace(*place) for place in zip(context.track_ids, context.shots, context.frame_indices, strict=True)
        ]
        decision = self._hysteresis.decide(self._network.predict_logits(latent), images, places)
        style = latent if RESTORATION.matches_statistics else None
        restored = self._network.decode(decision.codes, skips, w, latent=style)
        self._hysteresis.keep(decision, context.ended)  # last: a pass that ran out of memory comes again
        return restored.float().clamp(-1.0, 1.0)


def _one_or_each(w: NDArray[np.float32], device: torch.device) -> float | Tensor:
    """One number where all are equal (0 then spares the fusion), else one per picture."""
    return float(w[0]) if (w == w[0]).all() else torch.from_numpy(w).to(device)


def choose_network(options: RestoreOptions, device: torch.device) -> Literal["compact", "mobile", "codeformer", "sgpn"]:
    """The name of the network that the options mean on a device."""
    if options.network != "auto":
        return options.network
    is_compact = device.type == "cpu" or options.compile == "on"  # mobile cannot be compiled
    return "compact" if is_compact or not shipped_mobile().is_file() else "mobile"


def load_restorer(options: RestoreOptions, weights_folder: Path | None = None) -> Restorer:
    """The network that the options name, on its device.

    Args:
        options: network, device, precision, w.
        weights_folder: where converted weights are kept; None is the user's data folder.

    Raises:
        ConfigError: ``compile`` is on and the network is not made for it.
        DeviceError: the device is not there, or no compiler where one is wanted.
        WeightsError: the weight file is missing or damaged.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    name = choose_network(options, device)
    if options.network == "auto":
        logger.info("network %s, chosen for %s", name, device.type)
    if options.compile == "on" and name != "compact":
        raise ConfigError(f"restore.compile = 'on' is for the network compact, not for {name}")
    if name == "mobile":
        return MobileRestorer(device, precision, options.w)
    if options.network == "codeformer":
        with torch.device("meta"):
            network = CodeFormer(RESTORATION.dims)
        load_published(network, WeightStore(weights_folder).load("codeformer"), source="codeformer.safetensors")
        hysteresis = HysteresisOptions(margin=options.code_hysteresis) if options.code_hysteresis > 0.0 else None
        return CodeFormerRestorer(
            network, device, precision, options.w, hysteresis=CodeHysteresis(hysteresis) if hysteresis else None
        )
    if options.network == "sgpn":
        prior = PriorOptions(every=options.prior_every, tolerance_px=options.prior_tolerance_px)
        return load_sgpn(WeightStore(weights_folder), device, precision, prior)
    return CompactRestorer(device, precision, compiles=options.compile == "on")


def weights_used(options: RestoreOptions, weights_folder: Path | None = None) -> dict[str, str]:
    """{file: SHA-256} of the weights that :func:`load_restorer` may read for these options, for the record."""
    shipped = Path(str(resources.files("vidrestore.restoration.data")))
    name = options.network
    files = [shipped / f"{name}.safetensors"] if name != "auto" else sorted(shipped.glob("*.safetensors"))
    if name in MODELS:
        files.append(WeightStore(weights_folder).path(name))
    return {file.name: sha256_of(file) for file in files if file.is_file()}


class FaceRestorer:
    """Restores the faces of several frames together.

    Args:
        options: batch size and what to do with a failed crop.
        info: the stream that the frames come from.
        restorer: the network.
        holes: tells by a frame's index where its picture is missing, (height, width) uint8 and 255 there; None where it
            is whole.

    Attributes:
        num_kept: crops whose result was not finite and that were left as they were.
        num_restored: crops that were restored.
    """

    def __init__(
        self,
        options: RestoreOptions,
        info: StreamInfo,
        restorer: Restorer,
        *,
        holes: Callable[[int], NDArray[np.uint8] | None] | None = None,
    ) -> None:
        self._options = options
        self._holes = holes
        self._info = info
        self._restorer = restorer
        self._sizes = BatchSizes(options.batch_size)
        self._frame_from_display = invert(info.display_from_frame)
        self._steadiness = make_steadiness(options)
        self._seen: dict[int, tuple[int, int]] = {}  # {track id: (frame index, shot) of its last crop}
        self.num_kept = 0
        self.num_restored = 0

    @property
    def batch_size(self) -> int:
        """Crops that go through the network together; smaller than configured after memory ran out."""
        return self._sizes.largest

    def restore(self, tracked: Sequence[TrackedFrame]) -> list[list[Restoration]]:
        """For each frame the restorations of its faces, in the order of its tracks.

        Raises:
            DeviceError: the device ran out of memory even for a single face.
            VidrestoreError: a result was not finite and ``on_error`` is ``stop``.
        """
        crops = [crop for item in tracked for crop in self.sample(item)]
        tracks = [track for item in tracked for track in item.tracks]
        done: dict[int, list[Restoration]] = {item.frame.index: [] for item in tracked}
        begin = 0
        while begin < len(crops):
            batch = crops[begin : begin + self._sizes.largest]
            maps = [crop.crop_from_frame for crop in batch]
            holes = [crop.holes for crop in batch]
            frame_indices = [crop.frame_index for crop in batch]
            context = self.context(tracks[begin : begin + len(batch)], frame_indices, maps, holes)
            images = self._run(np.stack([crop.image for crop in batch]), context)
            if images is None:
                continue  # out of memory: the same crops again in smaller batches
            for crop, image in zip(batch, images, strict=True):
                if self._is_whole(crop, image):
                    done[crop.frame_index].append(Restoration(crop, image))
            self.remember(context)
            begin += len(batch)
        return [done[item.frame.index] for item in tracked]

    def sample(self, item: TrackedFrame) -> list[Crop]:
        """The faces of a frame in the network's square, in the order of its tracks."""
        if not item.tracks:
            return []
        maps = self.crop_maps(item)
        images = sample_crops(item.frame.planes, item.frame.format, maps, self._restorer.size)
        holes = self._sample_holes(item.frame.index, maps)
        meshes = self.crop_meshes(item.tracks, maps)
        return [
            Crop(track.id, item.frame.index, image, crop_from_frame, self.strength(track), hole, mesh, track.topology)
            for track, image, crop_from_frame, hole, mesh in zip(item.tracks, images, maps, holes, meshes, strict=True)
        ]

    def strength(self, track: Track) -> float:
        """How much of a face's change is shown: its fade, and less where it is turned far."""
        return strength_of(track, self._options)

    def steady(self, crops: Tensor, restored: Tensor, context: CropContext) -> Tensor:
        """What the network made of a batch, held along its tracks; see :class:`Steadiness`. The batch itself if off."""
        return restored if self._steadiness is None else self._steadiness.steady(crops, restored, context)

    def crop_meshes(self, tracks: Sequence[Track], maps: NDArray[np.float64]) -> list[NDArray[np.float32] | None]:
        """The tracked 3D faces in crop pixels, (V, 3) each; None where a track has none.

        Args:
            tracks: B faces of one frame.
            maps: (B, 2, 3) crop_from_frame.
        """
        return [
            None if track.mesh is None else mesh_in_crop(compose(m, self._frame_from_display), track.mesh)
            for track, m in zip(tracks, maps, strict=True)
        ]

    def _sample_holes(self, frame_index: int, maps: NDArray[np.float64]) -> Sequence[NDArray[np.float32] | None]:
        hole = self._holes(frame_index) if self._holes is not None else None
        if hole is None:
            return [None] * len(maps)
        sampled = sample_crops((hole,), _HOLE_FORMAT, maps, self._restorer.size)[:, 0]
        return list(np.clip((sampled + 1.0) / 2.0, 0.0, 1.0))

    def crop_maps(self, item: TrackedFrame) -> NDArray[np.float64]:
        """(B, 2, 3) maps from frame to crop pixels of the frame's tracks, in their order."""
        size = self._restorer.size
        points = getattr(self._restorer, "template", FFHQ_TEMPLATE_512)  # few networks want the face elsewhere
        faces = [crop_from_display(track.alignment, size, points) for track in item.tracks]
        maps = [compose(face, self._info.display_from_frame) for face in faces]
        return np.stack(maps) if maps else np.zeros((0, 2, 3))

    def context(
        self,
        tracks: Sequence[Track],
        frame_indices: Sequence[int],
        maps: Sequence[NDArray[np.float64]],
        holes: Sequence[NDArray[np.float32] | None] | None = None,
    ) -> CropContext:
        """What a restorer may know of a batch; :meth:`remember` it once the batch is done.

        Args:
            tracks: of B crops, in the order of their frames.
            frame_indices: of the B crops.
            maps: B crop_from_frame.
            holes: of B crops, (S, S) or None; None: no crop has any.
        """
        present = {track.id for track in tracks}
        ended = {
            track_id
            for track_id, (frame_index, shot) in self._seen.items()
            if track_id not in present and (shot != tracks[0].shot or frame_indices[0] - frame_index > FORGET_FRAMES)
        }
        w = [w_of(track, self._options) for track in tracks]
        return CropContext(
            tracks=tuple(tracks),
            frame_indices=tuple(frame_indices),
            crop_from_display=np.stack([compose(m, self._frame_from_display) for m in maps]),
            crop_from_frame=np.stack(maps),
            w=np.array(w, np.float32),
            ended=frozenset(ended),
            holes=None if holes is None or all(hole is None for hole in holes) else self._stack_holes(holes),
        )

    def _stack_holes(self, holes: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
        none = np.zeros((self._restorer.size,) * 2, np.float32)
        return np.stack([none if hole is None else hole for hole in holes])

    def remember(self, context: CropContext) -> None:
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
                restored = self.steady(batch, self._restorer.restore(batch, context), context)
                images_out: NDArray[np.float32] = restored.cpu().numpy()
                return images_out
        except torch.OutOfMemoryError as error:
            self._sizes.shrink(len(images), images.shape[-1], self._restorer.device, error)
            torch.cuda.empty_cache()
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
