"""Clips with known truth: the truth is where the picture shows it, and what is committed fits together."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vidrestore.detect.yunet import YuNet
from vidrestore.errors import ConfigError
from vidrestore.evaluate.image import psnr
from vidrestore.evaluate.motion import openings
from vidrestore.geometry import apply
from vidrestore.train.clips import (
    LEVELS,
    SCENES,
    ClipTruth,
    Role,
    Scene,
    Shot,
    make_clip,
    make_clips,
    render,
    write_video,
)
from vidrestore.train.puppets import SIDE, Puppet, five_points, frame_from_face, picture_of, pose

CLIPS = Path(__file__).parent.parent / "clips"


def frames(name: str) -> list[np.ndarray]:
    with av.open(str(CLIPS / name)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def truth() -> ClipTruth:
    return ClipTruth.read(CLIPS / "temporal.json")


@pytest.fixture(scope="module")
def puppet() -> Puppet:
    """The points of a committed person, and a picture of soft noise."""
    stored = json.loads((CLIPS / "temporal.json").read_text("utf-8"))["people"]
    from vidrestore.train.clips import _stored_puppet

    number, text = next(iter(stored.items()))
    noise = np.random.default_rng(0).uniform(0, 255, (24, 24, 3)).astype(np.float32)
    picture = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    points = _stored_puppet(int(number), text).points[:1]
    return Puppet(int(number), picture[None], points)


def move(**values: float) -> np.ndarray:
    names = ("x", "y", "scale", "roll", "yaw", "pitch", "mouth", "blink", "key")
    base = {"x": 255.5, "y": 300.0, "scale": 1.0}
    return np.array([values.get(name, base.get(name, 0.0)) for name in names])


def test_the_committed_files_are_small_and_of_one_length(truth: ClipTruth) -> None:
    assert sum(path.stat().st_size for path in CLIPS.glob("temporal*")) < 400_000
    assert len(frames("temporal.mkv")) == len(frames("temporal_clean.mkv")) == len(truth.frames) == 44
    assert (truth.shots[0], truth.shots[-1]) == (0, 1)
    assert len(truth.people) == 3


def test_the_degraded_clip_shows_the_clean_one(truth: ClipTruth) -> None:
    for bad, clean in list(zip(frames("temporal.mkv"), frames("temporal_clean.mkv"), strict=True))[::11]:
        assert 20 < psnr(bad, clean) < 40


def test_the_truth_is_where_a_detector_sees_the_faces(truth: ClipTruth) -> None:
    finder, checked = YuNet(0.6), 0
    clean = frames("temporal_clean.mkv")
    for index in (0, 4, 20, 24, 43):
        found = finder.detect(cv2.resize(clean[index], None, fx=2, fy=2)).landmarks / 2
        for face in truth.frames[index]:
            if face.visible < 0.95:
                continue
            unit = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
            errors = np.linalg.norm(found - face.landmarks[None], axis=-1).mean(1) / unit
            assert errors.min() < 0.12
            checked += 1
    assert checked >= 6


def test_people_cross_and_one_hides_the_other(truth: ClipTruth) -> None:
    first, second = truth.people[:2]

    def centre(index: int, person: int) -> float:
        return float(next(f for f in truth.frames[index] if f.person == person).box[[0, 2]].mean())

    assert centre(0, first) < centre(0, second)
    assert centre(23, first) > centre(23, second)
    hidden = [f.visible for faces in truth.frames[:24] for f in faces if f.person == first]
    assert min(hidden) < 0.5 < hidden[0]
    assert sum(not face.counts for faces in truth.frames for face in faces) > 0


def test_the_hand_hides_a_part_and_goes(truth: ClipTruth) -> None:
    visible = [faces[0].visible for faces in truth.frames[24:]]
    assert min(visible) < 0.8
    assert visible[0] > 0.95


def test_people_speak_and_blink(truth: ClipTruth) -> None:
    points = np.stack([faces[0].points for faces in truth.frames[24:]])
    found = openings(points)
    mouths = np.array([faces[0].mouth for faces in truth.frames[24:]])
    blinks = np.array([faces[0].blink for faces in truth.frames[24:]])
    assert np.ptp(found.mouth) > 0.1
    assert np.corrcoef(found.mouth, mouths)[0, 1] > 0.9
    assert np.corrcoef(found.lids, blinks)[0, 1] < -0.9


def test_a_jaw_that_turns_opens_the_mouth_and_leaves_the_eyes(puppet: Puppet) -> None:
    shut, half, wide = (pose(puppet, move(mouth=share)) for share in (0.0, 0.5, 1.0))
    mouths = [openings(p[None]).mouth[0] for p in (shut, half, wide)]
    assert mouths[0] < mouths[1] < mouths[2]
    assert mouths[2] - mouths[0] > 0.2
    np.testing.assert_allclose(wide[[33, 263, 10, 13]], shut[[33, 263, 10, 13]], atol=1e-9)


def test_a_blink_closes_the_lids(puppet: Puppet) -> None:
    lids = [openings(pose(puppet, move(blink=share))[None]).lids[0] for share in (0.0, 1.0)]
    assert lids[1] < 0.2 * lids[0]


def test_a_turn_has_the_signs_of_a_pose(puppet: Puppet) -> None:
    ahead, aside = pose(puppet, move()), pose(puppet, move(yaw=0.3))
    assert aside[4, 0] - aside[[33, 263], 0].mean() > ahead[4, 0] - ahead[[33, 263], 0].mean() + 10
    lowered = pose(puppet, move(pitch=0.3))
    assert lowered[4, 1] - lowered[[33, 263], 1].mean() > ahead[4, 1] - ahead[[33, 263], 1].mean() + 5
    turned = frame_from_face(move(roll=0.2))
    left, right = apply(turned, ahead[[33, 263], :2])
    assert right[1] > left[1]


def test_a_puppet_at_rest_is_its_picture(puppet: Puppet) -> None:
    found = picture_of(puppet, move())
    assert np.abs(found - puppet.pictures[0]).mean() < 0.3


@pytest.mark.parametrize("vertex", [4, 152, 50, 280, 10])
def test_a_dot_on_the_skin_goes_where_the_truth_says(puppet: Puppet, vertex: int) -> None:
    at = puppet.points[0, vertex, :2]
    y, x = np.mgrid[:SIDE, :SIDE]
    dot = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 3.0**2))
    picture = np.repeat(dot[..., None], 3, 2).astype(np.uint8)
    moved = move(yaw=0.2, pitch=-0.1, mouth=0.4)
    shown = (
        picture_of(Puppet(0, picture[None], puppet.points), moved)[..., 0].clip(70, None) - 70
    )  # what an open mouth shows is darker
    centre = np.array([(shown * x).sum(), (shown * y).sum()]) / shown.sum()
    np.testing.assert_allclose(centre, pose(puppet, moved)[vertex, :2], atol=2.0)


def small_scene(num_frames: int = 4) -> Scene:
    moves = np.stack([move(x=48 + i, y=32, scale=0.16, yaw=0.05 * i) for i in range(num_frames)])
    moves[-1] = np.nan
    return Scene(1, 96, 64, (Shot(num_frames, 1, (Role(0, moves),), lures=1),))


def test_a_clip_that_is_written_reads_back_as_it_was_drawn(tmp_path: Path, puppet: Puppet) -> None:
    told = make_clip(tmp_path, "small", small_scene(), [puppet], LEVELS["tape"])
    drawn = [faces for _, faces, _ in render(small_scene(), [puppet])]
    assert [len(faces) for faces in told.frames] == [1, 1, 1, 0]
    for mine, other in zip(told.frames[:3], drawn, strict=False):
        np.testing.assert_allclose(mine[0].points, other[0].points, atol=0.02)
        assert mine[0].pose.yaw == pytest.approx(other[0].pose.yaw, abs=1e-4)
        np.testing.assert_allclose(mine[0].landmarks, five_points(mine[0].points))
    assert {path.name for path in tmp_path.iterdir()} == {"small.mkv", "small_clean.mkv", "small.json"}


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    pictures = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(5)]
    for name in ("a.mkv", "b.mkv"):
        write_video(tmp_path / name, pictures, "mpeg2video", 8)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.mkv", "b.mkv"))
    assert len(first) == len(second)
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_has_the_frames_that_were_asked_for(name: str) -> None:
    scene = SCENES[name](24, np.random.default_rng(0))
    assert sum(shot.num_frames for shot in scene.shots) == 24
    for shot in scene.shots:
        for role in shot.roles:
            assert role.moves.shape == (shot.num_frames, 9)
            assert role.person < scene.num_people
            assert (role.moves[:, 6:] >= 0).all()
            assert (role.moves[:, 6:] <= 1).all()


def test_what_is_unknown_or_missing_is_refused(tmp_path: Path, puppet: Puppet) -> None:
    with pytest.raises(ConfigError, match="unknown scene"):
        make_clips(tmp_path, tmp_path, scenes=["fly"])
    with pytest.raises(ConfigError, match="12 frames or more"):
        make_clips(tmp_path, tmp_path, num_frames=3)
    with pytest.raises(ConfigError, match="wants 1 people, got 0"):
        next(render(small_scene(), []))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="no truth of a clip"):
        ClipTruth.read(tmp_path / "x.json")
