"""The restoration stage and the embedded network behind its protocol."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from vidrestore.config import RestoreOptions
from vidrestore.errors import DeviceError
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.restoration.align import template
from vidrestore.restoration.restorer import FaceRestorer, load_restorer
from vidrestore.types import Track, TrackedFrame

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (96, 128, 3), np.uint8)


class Noting:
    """Gives back what it is handed and notes the batch sizes."""

    size = 32
    device = torch.device("cpu")

    def __init__(self, room: int = 100) -> None:
        self.batches: list[int] = []
        self.room = room

    def restore(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
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


def test_the_embedded_network_takes_any_batch_and_each_face_for_itself() -> None:
    restorer = load_restorer(RestoreOptions(device="cpu"))
    faces = torch.rand(3, 3, restorer.size, restorer.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        together = restorer.restore(faces)
        alone = torch.cat([restorer.restore(face[None]) for face in faces])
    assert together.shape == faces.shape
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_gpu_gives_what_the_cpu_gives(precision: str) -> None:
    faces = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cpu = load_restorer(RestoreOptions(device="cpu"))
    gpu = load_restorer(RestoreOptions(device="cuda", precision=precision))  # type: ignore[arg-type]
    with torch.inference_mode():
        expected, got = cpu.restore(faces), gpu.restore(faces.cuda()).cpu()
    decibels = 10 * torch.log10(4 / (expected - got).square().mean())
    assert decibels >= (60 if precision == "float32" else 45)
