"""What travels between the stages: decode -> detect -> track -> restore -> blend -> encode.

Values are frozen; a stage makes new ones (``dataclasses.replace``) and never edits one it was handed. Only blend
writes pixels, into planes that it owns.

Coordinates:
    *frame* pixels are those of the decoded luma plane. *display* pixels are upright and square: the frame turned by
    its rotation and stretched by its sample aspect ratio. Detections and tracks live in display pixels (what a viewer
    sees); ``StreamInfo.display_from_frame`` joins the two. *crop* pixels are those of the network's square input.
    Points are (x, y); (0, 0) is the centre of the top-left pixel in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Colour",
    "Crop",
    "CropContext",
    "Detections",
    "Frame",
    "MeshTopology",
    "PixelFormat",
    "Plane",
    "Pose",
    "Restoration",
    "StageTime",
    "StreamInfo",
    "Track",
    "TrackedFrame",
]

Plane: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""One (height, width) plane as decoded: uint8 for 8 bits, uint16 (native order) above."""

Colour: TypeAlias = Literal["yuv", "gray", "rgb"]
"""How planes become a picture: (Y, Cb, Cr), (Y,) or (G, B, R), each optionally followed by alpha."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the planes of a frame are to be read."""

    name: str
    """FFmpeg's name of the planar format that the planes are in, such as ``yuv420p10le``."""
    colour: Colour
    """Planes are (Y, Cb, Cr), (Y,) or (G, B, R)."""
    depth: int
    """Bits in use per sample, 8 to 16."""
    chroma_shift: tuple[int, int] = (0, 0)
    """log2 of the horizontal and vertical chroma subsampling: (1, 1) for 4:2:0, (1, 0) for 4:2:2."""
    siting: tuple[float, float] = (0.0, 0.0)
    """Place of chroma sample (0, 0) in luma pixels: (0, 0.5) is MPEG-2's "left", (0.5, 0.5) is "center"."""
    has_alpha: bool = False
    """A last plane holds alpha; it is carried along and never written."""
    matrix: str = "bt709"
    """Luma coefficients in force: bt601, bt709, bt2020, smpte240m, fcc or ycgco; of no meaning for grey and rgb."""
    full_range: bool = False
    """Samples use the whole range (JPEG) and not 16..235 of 8 bits (MPEG)."""
    primaries: int = 2
    """AVColorPrimaries as tagged, 2 is unspecified."""
    transfer: int = 2
    """AVColorTransferCharacteristic as tagged, 2 is unspecified; 16 is PQ, 18 is HLG."""
    matrix_tag: int = 2
    """AVColorSpace as tagged, 2 is unspecified (then ``matrix`` is a guess by picture size)."""
    range_tag: int = 0
    """AVColorRange as tagged: 0 unspecified, 1 MPEG, 2 JPEG."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 for 8 bits, uint16 above."""
        return np.dtype(np.uint8 if self.depth <= 8 else np.uint16)

    @property
    def num_planes(self) -> int:
        """Planes of a frame, alpha included."""
        return (1 if self.colour == "gray" else 3) + int(self.has_alpha)

    def plane_size(self, plane_index: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a plane for a picture size; odd sizes round up, as FFmpeg does."""
        if self.colour != "yuv" or plane_index not in (1, 2):
            return height, width
        sx, sy = self.chroma_shift
        return -(-height >> sy), -(-width >> sx)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a video stream before its first frame is shown to anybody."""

    path: str
    """The file or address that it comes from."""
    frame_width: int
    """Columns of the decoded planes."""
    frame_height: int
    """Rows of the decoded planes."""
    width: int
    """Columns of the upright picture with square pixels (display pixels), rounded."""
    height: int
    """Rows of the upright picture with square pixels, rounded."""
    display_from_frame: NDArray[np.float64]
    """(2, 3) map from frame to display pixels: rotation and sample aspect ratio."""
    rotation: int
    """Clockwise turn in degrees that a player applies: 0, 90, 180 or 270."""
    sample_aspect_ratio: Fraction
    """Width over height of a decoded pixel; 1 where the file says nothing."""
    time_base: Fraction
    """Seconds per tick of pts."""
    average_rate: Fraction | None
    """Frames per second as the container tells it; only for estimates and encoder hints."""
    num_frames: int | None
    """Frames as the container tells or as duration x rate; an estimate, None if unknown."""
    duration_s: float | None
    """Seconds as the container tells, None if unknown."""
    format: PixelFormat
    """Format of the frames that the reader yields."""
    codec: str
    """FFmpeg's name of the video codec."""
    bit_rate: int | None
    """Bits per second of the video stream, None if unknown."""
    has_audio: bool
    """At least one audio stream is there to be copied."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture in the planes it was decoded into."""

    index: int
    """Zero-based position in decode order of presentation."""
    pts: int
    """Presentation time in ticks of ``time_base``, as the container had it."""
    time_base: Fraction
    """Seconds per tick."""
    planes: tuple[Plane, ...]
    """(height, width) arrays in the order that ``format.colour`` names; read-only by convention."""
    format: PixelFormat
    """How to read the planes."""
    shot: int = 0
    """Zero-based index of the shot; rises by one at every cut."""
    duration: int | None = None
    """Ticks until the next frame, None where the container does not say."""
    carrier: Any = field(default=None, compare=False)
    """The decoder's own frame (``av.VideoFrame``), kept for its side data (captions, HDR metadata); or None."""

    def __post_init__(self) -> None:
        """Checks number, type and sizes of the planes."""
        if len(self.planes) != self.format.num_planes:
            raise ValueError(f"{self.format.name} has {self.format.num_planes} planes, got {len(self.planes)}")
        for i, plane in enumerate(self.planes):
            size = self.format.plane_size(i, self.height, self.width)
            if plane.shape != size or plane.dtype != self.format.dtype:
                raise ValueError(
                    f"plane {i} of {self.format.name} must be {size} {self.format.dtype}, "
                    f"got {plane.shape} {plane.dtype}"
                )

    @property
    def height(self) -> int:
        """Rows of the first plane."""
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        """Columns of the first plane."""
        return int(self.planes[0].shape[1])

    @property
    def time_s(self) -> float:
        """Seconds, for showing only."""
        return float(self.pts * self.time_base)

    def __repr__(self) -> str:
        return (
            f"Frame(index={self.index}, pts={self.pts}, time_base={self.time_base}, "
            f"{self.width}x{self.height} {self.format.name}, shot={self.shot})"
        )


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces found in one picture, in display pixels."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy."""
    landmarks: NDArray[np.float32]
    """(N, 5, 2): left eye, right eye, nose, left and right mouth corner as seen in the picture."""
    scores: NDArray[np.float32]
    """(N,) in [0, 1]."""

    def __post_init__(self) -> None:
        """Checks that the three arrays tell of the same faces."""
        n = len(self.scores)
        shapes = self.boxes.shape, self.landmarks.shape, self.scores.shape
        if shapes != ((n, 4), (n, 5, 2), (n,)):
            raise ValueError(f"expected boxes (N, 4), landmarks (N, 5, 2), scores (N,), got {shapes}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detections:
        """No face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Pose:
    """Turn of a head in radians, seen from the viewer; (0, 0, 0) looks straight into the camera.

    Convention: yaw > 0 turns the nose to the right of the picture, pitch > 0 lowers it, roll > 0 turns the head
    clockwise as seen in the picture.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True, eq=False)
class MeshTopology:
    """What a mesh needs beside its vertices, where it is not one of ``vr468``; all meshes of a model share one."""

    name: str
    """Of the face model: ``bfm``."""
    triangles: NDArray[np.int32]
    """(T, 3) vertex indices, counter-clockwise seen from outside."""
    top: int
    """The vertex in the middle of the hairline."""
    chin: int
    """The vertex under the chin."""

    def __post_init__(self) -> None:
        """Checks the triangles."""
        if self.triangles.ndim != 2 or self.triangles.shape[1] != 3 or not len(self.triangles):
            raise ValueError(f"triangles must be (T, 3), got {self.triangles.shape}")
        if min(int(self.triangles.min()), self.top, self.chin) < 0 or max(self.top, self.chin) >= self.num_vertices:
            raise ValueError(f"a topology of {self.num_vertices} vertices has indices beyond them")

    @property
    def num_vertices(self) -> int:
        """V, up to the last vertex that a triangle names."""
        return int(self.triangles.max()) + 1

    def __repr__(self) -> str:
        return f"MeshTopology({self.name!r}, {len(self.triangles)} triangles)"


@dataclass(frozen=True, slots=True)
class Track:
    """One person's face in one frame, in display pixels."""

    id: int
    """Unique in a run, from 0, never reused."""
    box: NDArray[np.float32]
    """(4,) xyxy."""
    landmarks: NDArray[np.float32]
    """(5, 2), smoothed in time."""
    score: float
    """Detector's confidence in [0, 1], smoothed."""
    strength: float = 1.0
    """Fade of this track in this frame, in [0, 1]: rises at birth, falls before loss."""
    pose: Pose | None = None
    """Head pose, where a tracker gives one."""
    coefficients: NDArray[np.float32] | None = None
    """(257,) 3DMM coefficients: identity 80, expression 64, texture 80, angles 3, lighting 27, translation 3; as
    ``Camera()`` sees the face in the crop that ``alignment`` leads to (``restoration.align.crop_from_display``)."""
    missed: int = 0
    """Frames since it was last seen; 0 where it was seen in this frame."""
    shot: int = 0
    """The shot it belongs to."""
    anchors: NDArray[np.float32] | None = None
    """(5, 2) where the five points would be if the face were at rest, in the smoothed pose: what crops are aligned by.
    They do not move when the mouth opens. None where no 3D face is tracked."""
    mesh: NDArray[np.float32] | None = None
    """(V, 3) vertices of the tracked 3D face with its expression: x, y in display pixels; z in display pixels towards
    the viewer, 0 at the face's origin. None where no 3D face is tracked."""
    topology: MeshTopology | None = None
    """Which model mesh and coefficients are of, where it is not the package's own (``vr468``)."""

    @property
    def alignment(self) -> NDArray[np.float32]:
        """(5, 2) points that crops are aligned by: the anchors, or the landmarks where there are none."""
        return self.landmarks if self.anchors is None else self.anchors


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """A frame and the faces in it."""

    frame: Frame
    tracks: tuple[Track, ...]


@dataclass(frozen=True, slots=True)
class Crop:
    """A face sampled from a frame into the network's square."""

    track_id: int
    frame_index: int
    image: NDArray[np.float32]
    """(3, S, S) RGB in [-1, 1]."""
    crop_from_frame: NDArray[np.float64]
    """(2, 3) map from frame to crop pixels."""
    strength: float = 1.0
    """The track's fade, in [0, 1]."""
    holes: NDArray[np.float32] | None = None
    """(S, S) in [0, 1]: where the picture is missing and is to be made up; None where nothing is."""
    mesh: NDArray[np.float32] | None = None
    """(V, 3) vertices of the tracked 3D face, x and y in crop pixels, z in crop pixels towards the viewer; or None."""
    topology: MeshTopology | None = None
    """Of that mesh; None is ``vr468``'s."""

    def __post_init__(self) -> None:
        """Checks that the image is a square of three channels."""
        if self.image.ndim != 3 or self.image.shape[0] != 3 or self.image.shape[1] != self.image.shape[2]:
            raise ValueError(f"a crop's image must be (3, S, S), got {self.image.shape}")

    def __repr__(self) -> str:
        return f"Crop(track_id={self.track_id}, frame_index={self.frame_index}, image={self.image.shape})"


@dataclass(frozen=True, slots=True)
class CropContext:
    """What a restorer may know of the B crops of one call, beside their pixels: whose they are, when and where.

    Crops come in the order of their frames, so those of one track come in order too, each frame's once. The one
    exception is a call that ran out of device memory: its crops come again in smaller batches, so a restorer that keeps
    state along tracks changes it after its network has run.
    """

    tracks: tuple[Track, ...]
    """B tracks, as they are in the crop's frame: id, shot, landmarks, pose, coefficients."""
    frame_indices: tuple[int, ...]
    """B indices of the frames that the crops were cut from."""
    crop_from_display: NDArray[np.float64]
    """(B, 2, 3) maps from display pixels, in which boxes and landmarks are, to crop pixels."""
    crop_from_frame: NDArray[np.float64]
    """(B, 2, 3) maps from frame pixels to crop pixels."""
    w: NDArray[np.float32]
    """(B,) fidelity weights in [0, 1], for networks that have one."""
    ended: frozenset[int] = frozenset()
    """Ids of tracks of which no crop will come any more, in this call or later: their shot is over, or they are lost.
    Each is told in the first call after its end; state that is kept for it can go."""
    holes: NDArray[np.float32] | None = None
    """(B, S, S) in [0, 1]: where the picture is missing and is to be made up; None where nothing is."""

    def __post_init__(self) -> None:
        """Checks that all parts tell of the same crops."""
        n = len(self.tracks)
        shapes = self.crop_from_display.shape, self.crop_from_frame.shape, self.w.shape
        if len(self.frame_indices) != n or shapes != ((n, 2, 3), (n, 2, 3), (n,)):
            raise ValueError(f"{n} tracks, {len(self.frame_indices)} frames, maps and weights of shapes {shapes}")
        if self.holes is not None and len(self.holes) != n:
            raise ValueError(f"{n} tracks, but holes of {len(self.holes)} crops")

    @property
    def track_ids(self) -> tuple[int, ...]:
        """B ids of the tracks."""
        return tuple(track.id for track in self.tracks)

    @property
    def shots(self) -> tuple[int, ...]:
        """B indices of the shots."""
        return tuple(track.shot for track in self.tracks)

    def __len__(self) -> int:
        return len(self.tracks)


@dataclass(frozen=True, slots=True)
class Restoration:
    """A crop and what the network made of it."""

    crop: Crop
    image: NDArray[np.float32]
    """(3, S, S) RGB in [-1, 1], the same S as the crop's."""
    codes: NDArray[np.int64] | None = None
    """(256,) code indices in [0, 1024) of a codebook network, or None."""
    w: float | None = None
    """Fidelity weight that was used, in [0, 1]; None where the network has none."""

    def __post_init__(self) -> None:
        """Checks that the restored image has the crop's size."""
        if self.image.shape != self.crop.image.shape:
            raise ValueError(f"restored {self.image.shape} does not match its crop {self.crop.image.shape}")

    def __repr__(self) -> str:
        return f"Restoration(crop={self.crop!r}, image={self.image.shape}, w={self.w})"


@dataclass(frozen=True, slots=True)
class StageTime:
    """Where one stage's time went, in seconds of wall clock."""

    busy_s: float
    """At work."""
    starved_s: float
    """Waiting for input."""
    blocked_s: float
    """Waiting for room in the next queue."""
