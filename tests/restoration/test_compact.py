"""The network ``compact``: shapes, identity at the start, exact colours, its file, and what the shipped file does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_pairs import golden_pairs, grid_of, picture, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vidrestore.errors import WeightsError
from vidrestore.evaluate.image import psnr, ssim
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.restoration.compact import (
    CompactDims,
    CompactNet,
    load_compact,
    save_compact,
    shipped_weights,
    without_grid,
)

SMALL = CompactDims((8, 12, 16), (1, 0, 1), (1, 1))


def small(seed: int = 0, head: float = 0.05) -> CompactNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompactNet(SMALL)
        torch.nn.init.normal_(network.head.weight, std=head)
    return network.eval()


def faces(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth pictures of (count, 3, size, size), as unlike noise as faces are."""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def test_a_new_network_returns_its_input() -> None:
    image = faces(2)
    with torch.no_grad():
        assert torch.equal(CompactNet(SMALL)(image), image)


@given(batch=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_any_multiple_of_the_stride_keeps_its_shape(batch: int, rows: int, columns: int) -> None:
    image = torch.zeros(batch, 3, rows * SMALL.multiple, columns * SMALL.multiple)
    with torch.no_grad():
        assert small()(image).shape == image.shape


def test_faces_of_a_batch_do_not_touch_each_other() -> None:
    network, images = small(), faces(3)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        assert torch.allclose(network(images), alone, atol=1e-5)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_the_mean_of_each_channel_is_kept(seed: int) -> None:
    image = faces(2, seed=seed)
    with torch.no_grad():
        restored = small(seed, head=0.5)(image)
    assert float((restored - image).abs().max()) > 0.1
    assert torch.allclose(restored.mean((2, 3)), image.mean((2, 3)), atol=1e-5)


@given(seed=st.integers(0, 2**16), tilt=st.floats(-1.0, 1.0))
@settings(max_examples=10, deadline=None)
def test_a_pattern_of_four_pixels_is_taken_out_and_a_slope_stays(seed: int, tilt: float) -> None:
    pattern = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).repeat(1, 1, 24, 24) - 0.5
    slope = tilt * torch.linspace(-1, 1, 96).view(1, 1, 1, 96).expand(1, 3, 96, 96)
    inside = (..., slice(16, 80), slice(16, 80))  # nearer to the edges the low-pass sees copies of them
    left = without_grid(slope + pattern)[inside] - slope[inside] - pattern.mean((2, 3), keepdim=True)
    assert float(left.abs().max()) < 0.02
    assert torch.allclose(without_grid(slope)[inside], slope[inside], atol=1e-5)


def test_detail_goes_through_where_a_grid_does_not() -> None:
    """An edge, a dot and noise keep most of their energy; the 16 places of a block share what is taken."""
    detail = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    kept = without_grid(detail)
    assert float((kept - detail).square().mean()) < 0.06 * float(detail.square().mean())


def test_a_network_paints_no_grid_whatever_its_weights() -> None:
    network, image = small(3), torch.zeros(1, 3, 96, 96)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.head.bias.normal_(std=0.5, generator=generator)  # the same residual in every block: nothing but a grid
    with torch.no_grad():
        painted = CompactNet(replace(SMALL, without_grid=False))
        painted.load_state_dict(network.state_dict())
        before, after = ((n(image) - image)[..., 32:64, 32:64] for n in (painted, network))
    assert float(before.std()) > 0.01
    assert float(after.std()) < 0.1 * float(before.std())


def test_a_file_that_says_nothing_of_the_grid_is_one_without_that_step(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "w.safetensors", meta={})
    assert not load_compact(path).dims.without_grid
    save_compact(small(), path)
    assert load_compact(path).dims.without_grid


def test_memory_layout_does_not_change_the_result() -> None:
    network, image = small(), faces(2)
    with torch.no_grad():
        plain = network(image)
        last = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    assert torch.allclose(plain, last, atol=1e-5)


def test_the_default_layout_fits_its_file() -> None:
    count = sum(p.numel() for p in CompactNet().parameters())
    assert 2_000_000 < count <= 4_900_000  # float16 within 10 MB


def test_levels_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit widths"):
        CompactDims((8, 8), (1, 1, 1), (1,))


def test_a_saved_network_loads_to_the_same_function(tmp_path: Path) -> None:
    network, image = small(), faces(1)
    save_compact(network, tmp_path / "w.safetensors", notes={"step": "3"})
    loaded = load_compact(tmp_path / "w.safetensors")
    assert loaded.dims == SMALL
    assert not loaded.training
    with torch.no_grad():
        assert torch.allclose(loaded(image), network(image), atol=2e-3)  # parameters were rounded to float16
    assert not list(tmp_path.glob("*.part"))


def rewrite(path: Path, **changes: object) -> Path:
    """A file of a small network, with some tensors replaced (None removes) or the metadata ``meta`` changed."""
    save_compact(small(), path)
    state = load_file(path)
    metadata = {"network": "compact", "format": "1", "dims": json.dumps({"widths": SMALL.widths})}
    metadata["dims"] = json.dumps(
        {"widths": SMALL.widths, "encoder_blocks": SMALL.encoder_blocks, "decoder_blocks": SMALL.decoder_blocks}
    )
    for name, value in changes.items():
        key = name.replace("__", ".")
        if key == "meta":
            assert isinstance(value, dict)
            metadata |= value
        elif value is None:
            del state[key]
        else:
            assert isinstance(value, torch.Tensor)
            state[key] = value
    save_file(state, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__bias": torch.full((116,), float("nan"))}, "head.bias holds values that are not finite"),
        ({"head__bias": torch.zeros(47)}, r"head.bias must be \(116,\)"),
        ({"head__bias": torch.zeros(116, dtype=torch.int32)}, "of floats"),
        ({"stem__bias": None}, r"missing \['stem.bias'\]"),
        ({"other": torch.zeros(1)}, r"unknown \['other'\]"),
        ({"meta": {"network": "vqgan"}}, "network 'vqgan'"),
        ({"meta": {"format": "9"}}, "format '9'"),
        ({"meta": {"dims": "{"}}, "dims in its metadata cannot be read"),
        ({"meta": {"dims": '{"depth": 3}'}}, "dims in its metadata cannot be read"),
        ({"meta": {"dims": '{"without_grid": 1}'}}, "dims in its metadata cannot be read"),
        ({"meta": {"dims": '{"widths": [1000000, 8, 8, 8]}'}}, "beyond reason"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = rewrite(tmp_path / "w.safetensors", **changes)
    with pytest.raises(WeightsError, match=message):
        load_compact(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weight file"):
        load_compact(tmp_path / "w.safetensors")


@given(cut=st.integers(0, 4000))
@settings(max_examples=15, deadline=None)
def test_a_cut_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "w.safetensors"
    save_compact(small(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_compact(path)


def test_a_network_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    network = small()
    with torch.no_grad():
        network.stem.bias[0] = 1e6  # beyond float16
    with pytest.raises(WeightsError, match=r"stem\.bias"):
        save_compact(network, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


# What follows is about the shipped weights.


@pytest.fixture(scope="module")
def shipped() -> CompactNet:
    return load_compact()


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    return golden_pairs()


def restore(network: CompactNet, pictures: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return picture(network(tensor(pictures)))


def test_the_shipped_file_is_small() -> None:
    assert shipped_weights().stat().st_size <= 10_000_000


@pytest.mark.parametrize("level", ["light", "medium", "heavy"])
def test_shipped_weights_raise_psnr_and_ssim(shipped: CompactNet, pairs: dict[str, np.ndarray], level: str) -> None:
    restored = restore(shipped, pairs[level])
    for measure in (psnr, ssim):
        before = np.mean([measure(a, b) for a, b in zip(pairs[level], pairs["clean"], strict=True)])
        after = np.mean([measure(a, b) for a, b in zip(restored, pairs["clean"], strict=True)])
        assert after > before, f"{measure.__name__}: {before:.4f} became {after:.4f}"


@pytest.mark.parametrize(("level", "share"), [("light", 0.95), ("medium", 0.85), ("heavy", 0.9)])
def test_shipped_weights_lower_st_lpips(
    shipped: CompactNet, pairs: dict[str, np.ndarray], level: str, share: float
) -> None:
    """By 9, 21 and 16 %, when they were made."""
    try:
        metric = ShiftTolerantLpips("alex")
    except WeightsError as error:
        pytest.skip(str(error))
    clean = tensor(pairs["clean"])
    with torch.no_grad():
        before = metric(tensor(pairs[level]), clean).mean()
        after = metric(tensor(restore(shipped, pairs[level])), clean).mean()
    assert float(after) < share * float(before)


@pytest.mark.parametrize("level", ["light", "medium", "heavy"])
def test_shipped_weights_paint_no_grid(shipped: CompactNet, pairs: dict[str, np.ndarray], level: str) -> None:
    """A pixel shuffle can leave a pattern that repeats every four pixels; a run with ST-LPIPS left 0.9 to 2.0."""
    images = tensor(pairs[level])
    with torch.no_grad():
        change = shipped(images) - images
    assert grid_of(change) < 0.25


@pytest.mark.parametrize("level", ["light", "medium", "heavy"])
def test_a_face_that_moves_by_two_pixels_is_restored_alike(
    shipped: CompactNet, pairs: dict[str, np.ndarray], level: str
) -> None:
    """What belongs to the network's blocks stays where it is: a run with patches of grid had 1.2 of its change."""
    images = tensor(pairs[level])
    with torch.no_grad():
        here = shipped(images)
        there = torch.roll(shipped(torch.roll(images, (2, 2), (2, 3))), (-2, -2), (2, 3))
    inside = (..., slice(24, -24), slice(24, -24))
    assert float((there - here)[inside].abs().mean()) < 0.75 * float((here - images)[inside].abs().mean())


def test_shipped_weights_leave_good_faces_nearly_alone(shipped: CompactNet, pairs: dict[str, np.ndarray]) -> None:
    assert min(psnr(a, b) for a, b in zip(restore(shipped, pairs["clean"]), pairs["clean"], strict=True)) > 44.0


def test_shipped_weights_keep_colours(shipped: CompactNet, pairs: dict[str, np.ndarray]) -> None:
    clean = pairs["clean"]
    means = restore(shipped, clean).mean((1, 2)) - clean.mean((1, 2), dtype=np.float64)
    assert np.abs(means).max() < 0.5  # of 255; rounding and clipping included


def test_an_exported_network_takes_any_number_of_faces() -> None:
    network = CompactNet(replace(SMALL, without_grid=True)).eval()
    torch.nn.init.normal_(network.head.weight, std=0.2)
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=16)}}
    exported = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes).module()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(exported(images), network(images), atol=1e-5)
