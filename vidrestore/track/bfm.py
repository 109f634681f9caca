"""The tracker's other eyes: the Basel Face Model 2009 and the published regressor D3DFR, where the user has both.

Figure:
    crop of 224 px as SGPN cuts it -> D3DFR -> 257 coefficients of BFM, before the published camera
    -> the same face in the tracker's frame: unit, nod and origin of ``vr468``     (:class:`TrackerFrame`)
    -> a :class:`~vidrestore.track.face.Look`, as of any other reader; tracks leave with coefficients of BFM again

What the tracker knows of faces (how far apart eyes are, where the detector's box lies, how strong perspective is) is in
the frame of ``vr468``. Another model is brought there by one similarity, which its own data give: the landmarks of its
mean face, all of the 68 but the outline's, are laid onto those of ``vr468``'s. Nothing else about BFM is written down
here.

For what is done in every frame the model is reduced to 1024 vertices (:mod:`vidrestore.morphable.reduced`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from vidrestore.errors import WeightsError
from vidrestore.geometry import Affine, apply, invert, mean_scale
from vidrestore.morphable.align import CROP_SIZE, FIVE_OF_68, d3dfr_from_display
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import COEFFICIENTS, Coefficients, join, split
from vidrestore.morphable.d3dfr import D3dfr, folded
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.reduced import border_vertices, reduced
from vidrestore.track.face import FaceModel, FaceReader, Look
from vidrestore.types import Frame, MeshTopology, StreamInfo

__all__ = ["BfmModel", "BfmReader", "BfmSource", "TrackerFrame"]

NAME = "bfm"
"""What tracks and sidecars call the model."""

WORST_FIT = 0.1
"""Root of the mean square of a mean face's landmarks from those of ``vr468``'s, in its unit (eyes are 0.6 apart): the
published five points of BFM's mean face lie within 0.06 each; landmarks in another order are far worse."""

_CHIN = 8  # of the 68 landmarks
_OUTLINE = 17  # the first 68 landmarks lie on the face's outline, which models draw where they like
_MIRRORED = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *range(67, 64, -1),
]  # the 68 landmarks, left and right exchanged


@dataclass(frozen=True, slots=True)
class TrackerFrame:
    """A similarity: point in the tracker's frame = scale * point of the model, nodded by ``nod``, + shift."""

    scale: float
    """Of the model's unit to that of ``vr468``."""
    nod: float
    """Radians about x, as :meth:`MorphableModel.rotation` has it."""
    shift: tuple[float, float, float]

    @classmethod
    def of(cls, model: MorphableModel, reference: MorphableModel) -> TrackerFrame:
        """The one that lays a model's mean face onto another's.

        Raises:
            WeightsError: their landmarks do not lie alike.

        Source:
            Umeyama: Least-squares estimation of transformation parameters, 1991. Of symmetric faces the rotation is
            about x alone.
        """
        source, target = (_symmetric_landmarks(m) for m in (model, reference))
        a, b = source - source.mean(0), target - target.mean(0)
        u, strengths, vt = np.linalg.svd(a.T @ b)
        signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        rotation = (u * signs) @ vt
        scale = float((strengths * signs).sum() / max(np.square(a).sum(), 1e-12))
        shift = target.mean(0) - scale * source.mean(0) @ rotation
        misfit = float(np.linalg.norm(scale * source @ rotation + shift - target) / math.sqrt(len(source)))
        if not misfit <= WORST_FIT:
            raise WeightsError(
                f"the mean face's brows, eyes, nose and mouth lie {misfit:.2f} from where a face has them (eyes are "
                f"0.6 apart; at most {WORST_FIT}); is it a face model with the usual 68 landmarks?"
            )
        return cls(scale, math.atan2(rotation[1, 2], rotation[1, 1]), (0.0, float(shift[1]), float(shift[2])))

    def model(self, model: MorphableModel) -> MorphableModel:
        """The same model with its vertices in the tracker's frame; its coefficients mean the same."""
        turn = self._turn(model.mean_shape)

        def turned(basis: Tensor) -> Tensor:
            axes = basis.view(-1, 3, basis.shape[1])
            return self.scale * torch.einsum("vak,ab->vbk", axes, turn).reshape(basis.shape)

        return MorphableModel(
            self.scale * model.mean_shape @ turn + model.mean_shape.new_tensor(self.shift),
            turned(model.identity_basis),
            turned(model.expression_basis),
            model.mean_texture,
            model.texture_basis,
            model.triangles,
            model.landmarks,
            mirror=model.mirror,
            skin=model.skin,
            deviations=model.deviations,
            incident=model.incident,
        )

    def camera(self, camera: Camera) -> Camera:
        """The same camera in the tracker's unit."""
        return Camera(camera.focal, camera.size, self.scale * camera.distance)

    def enter(self, coefficients: Tensor) -> Tensor:
        """(B, 257) of the model, to those that put the model in the tracker's frame at the same place."""
        c = split(coefficients)
        angles = c.angles - c.angles.new_tensor([self.nod, 0.0, 0.0])
        moved = self.scale * c.translation - self._origin(angles)
        return join(Coefficients(c.identity, c.expression, c.texture, angles, c.lighting, moved))

    def leave(self, coefficients: Tensor) -> Tensor:
        """The inverse of :meth:`enter`."""
        c = split(coefficients)
        moved = (c.translation + self._origin(c.angles)) / self.scale
        angles = c.angles + c.angles.new_tensor([self.nod, 0.0, 0.0])
        return join(Coefficients(c.identity, c.expression, c.texture, angles, c.lighting, moved))

    def _turn(self, like: Tensor) -> Tensor:
        """(3, 3), points @ turn."""
        c, s = math.cos(self.nod), math.sin(self.nod)
        return like.new_tensor([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])

    def _origin(self, angles: Tensor) -> Tensor:
        """(B, 3): where the shift leads at these angles of the tracker's frame."""
        return (angles.new_tensor(self.shift) @ MorphableModel.rotation(angles)).view(-1, 3)


class BfmModel(FaceModel):
    """The reduced Basel model in the tracker's frame, in NumPy; coefficients leave it as BFM's.

    Args:
        model: reduced, in the tracker's frame.
        frame: that frame.
    """

    def __init__(self, model: MorphableModel, frame: TrackerFrame) -> None:
        landmarks = model.landmarks.numpy()
        five = tuple(tuple(int(landmarks[i]) for i in which) for which in FIVE_OF_68)
        reference = FaceModel().five(np.zeros(80, np.float32))
        means = np.stack([model.mean_shape.double().numpy()[list(which)].mean(0) for which in five])
        camera = frame.camera(Camera())
        # the crop of a mean face, seen from far away at one pixel a unit, says how near the camera is to such a face
        crop_from_units = d3dfr_from_display(reference[:, :2] * [1.0, -1.0])
        super().__init__(
            model,
            five=five,
            # so that the mean face's points are where the detector puts them, as those of vr468 are
            offsets=reference - means,
            viewing_distance=camera.focal / mean_scale(crop_from_units),
            camera=camera,
            crop_size=CROP_SIZE,
            topology=_topology(model),
        )
        self.middle = apply(crop_from_units, reference[:, :2] * [1.0, -1.0]).mean(0)
        self._frame = frame

    def coefficients(
        self,
        pose: NDArray[np.float64],
        identity: NDArray[np.float32],
        expression: NDArray[np.float32],
        texture: NDArray[np.float32],
        lighting: NDArray[np.float32],
        crop_from_display: Affine,
    ) -> NDArray[np.float32]:
        """(257,) of BFM, as the published camera sees the face in D3DFR's crop, to which the map leads."""
        inside = super().coefficients(pose, identity, expression, texture, lighting, crop_from_display)
        return np.asarray(self._frame.leave(torch.from_numpy(inside).double()[None])[0], np.float32)


class BfmSource:
    """What the tracker reads BFM's faces with; made once, for any number of streams.

    Args:
        regressor: D3DFR, (B, 3, 224, 224) RGB in [0, 1] -> (B, 257).
        model: BFM 2009, or one of the same layout.

    Raises:
        WeightsError: the model's landmarks are not those of a face.
    """

    def __init__(self, regressor: nn.Module, model: MorphableModel) -> None:
        model = reduced(model.cpu())
        self.frame = TrackerFrame.of(model, load_vr468())
        self.mesh = self.frame.model(model)
        self.model = BfmModel(self.mesh, self.frame)
        self.regressor = folded(regressor) if isinstance(regressor, D3dfr) else regressor.eval()
        self.regressor.requires_grad_(False)


class BfmReader(FaceReader):
    """Reads faces off frames with D3DFR; see :class:`vidrestore.track.mesh.ShapeReader`.

    Args:
        info: of the stream; its map to display pixels is used.
        source: regressor and model.
        device: where the regressor runs.
    """

    def __init__(self, info: StreamInfo, source: BfmSource, device: torch.device | str = "cpu") -> None:
        self._display_from_frame = info.display_from_frame
        self._device = torch.device(device)
        network = _InFrame(source.regressor, source.frame)
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._size, self._camera, self._middle = CROP_SIZE, source.model.camera, source.model.middle
        self.model = source.model
        self.num_read = 0

    def crop_at(self, points: ArrayLike) -> Affine:
        """crop_from_display of D3DFR's crop of a face with these (5, 2) points."""
        return d3dfr_from_display(points)

    def read(self, frames: Sequence[Frame], maps: Sequence[Affine]) -> list[Look]:
        """See :class:`vidrestore.track.mesh.ShapeReader`."""
        looks = super().read(frames, maps)
        return [replace(look, off_centre=self._off_centre(look, m)) for look, m in zip(looks, maps, strict=True)]

    def _off_centre(self, look: Look, crop_from_display: Affine) -> float:
        """How far the crop lies from the one that would be cut now, in shares of its side. D3DFR's crop has the model's
        origin in its middle, so the points of a turned face are rightly beside it."""
        rest = self.model.place(self.model.five(look.identity), look.pose)[:, :2]
        middle = np.full(2, 0.5 * (CROP_SIZE - 1))
        better = apply(invert(self.crop_at(rest)), middle)
        return math.dist(apply(crop_from_display, better), middle) / CROP_SIZE


class _InFrame(nn.Module):
    """D3DFR for crops in [-1, 1], its results in the tracker's frame."""

    def __init__(self, regressor: nn.Module, frame: TrackerFrame) -> None:
        super().__init__()
        self._regressor = regressor
        self._frame = frame

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, 224, 224) RGB in [-1, 1] -> (B, 257) in the tracker's frame."""
        pictures = (crops * 0.5 + 0.5).contiguous(memory_format=torch.channels_last)
        found: Tensor = self._regressor(pictures)
        if found.shape != (len(crops), COEFFICIENTS):
            raise ValueError(f"the regressor must give ({len(crops)}, {COEFFICIENTS}), got {tuple(found.shape)}")
        return self._frame.enter(found.float())


def _symmetric_landmarks(model: MorphableModel) -> NDArray[np.float64]:
    """(51, 3) of the mean face, brows to mouth, as if both its sides were alike."""
    points = model.mean_shape.double().numpy()[model.landmarks.numpy()]
    both: NDArray[np.float64] = 0.5 * (points + points[_MIRRORED] * [-1.0, 1.0, 1.0])
    return both[_OUTLINE:]


def _topology(model: MorphableModel) -> MeshTopology:
    """Of a reduced model: its triangles, the chin's landmark, and the hairline: the border's highest vertex in the
    middle of the face."""
    mean, triangles = model.mean_shape.numpy(), model.triangles.numpy()
    border = border_vertices(triangles)
    top = border[np.argmax(mean[border, 1] - np.abs(mean[border, 0]))]
    return MeshTopology(NAME, triangles.astype(np.int32), int(top), int(model.landmarks[_CHIN]))
