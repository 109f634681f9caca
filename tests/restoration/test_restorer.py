"""The restoration stage and the embedded network behind its protocol."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch

from vidrestore.config import RestoreOptions
from vidrestore.errors import DeviceError
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.restoration.align import template
from vidrestore.restoration.restorer import FaceRestorer, load_restorer
from vidrestore.types import CropContext, Track, TrackedFrame

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (96, 128, 3), np.uint8)


class Noting:
    """Gives back what it is handed and notes the batch sizes."""

    size = 32
    device = torch.device("cpu")

    def __init__(self, room: int = 100) -> None:
        self.batches: list[int] = []
        self.contexts: list[CropContext | None] = []
        self.room = room

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        self.contexts.append(context)
        return images + 0.5


def tracked(num_faces: list[int]) -> list[TrackedFrame]:
    points = (template(64) + np.array([20, 10])).astype(np.float32)
    return [
        TrackedFrame(
            frame_from_rgb(PICTURE, index, rate=Fraction(25)),
            tuple(Track(i, np.array([20, 10, 84, 74], np.float32), points + i, 0.9) for i in range(count)),
        )
        for index, count in enumerate(num_faces)
    ]


def stage(network: Noting, batch_size: int = 4) -> FaceRestorer:
    info = info_of_frames(frame_from_rgb(PICTURE, 0))
    return FaceRestorer(RestoreOptions(batch_size=batch_size), info, network)


def test_faces_of_several_frames_share_batches_and_come_back_to_their_frames() -> None:
    network = Noting()
    done = stage(network).restore(tracked([2, 0, 3, 1]))
    assert network.batches == [4, 2]
    assert [len(restorations) for restorations in done] == [2, 0, 3, 1]
    assert [r.crop.frame_index for restorations in done for r in restorations] == [0, 0, 2, 2, 2, 3]
    assert [r.crop.track_id for r in done[2]] == [0, 1, 2]


def test_no_face_asks_nothing_of_the_network() -> None:
    network = Noting()
    assert stage(network).restore(tracked([0, 0])) == [[], []]
    assert network.batches == []


def test_the_crop_is_cut_where_the_template_says() -> None:
    restoration = stage(Noting()).restore(tracked([1]))[0][0]
    points = tracked([1])[0].tracks[0].landmarks
    mapped = points @ restoration.crop.crop_from_frame[:, :2].T + restoration.crop.crop_from_frame[:, 2]
    np.testing.assert_allclose(mapped, template(32), atol=0.05)
    np.testing.assert_allclose(restoration.image, restoration.crop.image + 0.5, atol=1e-6)


def test_memory_that_runs_out_halves_the_batch_for_good() -> None:
    network = Noting(room=2)
    faces = stage(network, batch_size=8)
    assert [len(r) for r in faces.restore(tracked([4, 4]))] == [4, 4]
    assert network.batches == [8, 4, 2, 2, 2, 2]
    network.batches.clear()
    faces.restore(tracked([4]))
    assert network.batches == [2, 2]
    assert faces.num_restored == 12


def test_too_little_memory_for_one_face_is_told() -> None:
    with pytest.raises(DeviceError, match=r"too little memory for one face of 32 px.*--device cpu"):
        stage(Noting(room=0)).restore(tracked([1]))


def test_the_context_names_each_crop_and_maps_its_landmarks_onto_the_template() -> None:
    network = Noting()
    stage(network).restore(tracked([2, 0, 1]))
    (context,) = network.contexts
    assert context is not None
    assert len(context) == 3
    assert context.track_ids == (0, 1, 0)
    assert context.frame_indices == (0, 0, 2)
    assert context.shots == (0, 0, 0)
    for track, m in zip(context.tracks, context.crop_from_display, strict=True):
        np.testing.assert_allclose(track.landmarks @ m[:, :2].T + m[:, 2], template(32), atol=0.05)


def test_each_track_has_its_own_fidelity_weight() -> None:
    network = Noting()
    info = info_of_frames(frame_from_rgb(PICTURE, 0))
    FaceRestorer(RestoreOptions(w=0.25, w_of_track={1: 1.0}), info, network).restore(tracked([3]))
    assert network.contexts[0] is not None
    assert network.contexts[0].w.tolist() == [0.25, 1.0, 0.25]


def test_the_end_of_a_track_is_told_once_after_its_shot() -> None:
    network = Noting()
    faces = stage(network)
    faces.restore(tracked([2]))
    next_shot = [
        replace(item, tracks=tuple(replace(track, id=track.id + 5, shot=1) for track in item.tracks))
        for item in tracked([0, 1, 1])
    ]
    faces.restore(next_shot)
    faces.restore(next_shot)
    assert [sorted(context.ended) for context in network.contexts if context] == [[], [0, 1], []]


def test_an_end_that_was_told_before_memory_ran_out_is_told_again() -> None:
    network = Noting()
    faces = stage(network)
    faces.restore(tracked([1]))
    network.room = 1
    faces.restore(
        [replace(item, tracks=tuple(replace(t, id=t.id + 5, shot=1) for t in item.tracks)) for item in tracked([0, 2])]
    )
    assert [sorted(context.ended) for context in network.contexts if context] == [[], [0], []]


def test_the_embedded_network_takes_any_batch_and_each_face_for_itself() -> None:
    restorer = load_restorer(RestoreOptions(device="cpu"))
    faces = torch.rand(3, 3, restorer.size, restorer.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        together = restorer.restore(faces)
        alone = torch.cat([restorer.restore(face[None]) for face in faces])
    assert together.shape == faces.shape
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.needs_cuda
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("compact", "float32"),
        ("compact", "bfloat16"),
        ("compact", "float16"),
        ("mobile", "float32"),
        ("mobile", "bfloat16"),
    ],
)
def test_the_gpu_gives_what_the_cpu_gives(name: Literal["compact", "mobile"], precision: str) -> None:
    cpu = load_restorer(RestoreOptions(device="cpu", network=name))
    gpu = load_restorer(RestoreOptions(device="cuda", network=name, precision=precision))  # type: ignore[arg-type]
    faces = torch.rand(2, 3, cpu.size, cpu.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected, got = cpu.restore(faces), gpu.restore(faces.cuda()).cpu()
    decibels = 10 * torch.log10(4 / (expected - got).square().mean())
    assert decibels >= (60 if precision == "float32" else 45)
