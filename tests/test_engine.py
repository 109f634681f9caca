"""The engine whose frames stay on the device, run on the CPU: kernels behind the shim, lanes that are one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "kernels"))

from host_backend import HostBackend, needs_compiler

from vidrestore.config import RestoreConfig, load_config
from vidrestore.engine import Engine, Finished, HostEngine, ResidentEngine, make_engine
from vidrestore.errors import DeviceError, VidrestoreError
from vidrestore.types import CropContext, Frame, PixelFormat, StreamInfo, Track, TrackedFrame

pytestmark = needs_compiler

FORMATS = {
    "yuv420p": PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5)),
    "yuv422p10le": PixelFormat("yuv422p10le", "yuv", 10, (1, 0), (0.0, 0.0)),
    "gray": PixelFormat("gray", "gray", 8),
    "gbrap": PixelFormat("gbrap", "rgb", 8, has_alpha=True, full_range=True),
    "hlg": PixelFormat("yuv420p10le", "yuv", 10, (1, 1), (0.0, 0.5), matrix="bt2020", transfer=18),
}
HEIGHT, WIDTH, SIZE = 120, 162, 32
CPU = torch.device("cpu")


class OneLane(HostBackend):
    """Lanes on the CPU: what is launched has happened. Keeps what was asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.device = CPU
        self.events: list[str] = []

    @contextmanager
    def on(self, lane: str) -> Iterator[None]:
        self.events.append(lane)
        yield

    def mark(self) -> _Passed:
        return _Passed()

    def wait(self, mark: object) -> None:
        assert isinstance(mark, _Passed)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.events.append("staging")
        return torch.empty(shape, dtype=dtype)


class _Passed:
    def synchronize(self) -> None:
        pass


class Sharpener:
    """A network that changes what it sees, crop by crop."""

    size = SIZE
    device = CPU
    is_pure = True

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.contexts: list[CropContext | None] = []

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        self.batches.append(len(images))
        self.contexts.append(context)
        blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
        return (images + 0.8 * (images - blurred) + 0.05).clamp(-1, 1)


class Stateful(Sharpener):
    is_pure = False


class FakeGraph:
    def __init__(self, network: object, example: Tensor) -> None:
        self._network = network
        self.images = example.clone()
        self.restored = torch.zeros_like(example)

    def replay(self) -> None:
        self.restored.copy_(self._network(self.images))  # type: ignore[operator]


def info_of(pixel_format: PixelFormat) -> StreamInfo:
    return StreamInfo(
        path="made",
        frame_width=WIDTH,
        frame_height=HEIGHT,
        width=WIDTH,
        height=HEIGHT,
        display_from_frame=np.eye(2, 3),
        rotation=0,
        sample_aspect_ratio=Fraction(1),
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        num_frames=None,
        duration_s=None,
        format=pixel_format,
        codec="none",
        bit_rate=None,
        has_audio=False,
    )


LANDMARKS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)


def tracked_frames(pixel_format: PixelFormat, counts: Sequence[int]) -> list[TrackedFrame]:
    """Noise with so many faces each, some overlapping, some across the border."""
    rng = np.random.default_rng(0)
    frames = []
    for index, count in enumerate(counts):
        planes = []
        for p in range(pixel_format.num_planes):
            shape = pixel_format.plane_size(p, HEIGHT, WIDTH)
            planes.append(
                (rng.normal(0.5, 0.1, shape).clip(0, 1) * ((1 << pixel_format.depth) - 1)).astype(pixel_format.dtype)
            )
        frame = Frame(index, index, Fraction(1, 25), tuple(planes), pixel_format)
        tracks = []
        for i in range(count):
            side = 30.0 + 12 * i
            corner = np.array([10.0 + 32 * i + index, 40.0 - 16 * i], np.float32)
            box = np.array([*corner, *(corner + side)], np.float32)
            tracks.append(Track(i, box, corner + side * LANDMARKS, 0.9, strength=1.0 if i else 0.7))
        frames.append(TrackedFrame(frame, tuple(tracks)))
    return frames


def config_of(**restore: object) -> RestoreConfig:
    return load_config(overrides={"restore": restore})


def resident(
    pixel_format: PixelFormat, network: Sharpener, config: RestoreConfig | None = None, *, graphs: bool = True
) -> tuple[ResidentEngine, OneLane]:
    lanes = OneLane()
    capture = FakeGraph if graphs else None
    return ResidentEngine(config or RestoreConfig(), info_of(pixel_format), network, lanes, capture), lanes  # type: ignore[arg-type]


def run(engine: Engine, frames: list[TrackedFrame], num: int = 4) -> list[Finished]:
    with torch.inference_mode():
        return list(engine.run(frames[i : i + num] for i in range(0, len(frames), num)))


@pytest.mark.parametrize("name", list(FORMATS))
def test_frames_are_those_of_the_cpu(name: str) -> None:
    pixel_format = FORMATS[name]
    frames = tracked_frames(pixel_format, [2, 0, 3, 1, 0, 4, 1])
    ours = run(resident(pixel_format, Sharpener())[0], frames)
    plain = run(make_engine(RestoreConfig(), info_of(pixel_format), Sharpener()), frames)
    assert [f.frame.index for f in ours] == list(range(7))
    assert [f.num_restored for f in ours] == [f.num_restored for f in plain] == [2, 0, 3, 1, 0, 4, 1]
    for a, b, source in zip(ours, plain, frames, strict=True):
        for p, (x, y) in enumerate(zip(a.frame.planes, b.frame.planes, strict=True)):
            difference = np.abs(x.astype(int) - y.astype(int))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 2e-3
            if source.tracks and p == 0:
                assert (x != source.frame.planes[p]).mean() > 0.01
    assert ours[1].frame is frames[1].frame  # nothing to do is nothing done
    if pixel_format.has_alpha:
        assert ours[0].frame.planes[3] is frames[0].frame.planes[3]


def test_faces_are_held_in_both_engines_alike_and_off_is_off() -> None:
    class Wavering(Stateful):
        def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
            assert context is not None
            sign = torch.tensor([(-1.0) ** index for index in context.frame_indices])[:, None, None, None]
            return super().restore(images, context) + 0.1 * sign

    pixel_format = FORMATS["gray"]
    picture = tracked_frames(pixel_format, [2])[0]
    frames = [replace(picture, frame=replace(picture.frame, index=i, pts=i)) for i in range(8)]
    config = config_of(steady=0.6, exposure_lock=0.8)
    ours = run(resident(pixel_format, Wavering(), config)[0], frames, 3)
    plain = run(make_engine(config, info_of(pixel_format), Wavering()), frames, 4)
    off = run(make_engine(config_of(steady=0.0, exposure_lock=0.0), info_of(pixel_format), Wavering()), frames)
    for a, b in zip(ours, plain, strict=True):
        assert np.abs(a.frame.planes[0].astype(int) - b.frame.planes[0].astype(int)).max() <= 1
    changes = [
        np.abs(np.diff([f.frame.planes[0].astype(int) for f in done[4:]], axis=0)).mean() for done in (ours, off)
    ]
    assert changes[0] < 0.5 * changes[1]
    alone = run(make_engine(config_of(steady=0.0, exposure_lock=0.0), info_of(pixel_format), Wavering()), frames[5:])
    for a, b in zip(off[5:], alone, strict=True):
        np.testing.assert_array_equal(a.frame.planes[0], b.frame.planes[0])


def test_the_source_is_never_written() -> None:
    frames = tracked_frames(FORMATS["yuv420p"], [2, 2])
    kept = [[plane.copy() for plane in item.frame.planes] for item in frames]
    done = run(resident(FORMATS["yuv420p"], Sharpener())[0], frames)
    for item, copies, finished in zip(frames, kept, done, strict=True):
        for plane, copy, new in zip(item.frame.planes, copies, finished.frame.planes, strict=True):
            np.testing.assert_array_equal(plane, copy)
            assert not np.shares_memory(plane, new)


def test_slots_are_used_again() -> None:
    engine, lanes = resident(FORMATS["yuv420p"], Sharpener())
    frames = tracked_frames(FORMATS["yuv420p"], [1] * 24)
    done = run(engine, frames, 2)
    # 3 planes each way for the frames of two batches, and the flags of every batch
    assert lanes.events.count("staging") == 2 * 2 * 6 + 12
    assert [f.frame.index for f in done] == list(range(24))
    assert lanes.events.count("network") == 12


def test_a_pure_network_is_padded_and_its_graphs_are_few() -> None:
    network = Sharpener()
    engine, _ = resident(FORMATS["gray"], network)
    run(engine, tracked_frames(FORMATS["gray"], [3, 1, 2, 3, 3]), 1)
    assert set(network.batches) <= {1, 2, 4}
    assert network.contexts == [None] * len(network.contexts)


def test_a_network_with_a_memory_gets_its_crops_and_their_context() -> None:
    network = Stateful()
    engine, _ = resident(FORMATS["gray"], network)
    run(engine, tracked_frames(FORMATS["gray"], [3, 1, 0, 3]), 2)
    assert network.batches == [4, 3]
    first = network.contexts[0]
    assert first is not None
    assert first.track_ids == (0, 1, 2, 0)
    assert first.frame_indices == (0, 0, 0, 1)


def test_memory_that_runs_out_halves_the_batches_and_changes_no_pixel() -> None:
    class Small(Stateful):
        def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
            if len(images) > 2:
                raise torch.OutOfMemoryError("no")
            return super().restore(images, context)

    pixel_format = FORMATS["gray"]
    frames = tracked_frames(pixel_format, [3, 2, 4, 1])
    engine, _ = resident(pixel_format, Small())
    ours = run(engine, frames)
    assert engine.batch_size == 2
    plain = run(resident(pixel_format, Stateful())[0], frames)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(a.frame.planes[0], b.frame.planes[0])


def test_memory_for_not_even_one_face_is_an_error() -> None:
    class Nothing(Sharpener):
        def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
            raise torch.OutOfMemoryError("no")

    engine, _ = resident(FORMATS["gray"], Nothing())
    with pytest.raises(DeviceError, match="too little memory for one face"):
        run(engine, tracked_frames(FORMATS["gray"], [2]))


class Broken(Stateful):
    """NaN for the second face of a call."""

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        restored = super().restore(images, context)
        restored[1, 0, 5, 5] = float("nan")
        return restored


def test_a_face_that_is_not_finite_is_kept_and_counted() -> None:
    frames = tracked_frames(FORMATS["yuv420p"], [3])
    engine, _ = resident(FORMATS["yuv420p"], Broken())
    done = run(engine, frames)
    assert (engine.num_restored, engine.num_kept, done[0].num_restored) == (2, 1, 2)
    without = replace(frames[0], tracks=(frames[0].tracks[0], frames[0].tracks[2]))
    plain = run(resident(FORMATS["yuv420p"], Stateful())[0], [without])
    for a, b in zip(done[0].frame.planes, plain[0].frame.planes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_face_that_is_not_finite_may_stop_the_run() -> None:
    engine, _ = resident(FORMATS["yuv420p"], Broken(), config_of(on_error="stop"))
    with pytest.raises(VidrestoreError, match="frame 0, track 1: the network's result is not finite"):
        run(engine, tracked_frames(FORMATS["yuv420p"], [3]))


def test_frames_of_another_size_get_room_of_their_own() -> None:
    pixel_format = FORMATS["gray"]
    frames = tracked_frames(pixel_format, [1, 1])
    cut = frames[1].frame.planes[0][:100, :120]
    frames[1] = replace(frames[1], frame=replace(frames[1].frame, planes=(cut,)))
    done = run(resident(pixel_format, Sharpener())[0], frames)
    assert [f.frame.planes[0].shape for f in done] == [(HEIGHT, WIDTH), (100, 120)]


def test_on_the_cpu_the_host_engine_is_taken() -> None:
    assert isinstance(make_engine(RestoreConfig(), info_of(FORMATS["gray"]), Sharpener()), HostEngine)
