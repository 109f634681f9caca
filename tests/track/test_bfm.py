"""The tracker with a Basel face model: a drawn stand-in of the right layout, and a regressor that is told the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from vidrestore.blend.outline import coarse_outline, mesh_mask
from vidrestore.config import RestoreConfig, TrackOptions, load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import ConfigError, WeightsError
from vidrestore.geometry import Affine, apply, box_iou, invert, mean_scale
from vidrestore.morphable.align import FIVE_OF_68, d3dfr_from_display
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.morphable.files import load_vr468, save_model
from vidrestore.morphable.model import Face, MorphableModel
from vidrestore.morphable.reduced import reduced
from vidrestore.morphable.render import render
from vidrestore.morphable.synthetic import SyntheticD3dfr, synthetic_bfm, synthetic_model
from vidrestore.morphable.template import FFHQ_TEMPLATE_512
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.pipeline import RestoredVideo, _tracked, load_bfm, load_finder, restore, track_frames
from vidrestore.restoration.motion import mesh_in_crop, mesh_motion
from vidrestore.restoration.weights import Receipt, WeightStore, sha256_of
from vidrestore.sidecar import Replay, SidecarWriter, sidecar_path
from vidrestore.track.bfm import BfmReader, BfmSource, TrackerFrame
from vidrestore.track.face import FaceModel
from vidrestore.track.mesh import MeshTracker
from vidrestore.track.tracker import make_tracker
from vidrestore.types import CropContext, Detections, Frame, MeshTopology, TrackedFrame

SIZE = 200
CAMERA = Camera(380.0, SIZE, 10.0)  # of the scene: eyes 25 px apart
BOX = np.array([-0.65, -0.98, 0.66, 0.8])  # of YuNet about a face's origin, in units of vr468: mean of generated faces
DEVICE = torch.device("cpu")


@cache
def bfm() -> MorphableModel:
    return synthetic_bfm()


@cache
def source() -> BfmSource:
    return BfmSource(_Told(), bfm())


@dataclass(frozen=True, slots=True)
class Head:
    """Somebody in one frame, in BFM's own coefficients before the scene's camera."""

    who: int
    x: float
    y: float
    yaw: float = 0.0
    lean: float = 0.0
    mouth: float = 0.0

    @property
    def coefficients(self) -> Tensor:
        """(1, 257)"""
        rng = np.random.default_rng(self.who)
        values = torch.zeros(1, 257)
        parts = split(values)
        parts.identity[:] = torch.from_numpy(rng.normal(0, 0.7, 80)).float()
        parts.texture[:] = torch.from_numpy(rng.normal(0, 0.7, 80)).float()
        parts.expression[:] = self.mouth * mouth_direction()
        parts.angles[:] = torch.tensor([0.14, self.yaw, self.lean])  # 0.2 - 0.06: looks into the camera
        parts.lighting[:, [2, 11, 20]] = -0.15  # shading shows the shape
        step = CAMERA.distance / CAMERA.focal
        parts.translation[:, :2] = torch.tensor(
            [(self.x - CAMERA.centre_px) * step, (CAMERA.centre_px - self.y) * step]
        )
        return values

    @property
    def face(self) -> Face:
        return bfm()(self.coefficients, CAMERA)

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """(68, 2) in the picture."""
        return bfm().landmarks3d(self.face.points_px)[0].double().numpy()

    @property
    def five(self) -> NDArray[np.float64]:
        return np.stack([self.landmarks[list(which)].mean(0) for which in FIVE_OF_68])

    @property
    def box(self) -> NDArray[np.float64]:
        return BOX * CAMERA.focal / CAMERA.distance * 1.1 + np.tile([self.x, self.y], 2)

    def in_crop(self, crop_from_display: Affine) -> NDArray[np.float32]:
        """(257,) what a regressor that never errs says of a crop of 224 pixels."""
        values = self.coefficients.double()
        parts, camera = split(values), Camera()
        pixels_per_unit = mean_scale(crop_from_display) * CAMERA.focal / CAMERA.distance
        depth = camera.focal / pixels_per_unit
        u, v = apply(crop_from_display, (self.x, self.y)) - camera.centre_px
        parts.angles[0, 2] -= math.atan2(crop_from_display[1, 0], crop_from_display[0, 0])
        parts.translation[0] = torch.tensor([u / pixels_per_unit, -v / pixels_per_unit, camera.distance - depth])
        return values[0].float().numpy()


@cache
def mouth_direction() -> Tensor:
    """(64,) the expression of the stand-in that opens the lips most for its size."""
    upper, lower = (int(bfm().landmarks[i]) for i in (62, 66))
    basis = bfm().expression_basis.view(-1, 3, 64)
    opening = basis[upper, 1] - basis[lower, 1]
    return opening / opening.norm()


class _Told(nn.Module):
    """A regressor that says what it was told of the next crops."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.zeros(0, 257)

    def forward(self, views: Tensor) -> Tensor:
        assert views.shape == (len(self.rows), 3, 224, 224)
        assert float(views.min()) >= 0.0
        assert float(views.max()) <= 1.0
        return self.rows


Scene = Callable[[int], Sequence[Head]]


class KnowingReader(BfmReader):
    """Everything is real but the network's answer: the truth about the head that is nearest to the crop's middle."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(info_of_frames(picture([], 0)), source())
        self._scene = scene

    def read(self, frames, maps):  # type: ignore[no-untyped-def]
        if not frames:
            return []
        told = source().regressor
        assert isinstance(told, _Told)
        told.rows = torch.from_numpy(np.stack([self._truth(f.index, m) for f, m in zip(frames, maps, strict=True)]))
        return super().read(frames, maps)

    def _truth(self, index: int, crop_from_display: Affine) -> NDArray[np.float32]:
        middle = apply(invert(crop_from_display), (112.0, 112.0))
        heads = sorted(self._scene(index), key=lambda h: float(np.hypot(*(middle - (h.x, h.y)))))
        if not heads or np.hypot(*(middle - (heads[0].x, heads[0].y))) > 60.0 / mean_scale(crop_from_display):
            return np.zeros(257, np.float32)
        return heads[0].in_crop(crop_from_display)


def picture(heads: Sequence[Head], index: int) -> Frame:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    rgb = np.stack([90 + 20 * np.sin(columns / 11 + c) + 15 * np.cos(rows / 17 - c) for c in range(3)], -1)
    for head in heads:
        face = head.face
        drawn, mask = render(face.points_px, face.depth, bfm().triangles, face.colours, SIZE)
        inside = mask[0].numpy() > 0
        rgb[inside] = drawn[0].permute(1, 2, 0).numpy()[inside]
    return frame_from_rgb(np.clip(rgb, 0, 255).astype(np.uint8), index)


def moving(index: int) -> Head:
    """Crosses the picture, turns, leans and talks."""
    return Head(
        3,
        70.0 + 2.0 * index,
        100.0 + 6.0 * math.sin(index / 6.0),
        yaw=0.5 * math.sin(index / 10.0),
        lean=0.15 * math.sin(index / 8.0),
        mouth=3.0 * max(math.sin(index / 3.0), 0.0),
    )


def follow(scene: Scene, count: int) -> tuple[list[TrackedFrame], KnowingReader, list[int]]:
    asked: list[int] = []

    def look(frame: Frame) -> Detections:
        asked.append(frame.index)
        heads = scene(frame.index)
        if not heads:
            return Detections.none()
        boxes = np.array([head.box for head in heads], np.float32)
        return Detections(boxes, np.array([h.five for h in heads], np.float32), np.full(len(heads), 0.9, np.float32))

    reader = KnowingReader(scene)
    tracker = MeshTracker(TrackOptions(model="bfm"), reader, (SIZE, SIZE))
    done = [t for i in range(count) for t in tracker.update(picture(scene(i), i), look)]
    return done + tracker.flush(), reader, asked


@cache
def followed() -> tuple[list[TrackedFrame], KnowingReader, list[int]]:
    """The moving head over 28 frames."""
    return follow(lambda i: [moving(i)], 28)


def topology() -> MeshTopology:
    made = source().model.topology
    assert made is not None
    return made


# --- following ------------------------------------------------------------------------------------------------------


def test_a_moving_head_is_followed_by_its_basel_face() -> None:
    tracked, reader, asked = followed()
    assert {track.id for t in tracked for track in t.tracks} == {0}
    assert all(len(t.tracks) == 1 for t in tracked)
    assert len(asked) <= 9
    unit = CAMERA.focal / CAMERA.distance * 0.65  # the eyes' distance
    for t in tracked:
        head, track = moving(t.frame.index), t.tracks[0]
        assert track.pose is not None
        assert abs(track.pose.yaw - head.yaw) < 0.05
        assert abs(track.pose.roll + head.lean) < 0.03
        assert abs(track.pose.pitch) < 0.03, "it looks into the camera"
        assert np.linalg.norm(track.landmarks - head.five, axis=1).max() < 0.12 * unit
        assert float(box_iou(track.box, head.box)[0, 0]) > 0.85
    assert reader.num_read < 50, "a moving, talking head: new faces are read twice"


def test_coefficients_leave_as_those_of_the_basel_model() -> None:
    """What SGPN is given: the full model at a track's coefficients, seen in the view of its points."""
    tracked, _, _ = followed()
    for t in tracked[3:28:6]:
        head, track = moving(t.frame.index), t.tracks[0]
        assert track.coefficients is not None
        assert track.mesh is not None
        view = d3dfr_from_display(track.alignment)
        face = bfm()(torch.from_numpy(track.coefficients)[None])
        points = apply(invert(view), bfm().landmarks3d(face.points_px)[0].numpy())
        assert np.linalg.norm(points - head.landmarks, axis=1).mean() < 1.0
        own = split(head.coefficients)
        mine = split(torch.from_numpy(track.coefficients)[None])
        torch.testing.assert_close(mine.identity, own.identity, atol=1e-3, rtol=0)
        torch.testing.assert_close(mine.lighting, own.lighting, atol=1e-3, rtol=0)
        of_mesh = track.mesh[source().mesh.landmarks.numpy(), :2]
        assert np.linalg.norm(of_mesh - head.landmarks, axis=1).mean() < 1.0, "the reduced mesh has the 68 landmarks"


def test_what_is_read_looks_like_the_picture_and_lies_where_the_crop_has_it() -> None:
    head = Head(5, 110.0, 90.0, yaw=0.3, lean=0.2)
    reader = KnowingReader(lambda i: [head])
    (look,) = reader.read([picture([head], 0)], [reader.crop_at(head.five)])
    assert look.likeness > 0.95
    assert look.off_centre < 0.03
    (beside,) = reader.read([picture([], 0)], [reader.crop_at(head.five)])
    assert beside.likeness < 0.5, "the same face is not in an empty picture"


def test_lips_are_those_of_the_frame_and_do_not_move_the_crop() -> None:
    def talking(index: int) -> list[Head]:
        return [Head(4, 100.0, 100.0, mouth=4.0 * (index % 8 < 4))]

    tracked, _, _ = follow(talking, 16)
    upper, lower = (int(source().mesh.landmarks[i]) for i in (62, 66))
    gaps, anchors = [], []
    for t in tracked:
        mesh, points = t.tracks[0].mesh, t.tracks[0].anchors
        assert mesh is not None
        assert points is not None
        gaps.append(float(mesh[lower, 1] - mesh[upper, 1]))
        anchors.append(points)
    truth = [float(np.diff(talking(t.frame.index)[0].landmarks[[62, 66], 1])[0]) for t in tracked]
    assert np.ptp(truth) > 1.0
    np.testing.assert_allclose(gaps, truth, atol=0.25)
    assert np.ptp(np.stack(anchors), axis=0).max() < 0.15


def test_two_people_keep_their_ids() -> None:
    def scene(index: int) -> list[Head]:
        return [Head(1, 55.0 + index / 2.0, 100.0), Head(2, 145.0 - index / 2.0, 95.0)]

    tracked, _, _ = follow(scene, 10)
    for t in tracked:
        places = {track.id: track.alignment.mean(0)[0] for track in t.tracks}
        assert places.keys() == {0, 1}
        first, second = sorted(places.values())
        assert abs(first - scene(t.frame.index)[0].five.mean(0)[0]) < 2.0
        assert abs(second - scene(t.frame.index)[1].five.mean(0)[0]) < 2.0


# --- real faces, with our own regressor in D3DFR's place -----------------------------------------------------------


@cache
def stand_in() -> BfmSource:
    return BfmSource(SyntheticD3dfr(bfm()), bfm())


def test_a_real_clip_is_followed_as_with_our_own_model(face_clip: Path) -> None:
    """Unit, nod, origin, vertices, coefficients, crop and camera are others; the faces are the same."""
    runs = []
    for model in ("vr468", "bfm"):
        config = RestoreConfig(track=TrackOptions(model=model))
        with VideoReader(face_clip) as reader:
            frames = (frame for frame, _ in zip(reader.decode(), range(24), strict=False))
            runs.append(list(_tracked(frames, reader.info, config, load_finder(config), bfm=stand_in())))
    own, other = (model.landmarks.numpy() for model in (load_vr468(), stand_in().mesh))
    for ours, theirs in zip(*runs, strict=True):
        assert [track.id for track in ours.tracks] == [track.id for track in theirs.tracks]
        for a, b in zip(ours.tracks, theirs.tracks, strict=True):
            assert a.mesh is not None
            assert b.mesh is not None
            assert a.pose is not None
            assert b.pose is not None
            eyes = float(np.linalg.norm(a.alignment[1] - a.alignment[0]))
            assert float(box_iou(a.box, b.box)[0, 0]) > 0.85
            assert np.linalg.norm(a.alignment - b.alignment, axis=1).mean() < 0.08 * eyes
            assert np.linalg.norm(a.mesh[own, :2] - b.mesh[other, :2], axis=1).mean() < 0.08 * eyes
            turns = np.subtract((a.pose.yaw, a.pose.pitch, a.pose.roll), (b.pose.yaw, b.pose.pitch, b.pose.roll))
            assert np.abs(turns).max() < 0.15
    assert sum(len(tracked.tracks) for tracked in runs[1]) >= 24


class Sharpen:
    """A restorer that takes no time."""

    size, is_pure, template, device = 64, True, FFHQ_TEMPLATE_512, DEVICE

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        assert context is None or all(track.topology is not None for track in context.tracks)
        soft = torch.nn.functional.avg_pool2d(images, 5, 1, 2)
        return (images + 0.8 * (images - soft)).clamp(-1, 1)


def test_a_run_and_its_replay_give_the_same_pixels(
    face_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks and steadiness come from the Basel mesh in both; the replay has none of the user's files."""
    clip, output = cut(face_clip, tmp_path / "short.mkv", 8), tmp_path / "out.mkv"
    with monkeypatch.context() as patch:
        patch.setattr("vidrestore.pipeline.load_bfm", lambda config: stand_in())
        config = load_config(overrides={"encode": {"codec": "ffv1"}, "track": {"model": "bfm"}})
        result = restore(clip, output, config, restorer=Sharpen(), sidecar=True)
    assert result.num_faces >= 8
    with VideoReader(output) as reader:
        first = [frame.planes for frame in reader.decode()]
    with RestoredVideo(clip, restorer=Sharpen(), tracks=sidecar_path(output)) as video:
        for planes, again in zip(first, video, strict=True):
            assert again.tracks
            for a, b in zip(planes, again.frame.planes, strict=True):
                np.testing.assert_array_equal(a, b)


def cut(clip: Path, target: Path, count: int) -> Path:
    """Its first frames, losslessly."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 384, 256, "yuv420p"
        for index, shown in zip(range(count), source.decode(video=0), strict=False):
            shown.pts, shown.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(shown))
        out.mux(stream.encode(None))
    return target


def test_the_stand_in_reads_only_its_own_model() -> None:
    with pytest.raises(ValueError, match="with its own scale and nod"):
        SyntheticD3dfr(synthetic_bfm(0, scale=2.0))


# --- the model in the tracker's frame -------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "nod"), [(1.1, 0.06), (0.5, -0.4), (20.0, 0.0)])
def test_the_frame_comes_from_the_models_own_landmarks(scale: float, nod: float) -> None:
    model = synthetic_bfm(0, scale=scale, nod=nod)
    frame = TrackerFrame.of(model, load_vr468())
    assert frame.scale == pytest.approx(1.0 / scale, rel=1e-4)
    assert frame.nod == pytest.approx(-nod, abs=1e-4)
    torch.testing.assert_close(frame.model(model).mean_shape, load_vr468().mean_shape, atol=2e-3, rtol=0)


def test_a_face_in_the_trackers_frame_is_the_same_face() -> None:
    frame, model = source().frame, reduced(bfm())
    coefficients = 0.3 * torch.randn(3, 257, generator=torch.Generator().manual_seed(0))
    own = model(coefficients, Camera())
    moved = source().mesh(frame.enter(coefficients), frame.camera(Camera()))
    torch.testing.assert_close(moved.points_px, own.points_px, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.colours, own.colours, atol=1e-2, rtol=0)
    torch.testing.assert_close(frame.leave(frame.enter(coefficients)), coefficients, atol=1e-5, rtol=0)


def test_its_five_points_and_distances_are_those_that_the_tracker_knows() -> None:
    zeros = np.zeros(80, np.float32)
    np.testing.assert_allclose(source().model.five(zeros), FaceModel().five(zeros), atol=1e-6)
    pixels = 1015.0 / float(source().model._viewing_distance)  # a unit's, at the distance where D3DFR wants a face
    eyes = source().model.five(zeros)[:2]
    points = FaceModel().five(zeros)[:, :2] * [100.0, -100.0]
    wanted = np.diff(apply(d3dfr_from_display(points), points)[:2, 0])[0]
    assert pixels * (eyes[1, 0] - eyes[0, 0]) == pytest.approx(wanted, rel=1e-4)


def test_a_model_without_the_usual_landmarks_is_refused() -> None:
    with pytest.raises(WeightsError, match="brows, eyes, nose and mouth lie"):
        BfmSource(_Told(), synthetic_model())


# --- mask and motion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [-0.7, 0.0, 0.7])
def test_the_mask_is_the_meshs_silhouette(yaw: float) -> None:
    head = Head(2, 100.0, 100.0, yaw=yaw)
    points = head.face.vertices[0].numpy() * [1.0, 1.0, CAMERA.focal / CAMERA.distance]
    whole = np.column_stack([head.face.points_px[0].numpy(), points[:, 2]]).astype(np.float32)
    mesh = whole[_kept()]
    _, drawn = render(head.face.points_px, head.face.depth, bfm().triangles, head.face.colours, SIZE)
    inside = drawn[0].numpy() > 0
    mask = mesh_mask(mesh, SIZE, 0.05, topology())
    assert (mask[inside] > 0.5).mean() > 0.93
    grown = (mask > 0.5).sum() / inside.sum()
    assert 1.0 < grown < 1.35, "it goes on into the hair, and not far"
    assert topology().top in _rim()
    assert topology().chin == int(source().mesh.landmarks[8])


def test_the_reduced_mesh_has_the_outline_of_the_full_one() -> None:
    head = Head(2, 100.0, 100.0, yaw=0.5)
    full = MeshTopology("full", bfm().triangles.numpy().astype(np.int32), 0, 0)
    whole = np.column_stack([head.face.points_px[0].numpy(), 38.0 * head.face.vertices[0, :, 2].numpy()])
    whole = whole.astype(np.float32)
    full = replace_ends(full)
    a = coarse_outline(whole, SIZE, 0.1, full)
    b = coarse_outline(whole[_kept()], SIZE, 0.1, topology())
    assert np.abs(a - b).mean() < 0.01
    assert np.abs(a - b).max() < 0.25


def test_motion_follows_the_mesh_of_the_other_model() -> None:
    meshes = []
    for yaw in (0.0, 0.3):
        face = Head(2, 100.0, 100.0, yaw=yaw).face
        whole = np.column_stack([face.points_px[0].numpy(), 38.0 * face.vertices[0, :, 2].numpy()])
        meshes.append(mesh_in_crop(np.eye(2, 3), whole[_kept()].astype(np.float32)))
    errors = []
    for given in (topology(), None):  # without triangles the best affine map has to do
        motion = mesh_motion([(meshes[0], meshes[1])], SIZE, DEVICE, given)[0].numpy()
        inner = source().mesh.landmarks.numpy()[27:]
        cells = np.clip(((meshes[1][inner, :2] + 0.5) * (50 / SIZE)).astype(int), 0, 49)
        found = motion[:, cells[:, 1], cells[:, 0]].T * (SIZE / 2)
        errors.append(float(np.linalg.norm(found - (meshes[0] - meshes[1])[inner, :2], axis=1).mean()))
    assert errors[0] < 0.7
    assert errors[0] < 0.5 * errors[1]


def test_a_mesh_that_is_too_small_for_its_topology_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have \d+ vertices, got 468"):
        coarse_outline(np.zeros((468, 3), np.float32), SIZE, 0.1, topology())


def _kept() -> NDArray[np.int64]:
    """Of the full model's vertices, those that the reduced one has."""
    mine = reduced(bfm()).mean_shape
    return torch.cdist(mine, bfm().mean_shape).argmin(1).numpy()


def _rim() -> set[int]:
    triangles = topology().triangles
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    edges, counts = np.unique(pairs, axis=0, return_counts=True)
    return set(edges[counts == 1].flatten().tolist())


def replace_ends(full: MeshTopology) -> MeshTopology:
    kept = _kept()
    return MeshTopology(full.name, full.triangles, int(kept[topology().top]), int(kept[topology().chin]))


# --- sidecars -------------------------------------------------------------------------------------------------------


def written(folder: Path) -> Path:
    """A sidecar of the moving head's first frames."""
    clip = folder / "clip.bin"
    clip.write_bytes(b"a clip")
    tracked, _, _ = followed()
    with SidecarWriter(folder / "clip.json", clip, info_of_frames(picture([], 0)), RestoreConfig()) as writer:
        for t in tracked[:4]:
            writer.add(t.frame, t.tracks)
        writer.seal()
        return writer.publish()


def test_a_replay_gives_the_same_mesh_coefficients_and_triangles(tmp_path: Path) -> None:
    path = written(tmp_path)
    frames = [t.frame for t in followed()[0][:4]]
    replay = Replay(path, tmp_path / "clip.bin", info_of_frames(picture([], 0)))
    topologies = set()
    for now, before in zip(replay.tracked(frames), followed()[0], strict=False):
        (a,), (b,) = now.tracks, before.tracks
        assert a.topology is not None
        topologies.add(id(a.topology))
        np.testing.assert_array_equal(a.mesh, b.mesh)
        np.testing.assert_array_equal(a.coefficients, b.coefficients)
        np.testing.assert_array_equal(a.topology.triangles, topology().triangles)
        assert (a.topology.name, a.topology.top, a.topology.chin) == ("bfm", topology().top, topology().chin)
    assert len(topologies) == 1, "steadiness tells meshes of one model by their one topology"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"model":"bfm"', '"model":"flame"', "lacks the triangles of its face model 'flame'"),
        ('"num_triangles":', '"num_triangles":1', "the triangles of 'bfm' are damaged"),
    ],
)
def test_a_sidecar_whose_model_is_not_known_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    frames = [t.frame for t in followed()[0][:4]]
    with pytest.raises(ConfigError, match=message):
        list(Replay(path, tmp_path / "clip.bin", info_of_frames(frames[0])).tracked(frames))


# --- the user's files -----------------------------------------------------------------------------------------------


def store_with(folder: Path, model: MorphableModel | None, *, regressor: bool) -> Path:
    """A weights folder as ``models convert`` leaves it."""
    store = WeightStore(folder)
    folder.mkdir(exist_ok=True)
    if model is not None:
        save_model(model, store.path("bfm2009"), {"name": "stand-in"}, half=False)
    if regressor:
        torch.manual_seed(0)
        save_file(D3dfr().state_dict(), store.path("d3dfr"))  # untrained: says "the mean face, seen from the front"
    for name, made in (("bfm2009", model is not None), ("d3dfr", regressor)):
        if made:
            store.keep(Receipt(name, "a file", "0" * 64, sha256_of(store.path(name)), True))
    return folder


def test_files_that_are_missing_or_unfit_are_named(tmp_path: Path) -> None:
    wants = RestoreConfig(track=TrackOptions(model="bfm"))
    assert load_bfm(RestoreConfig(), tmp_path) is None
    assert load_bfm(replace(wants, track=replace(wants.track, method="points")), tmp_path) is None
    with pytest.raises(WeightsError, match="models convert d3dfr"):
        load_bfm(wants, tmp_path / "empty")
    with torch.random.fork_rng():
        store_with(tmp_path / "half", None, regressor=True)
    with pytest.raises(WeightsError, match="models convert bfm2009"):
        load_bfm(wants, tmp_path / "half")
    store_with(tmp_path / "half", synthetic_model(), regressor=False)
    with pytest.raises(WeightsError, match=r"bfm2009\.safetensors: the mean face's brows"):
        load_bfm(wants, tmp_path / "half")
    with pytest.raises(ValueError, match=r"pipeline\.load_bfm"):
        make_tracker(wants.track, info_of_frames(picture([], 0)))


def test_the_published_network_drives_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D3DFR in its full size, untrained, says "the mean face, in the middle": so that face is read right where the crop
    is cut as the published code does. A stand-in as large as BFM: its mean face must fill the crop."""
    model = synthetic_bfm(scale=1.034, nod=0.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "vidrestore").mkdir()
    with torch.random.fork_rng():
        store_with(tmp_path / "vidrestore" / "weights", model, regressor=True)
    shown, frames = _mean_face(model)
    config = RestoreConfig(track=TrackOptions(model="bfm", lookahead=0, min_hits=1))
    tracker = make_tracker(config.track, info_of_frames(frames[0]), bfm=load_bfm(config))
    box = np.array([[*(shown.min(0) - 20), *(shown.max(0) + 20)]], np.float32)
    found = Detections(box, shown[None].astype(np.float32), np.array([0.9], np.float32))
    tracked = [t for frame in frames for t in tracker.update(frame, lambda _: found)] + tracker.flush()
    (track,) = tracked[-1].tracks
    assert track.topology is not None
    assert track.mesh is not None
    assert track.mesh.shape == (source().mesh.num_vertices, 3)
    eyes = float(shown[1, 0] - shown[0, 0])
    assert np.linalg.norm(track.landmarks - shown, axis=1).mean() < 0.1 * eyes
    assert list(track_frames([], info_of_frames(frames[0]), config)) == []


def _mean_face(model: MorphableModel) -> tuple[NDArray[np.float64], list[Frame]]:
    """Its five points, and three equal frames that show it as D3DFR's camera does."""
    face = model(torch.zeros(1, 257), Camera().scaled(SIZE))
    drawn, mask = render(face.points_px, face.depth, model.triangles, face.colours, SIZE)
    rgb = np.where(mask[0].numpy()[..., None] > 0, drawn[0].permute(1, 2, 0).numpy(), 100.0)
    points = model.landmarks3d(face.points_px)[0].double().numpy()
    five = np.stack([points[list(which)].mean(0) for which in FIVE_OF_68])
    return five, [frame_from_rgb(np.clip(rgb, 0, 255).astype(np.uint8), i) for i in range(3)]
