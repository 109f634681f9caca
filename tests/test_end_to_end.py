"""Real clips through the whole pipeline: nothing lost, nothing touched but faces, and the faces better than before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch

import vidrestore
from vidrestore.config import load_config
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import DecodeError, VidrestoreError
from vidrestore.evaluate.image import psnr
from vidrestore.geometry import apply
from vidrestore.kernels import sample_crops
from vidrestore.picture import frame_from_rgb, info_of_frames, rgb_from_frame
from vidrestore.pipeline import RestoredVideo, restore, restore_frames
from vidrestore.restoration.align import crop_from_display
from vidrestore.types import CropContext, Frame

LOSSLESS = load_config(overrides={"encode": {"codec": "ffv1"}, "restore": {"device": "cpu"}})
FAST = load_config(overrides={"encode": {"speed": "ultrafast"}, "restore": {"device": "cpu"}})


class Brighten:
    """A network whose effect is easy to see and cheap."""

    size = 64
    device = torch.device("cpu")

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        stripes = torch.linspace(-1, 1, images.shape[-1]).mul(9.42).sin()
        return images + 0.4 * stripes


class Broken(Brighten):
    """Every second face comes out as not a number."""

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        restored = images.clone()
        restored[::2] = float("nan")
        return restored


def frames_of(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return list(reader.decode())


def sound_of(path: Path) -> tuple[list[bytes], np.ndarray]:
    """The audio packets and their times in seconds."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.audio[0]) if p.size]
        return [bytes(p) for p in packets], np.array([float(p.pts * p.time_base) for p in packets])


def same_planes(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def test_every_frame_time_stamp_and_sound_packet_comes_through(face_clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    result = restore(face_clip, output, FAST, restorer=Brighten())
    before, after = frames_of(face_clip), frames_of(output)
    assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base for f in before]
    assert sound_of(output)[0] == sound_of(face_clip)[0]
    assert result.is_whole
    assert (result.num_frames, result.num_shots) == (75, 3)
    assert result.num_people == 3


def test_outside_the_masks_every_sample_is_the_source(face_clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    restore(face_clip, output, LOSSLESS, restorer=Brighten())
    truth = json.loads((face_clip.parent / "faces_truth.json").read_text("utf-8"))
    num_changed = 0
    for before, after, faces in zip(frames_of(face_clip), frames_of(output), truth, strict=True):
        changed = before.planes[0] != after.planes[0]
        num_changed += int(changed.any())
        y, x = np.mgrid[0 : before.height, 0 : before.width]
        near = np.zeros(changed.shape, bool)
        for face in faces:
            crop = apply(crop_from_display(np.array(face["landmarks"]), 512), np.stack([x, y], -1))
            near |= (crop > -8).all(-1) & (crop < 520).all(-1)  # the crop's square, a tracker's error allowed
        assert not (changed & ~near).any(), f"frame {before.index} changed away from its faces"
        if not faces:
            assert same_planes(before, after), f"frame {before.index} has no face and must pass untouched"
    assert num_changed >= 60


def test_the_embedded_network_brings_faces_nearer_to_the_truth(face_clip: Path) -> None:
    truth = json.loads((face_clip.parent / "faces_truth.json").read_text("utf-8"))
    clean = frames_of(face_clip.parent / "faces_clean.mkv")
    degraded = frames_of(face_clip)
    config = load_config(overrides={"restore": {"device": "cpu"}})
    before, after = [], []
    with RestoredVideo(face_clip, config) as video:
        for index, restored in enumerate(video):
            if index % 5:
                continue
            for face in truth[index]:
                maps = crop_from_display(np.array(face["landmarks"]), 256)[None]
                crops = [
                    sample_crops(f.planes, f.format, maps, 256)[0, :, 70:216, 56:200]
                    for f in (clean[index], degraded[index], restored.frame)
                ]
                before.append(psnr(crops[1], crops[0], peak=2.0))
                after.append(psnr(crops[2], crops[0], peak=2.0))
    assert len(after) > 15
    assert np.mean(after) > np.mean(before) + 0.3, "decibels on the inner face, clip never seen in training"
    assert np.mean(np.array(after) > np.array(before)) > 0.8, "and not only on average"


def test_the_same_command_gives_the_same_bytes(face_clip: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "a.mkv", tmp_path / "b.mkv"]
    for output in outputs:
        restore(face_clip, output, LOSSLESS, restorer=Brighten())
    first, second = (frames_of(output) for output in outputs)
    assert all(same_planes(a, b) for a, b in zip(first, second, strict=True))


def test_strength_zero_changes_nothing(face_clip: Path) -> None:
    config = load_config(overrides={"blend": {"strength": 0.0}})
    with RestoredVideo(face_clip, config, restorer=Brighten()) as video:
        assert all(same_planes(r.frame, f) for r, f in zip(video, frames_of(face_clip), strict=True))


def test_batches_across_frames_give_the_same_as_one_by_one(face_clip: Path) -> None:
    frames: list[list[Frame]] = []
    for batch_size in (1, 8):
        config = load_config(overrides={"restore": {"batch_size": batch_size}})
        with RestoredVideo(face_clip, config, restorer=Brighten()) as video:
            frames.append([restored.frame for restored in video])
    assert all(same_planes(a, b) for a, b in zip(*frames, strict=True))


def test_a_face_that_comes_out_as_nan_is_kept_and_counted(face_clip: Path, tmp_path: Path) -> None:
    result = restore(face_clip, tmp_path / "out.mkv", FAST, restorer=Broken())
    assert result.num_kept_faces > 30
    assert result.num_frames == 75
    strict = replace(FAST, restore=replace(FAST.restore, on_error="stop"))
    with pytest.raises(VidrestoreError, match=r"frame 0, track \d: the network's result is not finite"):
        restore(face_clip, tmp_path / "strict.mkv", strict, restorer=Broken())
    assert not list(tmp_path.glob("*strict*")), "nothing half-written"


def test_out_of_memory_halves_the_batch_and_goes_on(face_clip: Path) -> None:
    sizes: list[int] = []

    class Small(Brighten):
        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("no room")
            return super().restore(images, context)

    with RestoredVideo(face_clip, FAST, restorer=Small()) as video:
        total = sum(restored.num_restored for restored in video)
    assert total >= 100
    assert max(sizes[5:]) <= 2, "it remembers"


def test_an_error_in_the_network_ends_all_threads_and_leaves_no_file(face_clip: Path, tmp_path: Path) -> None:
    class Failing(Brighten):
        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            raise RuntimeError("the device is lost")

    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="the device is lost"):
        restore(face_clip, tmp_path / "out.mkv", FAST, restorer=Failing())
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_stopping_early_closes_everything(face_clip: Path) -> None:
    threads = threading.active_count()
    with RestoredVideo(face_clip, FAST, restorer=Brighten()) as video:
        for restored in video:
            if restored.frame.index == 3:
                break
    assert threading.active_count() == threads


def test_frames_of_a_program_are_restored_as_a_file_is(face_clip: Path) -> None:
    pictures = [rgb_from_frame(f) for f in frames_of(face_clip)[:30]]
    frames = [frame_from_rgb(picture, index) for index, picture in enumerate(pictures)]
    restored = list(restore_frames(frames, info_of_frames(frames[0]), FAST, restorer=Brighten()))
    assert [r.frame.index for r in restored] == list(range(30))
    changed = rgb_from_frame(restored[15].frame) != pictures[15]
    assert 0.05 < changed.any(-1).mean() < 0.8
    assert {track.id for r in restored for track in r.tracks} == {0, 1}


def test_a_truncated_file_is_finished_and_says_what_is_lost(face_clip: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.mkv"
    short.write_bytes(face_clip.read_bytes()[: face_clip.stat().st_size * 6 // 10])
    result = restore(short, tmp_path / "out.mkv", FAST, restorer=Brighten())
    assert not result.is_whole
    assert 20 < result.num_frames < 75
    assert any(loss.kind == "truncated" for loss in result.losses)


def test_an_input_that_is_no_video_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "notes.mp4"
    source.write_text("not a film", "utf-8")
    with pytest.raises(DecodeError, match=r"notes\.mp4"):
        restore(source, tmp_path / "out.mkv", FAST)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.mp4"]


@pytest.mark.parametrize("real_clip", ["carphone", "carphone_distorted"], indirect=True)
def test_the_small_face_of_a_real_clip_is_found_and_restored_throughout(real_clip: Path, tmp_path: Path) -> None:
    result = restore(real_clip, tmp_path / "out.mp4", FAST, restorer=Brighten())
    assert (result.num_frames, result.num_faces, result.num_people) == (120, 120, 1)
    assert [f.pts for f in frames_of(tmp_path / "out.mp4")] == [f.pts for f in frames_of(real_clip)]


@pytest.mark.parametrize("real_clip", ["face_noface"], indirect=True)
def test_a_phone_clip_of_variable_rate_keeps_its_times_and_sound(real_clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mov"
    result = restore(real_clip, output, FAST, restorer=Brighten())
    before, after = frames_of(real_clip), frames_of(output)
    assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base for f in before]
    (data_before, times_before), (data_after, times_after) = sound_of(real_clip), sound_of(output)
    assert data_after == data_before
    np.testing.assert_allclose(times_after, times_before, atol=1e-3, err_msg="within the edit list's millisecond")
    assert 60 <= result.num_faces <= 80, "the face leaves at the cut to the cartoon"


@pytest.mark.parametrize("real_clip", ["no_face"], indirect=True)
def test_a_clip_without_faces_passes_untouched(real_clip: Path, tmp_path: Path) -> None:
    result = restore(real_clip, tmp_path / "out.mkv", LOSSLESS, restorer=Brighten())
    assert result.num_faces == 0
    assert all(same_planes(a, b) for a, b in zip(frames_of(real_clip), frames_of(tmp_path / "out.mkv"), strict=True))


@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p", "yuv444p12le", "gray", "gray10le", "gbrp10le", "bgr0"],
)
def test_every_kind_of_planes_keeps_its_format_and_changes_at_the_face_alone(
    pix_fmt: str, face_clip: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(face_clip)) as container, av.open(str(source), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 384, 256, pix_fmt
        for index, frame in zip(range(6), container.decode(video=0), strict=False):
            converted = frame.reformat(format=pix_fmt)
            converted.pts = index
            out.mux(stream.encode(converted))
        out.mux(stream.encode(None))
    restore(source, output, LOSSLESS, restorer=Brighten())
    for before, after in zip(frames_of(source), frames_of(output), strict=True):
        assert after.format.name == before.format.name
        changed = before.planes[0] != after.planes[0]
        assert 0.02 < changed.mean() < 0.5
        assert not changed[:, 195:200].any(), "between the two faces"
        assert not changed[:20].any()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_clip_is_restored_upright_and_stays_turned(rotation: int, face_clip: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(str(face_clip)) as container, av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "16", "preset": "ultrafast"})
        sideways = rotation % 180 == 90
        stream.width, stream.height = (256, 384) if sideways else (384, 256)
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(-rotation)
        for index, frame in zip(range(6), container.decode(video=0), strict=False):
            stored = np.rot90(frame.to_ndarray(format="rgb24"), rotation // 90)  # the player turns it back
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            picture.pts = index
            out.mux(stream.encode(picture.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    result = restore(source, output, FAST, restorer=Brighten())
    assert result.num_faces == 12, "two faces in each of six frames"
    with VideoReader(source) as before, VideoReader(output) as after:
        assert before.info.rotation == after.info.rotation == rotation
        assert (after.info.width, after.info.height) == (384, 256)
        assert (after.info.frame_width, after.info.frame_height) == (stream.width, stream.height)


def looped(frames: list[Frame], count: int) -> Iterator[Frame]:
    for index in range(count):
        source = frames[index % len(frames)]
        yield replace(source, index=index, pts=index, shot=source.shot + 3 * (index // len(frames)))


def test_memory_stays_flat_over_length(face_clip: Path) -> None:
    with VideoReader(face_clip) as reader:
        info, frames = reader.info, list(reader.decode())
    process = psutil.Process()
    sizes: list[int] = []
    for restored in restore_frames(looped(frames, 1500), info, FAST, restorer=Brighten()):
        if restored.frame.index in (500, 1000, 1499):
            sizes.append(process.memory_info().rss)
    assert sizes[2] - sizes[0] < 16 * 2**20, f"resident bytes at 500, 1000 and 1500 frames: {sizes}"


def test_the_loop_of_the_readme_runs(face_clip: Path) -> None:
    with vidrestore.RestoredVideo(face_clip) as video:
        first = next(iter(video))
        assert vidrestore.rgb_from_frame(first.frame).shape == (256, 384, 3)
        assert len(first.tracks) == 2
