"""ST-LPIPS: against values of the authors' program, and what its name promises."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips, find_stlpips_weights

try:
    find_stlpips_weights("alex")
except WeightsError:
    pytest.skip("the parameters come with the package stlpips-pytorch", allow_module_level=True)


def ramp(phase: float, height: int = 96, width: int = 80) -> torch.Tensor:
    """A picture without random numbers: waves of three lengths, one per channel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.sin((x + k * y) / (5.0 + 3 * k) + phase) for k in range(3)])[None]


@pytest.fixture(scope="module")
def alex() -> ShiftTolerantLpips:
    return ShiftTolerantLpips("alex")


# Made once with the package's own program (stlpips.LPIPS(net, variant="shift_tolerant")) on the same pictures.
@pytest.mark.parametrize(("net", "expected"), [("alex", 0.1584952), ("vgg", 0.2674247)])
def test_distances_equal_those_of_the_authors_program(net: Literal["alex", "vgg"], expected: float) -> None:
    with torch.no_grad():
        distance = ShiftTolerantLpips(net)(ramp(0.0), ramp(1.0))
    assert distance.shape == (1,)
    assert float(distance) == pytest.approx(expected, rel=1e-4)


def test_equal_pictures_have_distance_zero(alex: ShiftTolerantLpips) -> None:
    assert float(alex(ramp(0.3), ramp(0.3))) == 0.0


def test_a_shift_by_a_pixel_counts_less_than_a_blur(alex: ShiftTolerantLpips) -> None:
    noise = torch.rand(1, 3, 97, 97, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved, still = noise[..., 1:, 1:], noise[..., :-1, :-1]
    soft = torch.nn.functional.avg_pool2d(still, 5, 1, 2, count_include_pad=False)
    assert float(alex(moved, still)) < 0.5 * float(alex(soft, still))


def test_gradients_reach_the_picture_and_not_the_parameters(alex: ShiftTolerantLpips) -> None:
    image = ramp(0.0).requires_grad_()
    alex(image, ramp(1.0)).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0.0
    assert torch.isfinite(image.grad).all()
    assert all(p.grad is None for p in alex.parameters())


def test_a_flat_picture_has_a_finite_gradient(alex: ShiftTolerantLpips) -> None:
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    alex(image, ramp(0.0, 64, 64)).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "alex.pth"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="not the parameters of ST-LPIPS"):
        ShiftTolerantLpips("alex", path)
    with pytest.raises(WeightsError, match="backbone 'vgg'"):
        ShiftTolerantLpips("vgg", find_stlpips_weights("alex"))
