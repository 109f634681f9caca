"""``mobile`` as a restorer: whose 3D face it uses, what it is told, and when ``auto`` takes it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_pairs import LEVELS, golden_pairs, grid_of, picture, tensor

from vidrestore.config import RestoreOptions
from vidrestore.errors import WeightsError
from vidrestore.evaluate.image import psnr, ssim
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import ShapeRegressor
from vidrestore.restoration import restorer as stage
from vidrestore.restoration.compact import CompactDims, load_compact
from vidrestore.restoration.mobile import NUM_COEFFICIENTS, MobileDims, MobileNet, load_mobile
from vidrestore.restoration.mobile_restorer import MobileRestorer
from vidrestore.restoration.restorer import CompactRestorer, choose_network, load_restorer
from vidrestore.types import CropContext, MeshTopology, Track

DIMS = MobileDims(
    trunk=CompactDims(widths=(8, 8, 8, 8)),
    encoder=(8, 8, 8, 8, 8),
    style=16,
    base=16,
    rank=4,
    generator=(16, 16, 16, 8),
    codes=4,
    hidden=16,
)


@pytest.fixture(scope="module")
def restorer() -> MobileRestorer:
    """A network whose result depends on all that it is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MobileNet(DIMS)
        for layer in (network.trunk.head, *network.joins, network.fine):
            torch.nn.init.normal_(layer.weight, std=1.0)
        prior = ShapePrior(regressor=ShapeRegressor().eval())
    return MobileRestorer(torch.device("cpu"), torch.float32, 0.0, network=network, prior=prior)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    coarse = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(512, 512), mode="bilinear", align_corners=False)


def face(seed: int) -> np.ndarray:
    """Coefficients of a face in front of the camera."""
    values = np.zeros(NUM_COEFFICIENTS, np.float32)
    values[:224] = 0.5 * np.random.default_rng(seed).standard_normal(224)
    return values


def context(coefficients: list[np.ndarray | None], w: list[float]) -> CropContext:
    track = Track(0, np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9)
    maps = np.tile(np.eye(2, 3), (len(w), 1, 1))
    tracks = tuple(replace(track, id=i, coefficients=row) for i, row in enumerate(coefficients))
    return CropContext(tracks, tuple(range(len(w))), maps, maps, np.array(w, np.float32))


def test_the_tracks_face_is_used_where_there_is_one(restorer: MobileRestorer, images: torch.Tensor) -> None:
    with torch.inference_mode():
        own = restorer._prior.coefficients(images).numpy()
        regressed = restorer.restore(images, context([None, None], [0.0, 0.0]))
        given = restorer.restore(images, context([own[0], own[1]], [0.0, 0.0]))
        mixed = restorer.restore(images, context([face(1), None], [0.0, 0.0]))
    assert regressed.shape == (2, 3, 512, 512)
    torch.testing.assert_close(given, regressed)
    torch.testing.assert_close(mixed[1], regressed[1])
    assert float((mixed[0] - regressed[0]).abs().max()) > 1e-3


def test_coefficients_of_another_face_model_are_not_taken_for_ours(
    restorer: MobileRestorer, images: torch.Tensor
) -> None:
    basel = MeshTopology("bfm", np.array([[0, 1, 2]], np.int32), 0, 1)
    given = context([face(1), face(2)], [0.0, 0.0])
    with torch.inference_mode():
        regressed = restorer.restore(images, context([None, None], [0.0, 0.0]))
        other = restorer.restore(images, replace(given, tracks=tuple(replace(t, topology=basel) for t in given.tracks)))
    torch.testing.assert_close(other, regressed)


def test_without_tracks_every_face_is_looked_at(restorer: MobileRestorer, images: torch.Tensor) -> None:
    with torch.inference_mode():
        alone = restorer.restore(images)
        known = restorer.restore(images, context([None, None], [0.0, 0.0]))
    torch.testing.assert_close(alone, known)


def test_full_fidelity_ignores_the_face(restorer: MobileRestorer, images: torch.Tensor) -> None:
    with torch.inference_mode():
        first = restorer.restore(images, context([face(1), face(2)], [1.0, 0.0]))
        second = restorer.restore(images, context([face(3), face(4)], [1.0, 0.0]))
    torch.testing.assert_close(first[0], second[0])
    assert float((first[1] - second[1]).abs().max()) > 1e-3


def test_the_priors_share_is_the_square(restorer: MobileRestorer, images: torch.Tensor) -> None:
    with torch.inference_mode():
        half = restorer.restore(images, context([face(1), face(2)], [0.5, 0.5]))
        coefficients = torch.from_numpy(np.stack([face(1), face(2)])).float()
        render = restorer._prior.picture(coefficients, 128)
        torch.testing.assert_close(half, restorer._network(images, render, coefficients, torch.full((2,), 0.75)))


def test_auto_is_compact_on_a_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vidrestore.restoration.restorer"):
        assert isinstance(load_restorer(RestoreOptions(network="auto", device="cpu")), CompactRestorer)
    assert "network compact, chosen for cpu" in caplog.text


def test_auto_is_mobile_on_a_gpu_where_its_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options, device = RestoreOptions(network="auto"), torch.device("cuda")
    monkeypatch.setattr(stage, "shipped_mobile", lambda: tmp_path / "mobile.safetensors")
    assert choose_network(options, device) == "compact"
    (tmp_path / "mobile.safetensors").touch()
    assert choose_network(options, device) == "mobile"
    assert choose_network(replace(options, network="compact"), device) == "compact"


def test_missing_weights_are_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vidrestore.restoration import mobile

    monkeypatch.setattr(mobile, "shipped_mobile", lambda: tmp_path / "mobile.safetensors")
    with pytest.raises(WeightsError, match=r"without weights of mobile; docs/training\.md"):
        load_mobile()


def test_it_stays_within_its_budget() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = MobileNet().eval()
    inputs = (torch.zeros(1, 3, 512, 512), torch.zeros(1, 4, 128, 128), torch.zeros(1, NUM_COEFFICIENTS))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs, torch.zeros(1))
    multiply_adds = counter.get_total_flops() / 2
    assert 1e9 < multiply_adds < 2.3e9  # 12 G are allowed
    assert sum(p.numel() for p in network.parameters()) < 9e6  # 10 M are allowed, 20 MB as float16


def test_the_last_block_may_end_after_its_first_convolution() -> None:
    whole, early = MobileNet(replace(DIMS, whole=True)), MobileNet(DIMS)
    missing = whole.state_dict().keys() - early.state_dict().keys()
    assert missing
    assert all(name.startswith("blocks.3.conv2.") for name in missing)
    early.load_state_dict(whole.state_dict(), strict=False)
    style, x = torch.randn(1, DIMS.style), torch.randn(1, 4, 64, 64)
    after_first = early.blocks[-1].refine(x, style)  # type: ignore[operator]
    assert torch.equal(whole.blocks[-1].conv2(after_first, style), whole.blocks[-1].refine(x, style))  # type: ignore[operator]


# What follows is about the shipped weights.


@pytest.fixture(scope="module")
def shipped() -> MobileRestorer:
    return MobileRestorer(torch.device("cpu"), torch.float32, 0.0)


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    return golden_pairs()


@pytest.fixture(scope="module")
def restored(shipped: MobileRestorer, pairs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {name: shipped.restore(tensor(pairs[name])) for name in ("clean", *LEVELS)}


@pytest.mark.parametrize("level", LEVELS)
def test_shipped_weights_raise_psnr_and_ssim(
    restored: dict[str, torch.Tensor], pairs: dict[str, np.ndarray], level: str
) -> None:
    results = picture(restored[level])
    for measure in (psnr, ssim):
        before = np.mean([measure(a, b) for a, b in zip(pairs[level], pairs["clean"], strict=True)])
        after = np.mean([measure(a, b) for a, b in zip(results, pairs["clean"], strict=True)])
        assert after > before, f"{measure.__name__}: {before:.4f} became {after:.4f}"


@pytest.mark.parametrize("level", LEVELS)
def test_shipped_weights_paint_no_grid(
    restored: dict[str, torch.Tensor], pairs: dict[str, np.ndarray], level: str
) -> None:
    assert grid_of(restored[level] - tensor(pairs[level])) < 0.25


def test_good_faces_are_left_nearly_alone(restored: dict[str, torch.Tensor], pairs: dict[str, np.ndarray]) -> None:
    assert min(psnr(a, b) for a, b in zip(picture(restored["clean"]), pairs["clean"], strict=True)) > 44.0


def test_without_the_prior_it_is_compact(shipped: MobileRestorer, pairs: dict[str, np.ndarray]) -> None:
    """The trunk was left as it was shipped, so that the fidelity weight leads from one network to the other."""
    images = tensor(pairs["medium"])
    with torch.inference_mode():
        without = shipped.restore(images, context([None] * len(images), [1.0] * len(images)))
        plain = load_compact()(images)
    torch.testing.assert_close(without, plain, rtol=0.0, atol=1e-5)


def test_the_prior_helps_faces_that_are_badly_damaged(
    shipped: MobileRestorer, restored: dict[str, torch.Tensor], pairs: dict[str, np.ndarray]
) -> None:
    """ST-LPIPS falls; where it is not there it falls by less."""
    try:
        metric = ShiftTolerantLpips("alex")
    except WeightsError as error:
        pytest.skip(str(error))
    images, clean = tensor(pairs["heavy"]), tensor(pairs["clean"])
    with torch.inference_mode():
        without = shipped.restore(images, context([None] * len(images), [1.0] * len(images)))
        before, plain, both = (float(metric(part, clean).mean()) for part in (images, without, restored["heavy"]))
    assert both < plain < before
