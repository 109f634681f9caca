"""Sidecars: written as frames come, read back bit by bit, edited, replayed, and refused where they do not fit."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidrestore.cli import ExitStatus, main
from vidrestore.config import RestoreConfig, load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import ConfigError, EncodeError
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.render import render
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.pipeline import RestoredVideo, restore
from vidrestore.sidecar import Replay, Sidecar, SidecarWriter, _decimals, sidecar_path
from vidrestore.types import CropContext, Frame, Pose, Track


def frame(index: int) -> Frame:
    return frame_from_rgb(np.zeros((48, 64, 3), np.uint8), index)


def track(track_id: int, seed: int = 0, vertices: int = 12) -> Track:
    rng = np.random.default_rng([track_id, seed])
    corner = rng.uniform(4, 16, 2)
    points = np.array([[3, 3], [9, 3], [6, 6], [4, 9], [8, 9]]) * rng.uniform(0.9, 1.1)
    return Track(
        id=track_id,
        box=np.concatenate([corner, corner + 12]).astype(np.float32),
        landmarks=(corner + points).astype(np.float32),
        score=float(rng.uniform()),
        strength=float(rng.uniform(0.3, 1)),
        pose=Pose(*rng.normal(0, 0.3, 3).tolist()),
        coefficients=rng.normal(0, 1, 257).astype(np.float32),
        missed=int(rng.integers(3)),
        anchors=(corner + points + 0.3).astype(np.float32),
        mesh=np.column_stack([corner + rng.uniform(0, 12, (vertices, 2)), rng.normal(0, 4, vertices)]).astype(
            np.float32
        ),
    )


FRAMES = [(frame(i), tuple(track(k, i) for k in range(i % 3))) for i in range(7)]


def write(folder: Path, frames: list[tuple[Frame, tuple[Track, ...]]] = FRAMES, name: str = "out.mkv") -> Path:
    source = folder / "in.bin"
    source.write_bytes(b"the very video")
    with SidecarWriter(sidecar_path(folder / name), source, info_of_frames(frame(0)), RestoreConfig()) as sidecar:
        for item, tracks in frames:
            sidecar.add(item, tracks)
        sidecar.seal()
        return sidecar.publish()


def replayed(path: Path, num_frames: int = 7) -> list[dict[int, Track]]:
    replay = Replay(path, path.parent / "in.bin", info_of_frames(frame(0)))
    return [{t.id: t for t in item.tracks} for item in replay.tracked(frame(i) for i in range(num_frames))]


def edit(path: Path, change: Callable[[dict[str, Any]], object], *, indent: int | None = 1) -> Path:
    whole = json.loads(path.read_text("utf-8"))
    change(whole)
    path.write_text(json.dumps(whole, indent=indent), "utf-8")
    return path


def mesh_of(found: Track) -> np.ndarray:
    assert found.mesh is not None
    return found.mesh


def assert_equal(a: Track, b: Track) -> None:
    for name in Track.__slots__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("layout", ["as written", "laid out by an editor"])
def test_tracks_come_back_bit_by_bit(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path)
    if layout != "as written":
        edit(path, lambda whole: None, indent=4)
    for (_, tracks), found in zip(FRAMES, replayed(path), strict=True):
        assert list(found) == [t.id for t in tracks]
        for t in tracks:
            assert_equal(found[t.id], t)
            assert mesh_of(found[t.id]).dtype == np.float32


def test_tracks_of_five_points_come_back_too(tmp_path: Path) -> None:
    plain = replace(track(3), pose=None, coefficients=None, anchors=None, mesh=None)
    found = replayed(write(tmp_path, [(frame(0), (plain,))]), 1)[0][3]
    assert_equal(found, plain)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_decimals_read_back_as_the_same_float32(values: list[float]) -> None:
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(np.array(json.loads(json.dumps(_decimals(array))), np.float32), array)


def test_a_person_who_is_not_to_be_restored_is_not(tmp_path: Path) -> None:
    path = edit(write(tmp_path), lambda whole: whole["people"][0].update(restore=False))
    assert all(0 not in tracks for tracks in replayed(path))
    assert any(1 in tracks for tracks in replayed(path))


def test_strengths_are_those_that_were_written(tmp_path: Path) -> None:
    def change(whole: dict[str, Any]) -> None:
        whole["people"][1]["strength"] = 0.5
        whole["frames"][1]["tracks"][0]["strength"] = 0.125

    found = replayed(edit(write(tmp_path), change))
    assert found[1][0].strength == 0.125
    assert found[2][1].strength == 0.5 * FRAMES[2][1][1].strength


def test_a_removed_track_and_a_removed_frame_have_no_face(tmp_path: Path) -> None:
    def change(whole: dict[str, Any]) -> None:
        whole["frames"][2]["tracks"].pop(0)
        whole["frames"].pop(1)

    found = replayed(edit(write(tmp_path), change))
    assert list(found[2]) == [1]
    assert found[1] == {}


def test_moved_points_are_exact_and_the_mesh_follows(tmp_path: Path) -> None:
    old = FRAMES[2][1][0]
    written: list[list[float]] = []

    def change(whole: dict[str, Any]) -> None:
        points = whole["frames"][2]["tracks"][0]["landmarks"]
        written.extend([x + 2.5, y - 1.0] for x, y in points)
        whole["frames"][2]["tracks"][0]["landmarks"] = written

    found = replayed(edit(write(tmp_path), change))[2][0]
    step = np.array([2.5, -1.0])
    np.testing.assert_array_equal(found.landmarks, np.array(written, np.float32))
    np.testing.assert_allclose(mesh_of(found)[:, :2], mesh_of(old)[:, :2] + step, atol=1e-3)
    np.testing.assert_allclose(found.alignment, old.alignment + step, atol=1e-3)
    assert found.anchors is not None


def test_a_box_that_was_moved_and_widened_takes_all_along(tmp_path: Path) -> None:
    old = FRAMES[2][1][0]

    def change(whole: dict[str, Any]) -> None:
        x0, y0, x1, y1 = whole["frames"][2]["tracks"][0]["box"]
        whole["frames"][2]["tracks"][0]["box"] = [x0 + 4, y0, x1 + 4 + (x1 - x0), y1 + (y1 - y0)]

    found = replayed(edit(write(tmp_path), change))[2][0]
    corner = old.box[:2]
    expected = corner + np.array([4, 0]) + 2 * (old.landmarks - corner)
    np.testing.assert_allclose(found.landmarks, expected, atol=1e-3)
    np.testing.assert_allclose(mesh_of(found)[:, 2], 2 * mesh_of(old)[:, 2], rtol=1e-5)


def test_a_face_by_hand_moves_between_its_boxes(tmp_path: Path) -> None:
    face = {"id": 90, "boxes": {"1": [10, 10, 20, 20], "5": [30, 10, 50, 30]}, "strength": 0.75}
    found = replayed(edit(write(tmp_path), lambda whole: whole["manual"].append(face)))
    assert [90 in tracks for tracks in found] == [False, True, True, True, True, True, False]
    assert found[3][90].box.tolist() == [20, 10, 35, 25]
    assert found[3][90].strength == 0.75
    inside = found[3][90].landmarks
    assert (inside >= [20, 10]).all()
    assert (inside <= [35, 25]).all()


def test_a_box_by_hand_replaces_the_track_of_its_id(tmp_path: Path) -> None:
    face = {"id": 1, "boxes": {"2": [1, 1, 9, 9]}}
    found = replayed(edit(write(tmp_path), lambda whole: whole["manual"].append(face)))
    assert found[2][1].box.tolist() == [1, 1, 9, 9]
    assert_equal(found[5][1], FRAMES[5][1][1])


def test_a_new_track_needs_no_more_than_a_box(tmp_path: Path) -> None:
    path = edit(write(tmp_path), lambda whole: whole["frames"][0]["tracks"].append({"id": 8, "box": [2, 2, 12, 14]}))
    found = replayed(path)[0][8]
    assert (found.strength, found.mesh, found.anchors) == (1.0, None, None)


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown field": (lambda w: w["frames"][2]["tracks"][0].update(adress=1), "adress"),
    "unknown table": (lambda w: w.update(command="rm"), "command"),
    "unknown format": (lambda w: w.update(format="vidrestore-sidecar-9"), "format"),
    "id twice": (lambda w: w["frames"][2]["tracks"].append(w["frames"][2]["tracks"][0]), "id twice"),
    "out of order": (lambda w: w["frames"].reverse(), "comes after"),
    "not a number": (lambda w: w["frames"][2]["tracks"][0].update(box=[0, 0, float("nan"), 4]), "box"),
    "far away": (lambda w: w["frames"][2]["tracks"][0].update(box=[0, 0, 1e300, 4]), "box"),
    "four points": (lambda w: w["frames"][2]["tracks"][0]["landmarks"].pop(), "landmarks"),
    "too strong": (lambda w: w["people"][0].update(strength=1.5), "strength"),
    "no frames": (lambda w: w.pop("frames"), "no list of frames"),
    "no boxes": (lambda w: w["manual"].append({"id": 5, "boxes": {}}), "boxes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_before_the_first_frame(tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    path = edit(write(tmp_path), change)
    with pytest.raises(ConfigError, match=message):
        Replay(path, tmp_path / "in.bin", info_of_frames(frame(0)))


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'{"frames": [\n'])
def test_what_is_no_sidecar_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError):
        Sidecar(path)


def test_a_box_without_area_is_refused(tmp_path: Path) -> None:
    path = edit(write(tmp_path), lambda w: w["frames"][2]["tracks"][0].update(box=[5, 5, 5, 9]))
    with pytest.raises(ConfigError, match="has no area"):
        replayed(path)


@pytest.mark.parametrize(
    "face",
    [
        "no base64!",
        base64.b64encode(b"no deflate").decode(),
        base64.b64encode(zlib.compress(b"short")).decode(),
        base64.b64encode(zlib.compress(b"\0" * 50_000_000)).decode(),
        base64.b64encode(zlib.compress(b"\xff" * 104)).decode(),
    ],
    ids=["alphabet", "deflate", "short", "bomb", "counts"],
)
def test_a_damaged_face_is_refused(tmp_path: Path, face: str) -> None:
    path = edit(write(tmp_path), lambda w: w["frames"][2]["tracks"][0].update(face=face))
    with pytest.raises(ConfigError, match="frame 2, id 0: the packed face is damaged"):
        replayed(path)


def test_the_sidecar_of_another_video_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "in.bin").write_bytes(b"the same size.")
    with pytest.raises(ConfigError, match=r"sidecar of another video.*contents"):
        replayed(path)
    with pytest.raises(ConfigError, match=r"sidecar of another video.*width"):
        Replay(path, tmp_path / "none", replace(info_of_frames(frame(0)), frame_width=65))


def test_other_times_are_refused_while_it_runs(tmp_path: Path) -> None:
    path = edit(write(tmp_path), lambda w: w["frames"][4].update(pts=77))
    with pytest.raises(ConfigError, match="frame 4 has pts 77"):
        replayed(path)


def test_nothing_stays_of_a_run_that_ended_early(tmp_path: Path) -> None:
    def run() -> None:
        with SidecarWriter(tmp_path / "a.json", tmp_path, info_of_frames(frame(0)), RestoreConfig()) as sidecar:
            sidecar.add(*FRAMES[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_sidecar_is_replaced_only_where_that_is_allowed(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(EncodeError, match="exists already"):
        write(tmp_path)


def test_a_long_sidecar_costs_no_memory(tmp_path: Path) -> None:
    one = track(0, vertices=468)
    path = write(tmp_path, [(frame(i), (one,)) for i in range(400)])
    assert path.stat().st_size > 2_000_000
    tracemalloc.start()
    try:
        assert sum(len(record.tracks) for record in Sidecar(path).frames()) == 400
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


class Sharpen:
    """A restorer that costs nothing and changes every pixel."""

    size = 96
    device = torch.device("cpu")

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        soft = torch.nn.functional.avg_pool2d(images, 5, 1, 2)
        return (images + 0.8 * (images - soft)).clamp(-1, 1)


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first ten frames of the committed clip."""
    path = tmp_path_factory.mktemp("clip") / "short.mkv"
    with av.open(str(Path(__file__).parent / "clips" / "faces.mkv")) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 384, 256, "yuv420p"
        for index, picture in zip(range(10), source.decode(video=0), strict=False):
            picture.pts, picture.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def run_with_sidecar(short_clip: Path) -> Path:
    output = short_clip.with_name("out.mkv")
    result = restore(
        short_clip, output, load_config(overrides={"encode": {"codec": "ffv1"}}), restorer=Sharpen(), sidecar=True
    )
    assert result.num_faces >= 15
    return sidecar_path(output)


def planes(clip: Path, tracks: Path | None) -> list[tuple[np.ndarray, ...]]:
    with RestoredVideo(clip, restorer=Sharpen(), tracks=tracks) as video:
        return [restored.frame.planes for restored in video]


def test_an_unedited_sidecar_gives_the_same_pixels(short_clip: Path, run_with_sidecar: Path) -> None:
    for first, second in zip(planes(short_clip, None), planes(short_clip, run_with_sidecar), strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_replay_does_not_detect(short_clip: Path, run_with_sidecar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a replay looked for faces")

    monkeypatch.setattr("vidrestore.pipeline.load_finder", fail)
    assert len(planes(short_clip, run_with_sidecar)) == 10


def test_a_person_taken_out_keeps_his_pixels(short_clip: Path, run_with_sidecar: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    path.write_bytes(run_with_sidecar.read_bytes())
    edit(path, lambda whole: [person.update(restore=False) for person in whole["people"]])
    with RestoredVideo(short_clip, restorer=Sharpen(), tracks=path) as video:
        assert sum(len(restored.tracks) for restored in video) == 0
    boxes = Sidecar(run_with_sidecar).people
    assert len(boxes) >= 2


def test_the_sidecar_tells_what_was_used(run_with_sidecar: Path, short_clip: Path) -> None:
    sidecar = Sidecar(run_with_sidecar)
    assert sidecar.settings["encode"]["codec"] == "ffv1"
    assert "device" not in sidecar.settings["restore"]
    assert all(len(digest) == 64 for digest in sidecar.weights.values())
    assert sidecar.num_frames == 10
    lines = run_with_sidecar.read_text("utf-8").splitlines()
    assert sum(line.startswith('{"index":') for line in lines) == 10


def test_the_command_replays_with_the_settings_of_the_run(
    short_clip: Path, run_with_sidecar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again.mkv"
    path = tmp_path / "edited.json"
    path.write_bytes(run_with_sidecar.read_bytes())
    edit(path, lambda w: w.update(frames=[f for f in w["frames"] if f["index"] == 3]))
    arguments = ["restore", str(short_clip), "-o", str(output), "--tracks", str(path), "--sidecar", "--json"]
    assert main(arguments) == ExitStatus.WHOLE
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["encode"]["codec"] == "ffv1"
    assert told["num_faces"] == 2
    assert sidecar_path(output).is_file()


def test_the_command_refuses_what_does_not_fit(
    run_with_sidecar: Path, face_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "o.mkv")
    assert main(["restore", str(face_clip), "-o", output, "--tracks", str(run_with_sidecar)]) == ExitStatus.USAGE
    assert "another video" in capsys.readouterr().err
    assert main(["restore", str(tmp_path), "-o", output, "--sidecar"]) == ExitStatus.USAGE
    assert "for videos" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def unseen_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of a head drawn with the 3D model, that moves to the right; the detector refuses it at ``BLIND``."""
    path = tmp_path_factory.mktemp("unseen") / "unseen.mkv"
    model = load_vr468()
    shape, colours = model.mean_shape.numpy() * [1, -1, 1], model.mean_texture.numpy()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv444p"
        for index in range(8):
            places = shape * 36.0 + [70 + index, 64, 0]
            drawn, mask = render(
                torch.tensor(places[None, :, :2], dtype=torch.float32),
                torch.tensor(1000.0 - places[None, :, 2], dtype=torch.float32),
                model.triangles,
                torch.tensor(colours[None], dtype=torch.float32),
                160,
            )
            picture = np.full((160, 160, 3), 90.0)
            inside = mask[0].numpy() > 0
            picture[inside] = 0.5 * drawn[0].permute(1, 2, 0).numpy()[inside]
            shown = av.VideoFrame.from_ndarray(np.clip(picture[:120], 0, 255).astype(np.uint8), format="rgb24")
            shown.pts = index
            out.mux(stream.encode(shown.reformat(format="yuv444p")))
        out.mux(stream.encode(None))
    return path


BLIND = ["--set", "detect.score_threshold=0.99", "--quiet"]
BOX_BY_HAND = [46.0, 28.0, 94.0, 93.0]


def test_a_drawn_box_is_restored_where_the_detector_finds_nothing(unseen_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "tracks.json"
    assert main(["tracks", str(unseen_clip), "-o", str(path), *BLIND]) == ExitStatus.WHOLE
    assert all(not found.tracks for found in Sidecar(path).frames())
    face = {"id": 3, "boxes": {"0": BOX_BY_HAND, "7": [x + 7 * (i % 2 == 0) for i, x in enumerate(BOX_BY_HAND)]}}
    edit(path, lambda whole: whole["manual"].append(face))
    with VideoReader(unseen_clip) as reader:
        before = [frame.planes for frame in reader.decode()]
    after = planes(unseen_clip, path)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        changed = np.abs(old[0].astype(int) - new[0]) > 0
        x0, y0, x1, y1 = (round(v) for v in BOX_BY_HAND)
        assert changed[y0 + 20 : y1 - 15, x0 + index + 12 : x1 + index - 12].mean() > 0.3
        assert not changed[:, :20].any()
        assert not changed[:, 140:].any()


def test_a_drawn_box_is_followed(unseen_clip: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "tracks.json", tmp_path / "followed.json"
    assert main(["tracks", str(unseen_clip), "-o", str(first), *BLIND]) == ExitStatus.WHOLE
    edit(first, lambda whole: whole["manual"].append({"id": 3, "boxes": {"0": BOX_BY_HAND}}))
    command = ["tracks", str(unseen_clip), "-o", str(second), "--drawn", str(first), *BLIND]
    assert main(command) == ExitStatus.WHOLE
    found = [{track.id: track for track in line.tracks} for line in Sidecar(second).frames()]
    assert [set(tracks) for tracks in found] == [{0}] * 8
    way = found[7][0].box[0] - found[0][0].box[0]
    assert 4.0 < way < 10.0
