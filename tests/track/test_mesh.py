"""The tracker that carries a 3D face: what it follows, when it asks the detector, whom it knows again."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from heads import (
    SIZE,
    Head,
    KnowingReader,
    Run,
    detections,
    face_model,
    follow,
    lip_gap,
    morphable,
    picture,
    stream,
)
from numpy.typing import NDArray

from vidrestore.config import TrackOptions
from vidrestore.geometry import apply, mean_scale
from vidrestore.morphable.camera import Camera
from vidrestore.picture import frame_from_rgb, rgb_from_frame
from vidrestore.restoration.align import crop_from_display
from vidrestore.track.face import FaceReader, crop_at, difference
from vidrestore.track.mesh import MeshTracker
from vidrestore.types import Detections, Frame


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = FaceReader(stream())
    torch.set_num_threads(threads)
    return made


def nodding(index: int) -> list[Head]:
    return [Head(1, 60 + 1.0 * index, 84 + 6 * math.sin(index / 5), yaw=0.35 * math.sin(index / 8))]


def still(index: int) -> list[Head]:
    return [Head(1, 80, 80)]


def nobody(frame: Frame) -> Detections:
    return Detections.none()


# --- with the real regressor, on drawn heads -------------------------------------------------------------------------


def test_a_head_is_followed_between_key_frames(reader: FaceReader) -> None:
    run = follow(nodding, 30, reader=reader, draws=True)
    person = run.of(0)
    assert run.ids == {0}
    assert sorted(person) == list(range(30))
    assert len(run.asked) <= 6
    away = [np.linalg.norm(person[i].alignment - nodding(i)[0].anchors, axis=1).mean() for i in range(30)]
    assert np.mean(away) < 0.08 * 21, "of the eyes' distance"
    pose = person[12].pose
    assert pose is not None
    assert pose.yaw > 0.12, "the nose is to the right"
    assert abs(pose.pitch) < 0.15


def test_lips_follow_at_once_and_do_not_move_the_crop(reader: FaceReader) -> None:
    def talking(index: int) -> list[Head]:
        return [Head(1, 80, 80, mouth=1.0 + math.sin(index * 1.1))]

    for options in (TrackOptions(), TrackOptions(lookahead=0, min_hits=1)):
        run = follow(talking, 36, options, reader=reader, draws=True)
        person = run.of(0)
        inner = range(6, 30)
        gaps = np.array([lip_gap(_mesh(person[i].mesh)) for i in range(36)])
        true = np.array([lip_gap(talking(i)[0].mesh) for i in range(36)])
        by_lag = {lag: np.corrcoef(gaps[6 + lag : 30 + lag], true[list(inner)])[0, 1] for lag in (-2, -1, 0, 1, 2)}
        assert max(by_lag, key=lambda lag: float(by_lag[lag])) == 0
        assert by_lag[0] > 0.85
        anchors = np.array([person[i].alignment for i in inner])
        corners = np.array([talking(i)[0].mesh[[13, 14], :2] for i in inner])
        assert anchors.std(0).max() < 0.25 * corners.std(0).max()


def test_a_frame_turned_on_its_side_gives_the_same_face(reader: FaceReader) -> None:
    frame = picture([Head(1, 80, 80, roll=0.1)], 0)
    m = crop_at(Head(1, 80, 80, roll=0.1).anchors)
    (upright,) = reader.read([frame], [m])
    turned = replace(frame, planes=tuple(np.ascontiguousarray(np.rot90(plane)) for plane in frame.planes))
    # rot90 turns counter-clockwise: display (x, y) lies at frame (y, width - 1 - x)
    info = replace(stream(), display_from_frame=np.array([[0.0, -1.0, SIZE - 1.0], [1.0, 0.0, 0.0]]), rotation=90)
    (again,) = FaceReader(info).read([turned], [m])
    np.testing.assert_allclose(again.pose, upright.pose, atol=2e-2)


def test_coefficients_show_the_same_face_in_the_aligned_crop() -> None:
    head = Head(1, 300.0, 200.0, scale=90.0, yaw=0.4, roll=-0.3, mouth=1.0)
    model = face_model()
    m = crop_at(head.anchors)
    np.testing.assert_allclose(m, crop_from_display(head.anchors, 128), atol=1e-9)
    light = np.zeros(27, np.float32)
    values = model.coefficients(head.pose, head.identity, head.expression, head.texture, light, m)
    seen = morphable()(torch.from_numpy(values[None]), Camera().scaled(128)).points_px[0].numpy()
    expected = apply(m, head.mesh[:, :2])
    assert np.abs(seen - expected).max() < 0.02 * 128
    assert np.abs(seen - expected).mean() < 0.005 * 128
    assert mean_scale(m) == pytest.approx(31.5 / (0.59 * 90), rel=0.15)


def test_what_is_drawn_of_a_reading_is_what_the_model_draws() -> None:
    values = torch.randn(3, 257, generator=torch.Generator().manual_seed(0)) * 0.3
    camera = Camera().scaled(128)
    expected = morphable()(values, camera)
    drawn = face_model().lit(values.numpy(), camera)
    np.testing.assert_allclose(drawn.points, expected.points_px, atol=1e-2)
    np.testing.assert_allclose(drawn.facing, expected.normals[..., 2], atol=1e-3)
    luma = expected.colours.numpy() @ np.float32([0.299, 0.587, 0.114])
    np.testing.assert_allclose(drawn.luma, luma, atol=0.1)


# --- whom it knows, when it asks: with a reader that knows the scene -------------------------------------------------


def test_the_detector_looks_less_and_less_while_nothing_happens() -> None:
    run = follow(still, 60)
    assert run.asked[0] == 0
    gaps = np.diff(run.asked)
    assert (np.diff(gaps) >= 0).all()
    assert gaps[0] == TrackOptions().shortest_gap
    assert gaps[-1] == TrackOptions().longest_gap
    assert {track.strength for track in run.of(0).values()} == {1.0}


def test_every_frame_comes_out_once_and_in_order() -> None:
    for lookahead in (0, 1, 5, 16, 40):
        run = follow(still, 30, TrackOptions(lookahead=lookahead), shots=[0] * 11 + [1] * 1 + [2] * 18)
        assert [t.frame.index for t in run.tracked] == list(range(30))
        assert [t.tracks[0].id for t in run.tracked if t.tracks][-1] == 2


def test_live_frames_come_out_at_once_and_follow_a_steady_motion_without_lag() -> None:
    def passing(index: int) -> list[Head]:
        return [Head(1, 40 + 2.0 * index, 80)]

    run = follow(passing, 40, TrackOptions(lookahead=0, min_hits=2))
    person = run.of(0)
    assert min(person) == 1
    assert np.abs(person[30].alignment - passing(30)[0].anchors).max() < 0.2


def test_a_lost_face_is_looked_for_at_once_and_fades_before_it_is_gone() -> None:
    def leaving(index: int) -> list[Head]:
        return still(index) if index < 33 else []

    run = follow(leaving, 70)
    assert 33 in run.asked, "asked in the very frame in which it was lost"
    person = run.of(0)
    strengths = np.array([person[i].strength if i in person else 0.0 for i in range(70)])
    assert strengths[20] == 1.0
    assert strengths[32] <= 1 / 6 + 1e-9
    assert strengths[35:].max() == 0.0
    assert np.abs(np.diff(strengths)).max() <= 1 / 6 + 1e-9


def test_a_hidden_face_keeps_its_id_and_is_bridged() -> None:
    def hidden(index: int) -> list[Head]:
        return [] if 20 <= index < 25 else [Head(1, 50 + index, 80)]

    run = follow(hidden, 50)
    person = run.of(0)
    assert run.ids == {0}
    assert sorted(person) == list(range(50))
    assert person[22].missed == 3
    assert np.abs(person[22].alignment - Head(1, 72, 80).anchors).max() < 1.0


def test_somebody_who_comes_back_is_known_and_somebody_else_is_not() -> None:
    def visit(index: int) -> list[Head]:
        if index < 25:
            return [Head(1, 60, 80)]
        if index < 60:
            return []
        return [Head(1 if index < 100 else 2, 100, 80)] if not 85 <= index < 100 else []

    run = follow(visit, 130)
    assert set(run.of(0)) >= {10, 75}
    assert min(run.of(1)) >= 99
    assert run.ids == {0, 1}


def test_two_people_who_cross_keep_their_ids() -> None:
    def crossing(index: int) -> list[Head]:
        left, right = Head(1, 20 + 3 * index, 80), Head(2, 140 - 3 * index, 82)
        return [left, right] if abs(left.x - right.x) > 16 else [left]  # the other one is behind

    run = follow(crossing, 41)
    assert run.ids == {0, 1}
    first = run.of(0)
    assert first[2].box[[0, 2]].mean() < 60
    assert first[40].box[[0, 2]].mean() > 100
    assert run.of(1)[40].box[[0, 2]].mean() < 60


def test_a_face_that_appears_between_key_frames_is_followed_back_to_its_first_frame() -> None:
    def appearing(index: int) -> list[Head]:
        return [Head(1, 50, 80)] + ([Head(2, 110 - index / 4, 80)] if index >= 23 else [])

    run = follow(appearing, 60)
    assert 23 not in run.asked
    assert min(run.of(1)) == 23
    assert run.of(1)[23].strength == pytest.approx(1 / 6)


def test_a_cut_ends_everybody_and_asks_the_detector() -> None:
    def scene(index: int) -> list[Head]:
        return [Head(1, 60 if index < 20 else 90, 80)]

    run = follow(scene, 40, shots=[0] * 20 + [1] * 20)
    assert 20 in run.asked
    assert {t.tracks[0].id for t in run.tracked[:20]} == {0}
    assert {t.tracks[0].id for t in run.tracked[20:]} == {1}
    np.testing.assert_allclose(run.of(0)[19].alignment, Head(1, 60, 80).anchors, atol=1e-3)
    np.testing.assert_allclose(run.of(1)[20].alignment, Head(1, 90, 80).anchors, atol=1e-3)


def test_an_unsure_detection_that_is_no_face_is_refused_and_a_sure_one_followed_by_its_points() -> None:
    def look(score: float) -> Run:
        return follow(lambda index: [], 30, look=lambda frame: detections(still(0), score))

    assert look(0.7).ids == set()
    drawn = look(0.9)
    assert sorted(drawn.of(0)) == list(range(30))
    assert drawn.of(0)[5].mesh is None
    assert drawn.of(0)[5].anchors is None
    assert drawn.asked == list(range(30)), "nothing else can follow it"


def test_a_face_that_the_detector_confirms_is_not_dropped_when_it_cannot_be_read() -> None:
    class Blind(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            return [
                replace(look, likeness=0.1) if frame.index >= 10 else look
                for frame, look in zip(frames, looks, strict=True)
            ]

    run = follow(nodding, 40, reader=Blind(nodding), look=lambda frame: detections(nodding(frame.index)))
    assert run.ids == {0}
    assert sorted(run.of(0)) == list(range(40))
    away = [np.linalg.norm(run.of(0)[i].box - nodding(i)[0].box) for i in range(40)]
    assert max(away) < 6.0


def test_a_given_box_counts_where_the_detector_finds_nothing() -> None:
    x0, y0, x1, y1 = still(0)[0].box
    run = follow(still, 40, look=nobody, given={12: [(x0, y0, x1, y1)]})
    assert set(run.of(0)) >= set(range(12, 40))
    assert min(run.of(0)) < 12, "and back to where the detector looked before"
    assert follow(still, 40, look=nobody).ids == set()


def test_what_is_one_face_is_one_track() -> None:
    def twice(frame: Frame) -> Detections:
        return detections([Head(1, 80, 80), Head(1, 82, 84, scale=30.0)])

    assert all(len(t.tracks) == 1 for t in follow(still, 20, look=twice).tracked)


def test_smoothing_takes_the_tremble_out_of_the_crop() -> None:
    run = follow(still, 80, reader=KnowingReader(still, tremble=1.0))
    nose = np.array([run.of(0)[i].alignment[2] for i in range(10, 70)])
    assert np.diff(nose, axis=0).std() < 0.3 * math.sqrt(2.0)


def test_two_runs_agree_to_the_bit(reader: FaceReader) -> None:
    a, b = (follow(nodding, 10, reader=reader, draws=True) for _ in range(2))
    for i in range(10):
        np.testing.assert_array_equal(a.of(0)[i].mesh, b.of(0)[i].mesh)
        np.testing.assert_array_equal(a.of(0)[i].coefficients, b.of(0)[i].coefficients)


def test_memory_does_not_grow_with_the_clip() -> None:
    def coming_and_going(index: int) -> list[Head]:
        return [Head(index // 60, 80, 80)] if index % 60 < 35 else []

    tracker = MeshTracker(TrackOptions(), KnowingReader(coming_and_going), (SIZE, SIZE))
    frame = picture([], 0)
    for index in range(720):
        tracker.update(replace(frame, index=index), lambda seen: detections(coming_and_going(seen.index)))
    assert len(tracker._people) <= 3
    assert len(tracker._gallery) <= 32
    assert all(len(person.indices) < 60 for person in tracker._people)
    assert len(tracker._waiting) == TrackOptions().lookahead


def test_a_patch_of_a_face_does_not_depend_on_the_faces_size(reader: FaceReader) -> None:
    head, other = Head(1, 80, 80), Head(1, 80, 80, mouth=1.0)
    rgb = rgb_from_frame(picture([head], 0))
    enlarged = cv2.resize(rgb, (4 * SIZE, 4 * SIZE), interpolation=cv2.INTER_CUBIC)
    small = reader.glance(picture([head], 0), head.anchors)
    large = reader.glance(frame_from_rgb(np.asarray(enlarged, np.uint8), 0), 4.0 * head.anchors + 1.5)
    opened = reader.glance(picture([other], 0), head.anchors)
    assert small.shape == large.shape == (34, 32)
    assert difference(small, large) < 4.0
    assert difference(small, opened) > 2.0 * difference(small, large)


# --- what is read, rejected, held ------------------------------------------------------------------------------------


def test_a_face_that_does_nothing_is_hardly_read_and_a_short_word_in_between_is_seen() -> None:
    def speaks_once(index: int) -> list[Head]:
        return [Head(1, 80, 80, mouth={51: 0.7, 52: 1.4, 53: 0.7}.get(index, 0.0))]

    quiet, spoken = KnowingReader(still), KnowingReader(speaks_once)
    run = follow(still, 96, reader=quiet)
    assert quiet.num_read < 0.3 * 96
    assert all(track.missed == 0 for track in run.of(0).values()), "not read is not unseen"
    person = follow(speaks_once, 96, reader=spoken).of(0)
    for index in (50, 51, 52, 53, 54):
        assert lip_gap(_mesh(person[index].mesh)) == pytest.approx(lip_gap(speaks_once(index)[0].mesh), abs=0.15)


def test_a_steady_walk_is_read_as_rarely_as_standing() -> None:
    def walking(index: int) -> list[Head]:
        return [Head(1, 30 + 1.2 * index, 80)]

    reader = KnowingReader(walking)
    person = follow(walking, 84, reader=reader).of(0)
    assert reader.num_read < 0.5 * 84
    assert max(np.abs(person[i].alignment - walking(i)[0].anchors).max() for i in range(10, 74)) < 0.3


def test_readings_that_something_spoils_do_not_move_the_crop() -> None:
    class Spoiled(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            return [
                replace(look, pose=look.pose + np.array([0.2, 0.0, 0.1, 0.05, 6.0, -4.0]), likeness=0.5)
                if frame.index in (30, 31, 32)
                else look
                for frame, look in zip(frames, looks, strict=True)
            ]

    run = follow(nodding, 60, reader=Spoiled(nodding))
    for index in (*range(24, 30), *range(33, 39)):
        off = np.abs(run.of(0)[index].alignment - nodding(index)[0].anchors).max()
        assert off < 1.0, f"frame {index}"


def test_a_face_that_is_hidden_for_long_is_not_painted_over() -> None:
    def hidden(index: int) -> list[Head]:
        return [] if 20 <= index < 40 else [Head(1, 50 + index / 2, 80)]

    run = follow(hidden, 64, TrackOptions(max_missed=30))
    person = run.of(0)
    assert run.ids == {0}
    assert not set(person) & set(range(28, 38)), "at strength 0 nothing comes out"
    assert person[23].missed == 4
    assert person[23].strength < 0.6
    assert person[50].strength == 1.0
    steps = np.diff([person[i].strength if i in person else 0.0 for i in range(64)])
    assert np.abs(steps).max() <= 1 / 6 + 1e-9


def test_a_face_that_never_looks_like_its_mesh_is_not_doubted_in_every_frame() -> None:
    class Dim(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            dim = 0.38 + 0.04 * math.sin(frames[0].index) if frames else 0.0
            return [replace(k, likeness=dim if f.index > 8 else k.likeness) for f, k in zip(frames, looks, strict=True)]

    run = follow(still, 90, reader=Dim(still))
    assert sorted(run.of(0)) == list(range(90))
    assert len(run.asked) <= 16


def test_a_face_at_the_edge_keeps_its_size_though_the_detector_sees_a_part_of_it() -> None:
    def leaving(index: int) -> list[Head]:
        return [Head(1, 110 + 0.8 * index, 80)]  # its middle leaves the picture of 160 px after frame 62

    def look(frame: Frame) -> Detections:
        found = detections(leaving(frame.index))
        inside = np.clip(found.boxes, 0, SIZE)
        return replace(found, boxes=inside) if inside[0, 2] - inside[0, 0] > 10 else nobody(frame)

    person = follow(leaving, 60, look=look).of(0)
    for index in range(60):
        whole = leaving(index)[0].box
        np.testing.assert_allclose(person[index].box, np.clip(whole, 0, SIZE), atol=1.5, err_msg=f"frame {index}")


def test_a_face_that_comes_out_from_behind_another_is_followed_back_to_where_it_was_half_hidden() -> None:
    class Half(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            return [
                replace(k, likeness=0.3) if f.index < 30 and k.pose[4] > 80 else k
                for f, k in zip(frames, looks, strict=True)
            ]

    def scene(index: int) -> list[Head]:
        return [Head(1, 60, 80)] + ([Head(2, 105 + 0.5 * (index - 24), 80)] if index >= 24 else [])

    run = follow(scene, 60, reader=Half(scene))
    half_hidden = [index for index in run.asked if 24 <= index < 30]
    assert half_hidden, "the detector saw it so"
    assert min(run.of(1)) == half_hidden[0]


def test_one_detection_beside_the_face_does_not_move_its_box() -> None:
    def look(frame: Frame) -> Detections:
        found = detections(still(0))
        return replace(found, boxes=found.boxes + np.float32([0, 0, 14, 12])) if frame.index == 27 else found

    run = follow(still, 60, look=look)
    assert 27 in run.asked
    assert max(np.abs(track.box - still(0)[0].box).max() for track in run.of(0).values()) < 2.0


def test_somebody_who_comes_shortly_before_a_cut_is_found() -> None:
    def scene(index: int) -> list[Head]:
        return [Head(1, 50, 80)] + ([Head(2, 115, 80)] if 34 <= index < 44 else [])

    run = follow(scene, 60, shots=[0] * 44 + [1] * 16)
    assert set(run.of(1)) >= set(range(36, 44))


def test_a_face_that_shows_itself_half_from_behind_another_is_the_one_that_went_there() -> None:
    class Half(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            return [
                replace(k, likeness=0.2, identity=k.identity + 1.0) if 35 <= f.index < 44 and k.pose[4] > 90 else k
                for f, k in zip(frames, looks, strict=True)
            ]

    def scene(index: int) -> list[Head]:
        walker = [] if 20 <= index < 35 else [Head(2, 92 + max(0, index - 35) * 0.8 if index >= 35 else 110.0, 80)]
        return [Head(1, 64, 80), *walker]

    run = follow(scene, 90, reader=Half(scene))
    assert run.ids == {0, 1}
    who = min(run.tracked[10].tracks, key=lambda t: -float(t.box[0])).id
    assert all(max(t.tracks, key=lambda x: float(x.box[0])).id == who for t in run.tracked[60:])


def test_a_face_that_could_not_be_read_at_first_gets_its_mesh_later() -> None:
    class Late(KnowingReader):
        def read(self, frames, maps):  # type: ignore[no-untyped-def]
            looks = super().read(frames, maps)
            return [replace(k, likeness=0.1) if f.index < 12 else k for f, k in zip(frames, looks, strict=True)]

    run = follow(still, 60, reader=Late(still))
    person = run.of(0)
    assert run.ids == {0}
    assert sorted(person) == list(range(60))
    assert person[5].mesh is None
    assert person[30].mesh is not None
    assert {track.strength for track in person.values()} == {1.0}
    assert len(run.asked) < 30


def _mesh(mesh: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert mesh is not None
    return mesh
