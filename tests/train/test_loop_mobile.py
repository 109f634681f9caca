"""What a phase of ``mobile``'s training lets learn, its losses, its sheets, and that it resumes exactly."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from vidrestore.errors import ConfigError
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import ShapeRegressor
from vidrestore.restoration.compact import CompactNet, save_compact
from vidrestore.restoration.mobile import MobileNet, load_mobile, save_mobile
from vidrestore.train import mobile
from vidrestore.train.run import shipped_config

SIDE = 128


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ShapePrior(regressor=ShapeRegressor().eval())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, prior: ShapePrior) -> mobile.MobileConfig:
    """The smoke configuration on three rendered faces, whose points are known."""
    root = tmp_path_factory.mktemp("faces")
    coefficients = torch.zeros(3, 257)
    coefficients[:, :224] = 0.7 * torch.randn(3, 224, generator=torch.Generator().manual_seed(1))
    coefficients[:, 255:] = torch.tensor([0.03, -1.6])
    pictures = ((prior.picture(coefficients, SIDE)[:, :3] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    points = load_vr468()(coefficients, Camera().scaled(SIDE)).points_px.numpy()
    shares = np.concatenate([(points + 0.5) / SIDE, np.zeros((3, len(points[0]), 1))], -1).astype(np.float32)
    names = [f"{i:05d}.png" for i in range(3)]
    for name, picture in zip(names, pictures, strict=True):
        cv2.imwrite(str(root / name), picture[..., ::-1])
    np.savez(root / "points.npz", points=shares, scores=np.full(3, 30.0), names=np.array(names))
    settings = [f"data.faces={root}", f"data.cache={root}/c.npy", f"data.points={root}/points.npz", "run.max_steps=2"]
    return mobile.load_config(shipped_config("mobile_smoke"), settings)


def moved(folder: Path) -> set[str]:
    """First words of the names of the parameters that differ between the network and what it began as."""
    raw = torch.load(folder / "checkpoint.pt", weights_only=True)
    first = torch.load(folder.with_name("first") / "checkpoint.pt", weights_only=True)
    return {k.split(".")[0] for k, v in raw["network"].items() if not torch.equal(v, first["network"][k])}


@pytest.mark.parametrize(
    ("learns", "expected"), [(("fine",), {"fine"}), (("fine", "joins"), {"fine", "joins"})], ids=["fine", "joins"]
)
def test_only_what_is_named_learns(
    config: mobile.MobileConfig, prior: ShapePrior, tmp_path: Path, learns: tuple[str, ...], expected: set[str]
) -> None:
    phase = mobile.Phase(batch=1, learns=learns, style=0.0)
    data = replace(config.data, size=512, cache_size=512)  # at 256 pixels there is no finest octave
    run = replace(config, phase=(phase,), data=replace(data, cache=str(tmp_path / "c.npy")))
    frozen = replace(run.optimiser, learning_rate=0.0, final_rate=0.0)
    mobile.train(replace(run, optimiser=frozen), tmp_path / "first", prior=prior)
    mobile.train(run, tmp_path / "run", prior=prior)
    assert moved(tmp_path / "run") == expected


def test_a_run_goes_on_from_the_weights_of_another_and_takes_a_trunk(
    config: mobile.MobileConfig, prior: ShapePrior, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        own, trunk = MobileNet(config.network), CompactNet(config.network.trunk)
    save_mobile(own, tmp_path / "mobile.safetensors")
    save_compact(trunk, tmp_path / "compact.safetensors")
    settings = [f"start={tmp_path}/mobile.safetensors", f"trunk={tmp_path}/compact.safetensors", "run.max_steps=1"]
    frozen = replace(config.optimiser, learning_rate=0.0, final_rate=0.0)
    data = [f"data.{name}={getattr(config.data, name)}" for name in ("faces", "cache", "points")]
    run = mobile.load_config(shipped_config("mobile_smoke"), [*settings, *data])
    mobile.train(replace(run, optimiser=frozen), tmp_path / "run", prior=prior)
    state = load_mobile(tmp_path / "run" / "mobile.safetensors").state_dict()
    expected = own.state_dict() | {f"trunk.{k}": v for k, v in trunk.state_dict().items()}
    for name, value in expected.items():
        assert torch.allclose(state[name], value, atol=1e-3), name


def test_another_layout_is_refused(config: mobile.MobileConfig, prior: ShapePrior, tmp_path: Path) -> None:
    save_mobile(MobileNet(replace(config.network, hidden=12)), tmp_path / "mobile.safetensors")
    with pytest.raises(ConfigError, match="has the layout"):
        mobile.train(replace(config, start=str(tmp_path / "mobile.safetensors")), tmp_path / "run", prior=prior)
    with pytest.raises(ConfigError, match="or a weight file"):
        replace(config, start=str(tmp_path / "none.safetensors"))


def parameters(folder: Path) -> list[torch.Tensor]:
    raw = torch.load(folder / "checkpoint.pt", weights_only=True)
    return [value for part in ("network", "average", "critic") for value in raw[part].values()]


EVERYTHING = mobile.Phase(
    batch=1, views=2, motion=6, steady=0.2, landmark=0.05, mesh=0.05, adversarial=0.001, style=0.0, laplacian=0.5
)


def test_every_loss_is_in_the_log_and_a_resumed_run_ends_the_same(
    config: mobile.MobileConfig, prior: ShapePrior, tmp_path: Path
) -> None:
    heard: list[dict[str, float]] = []
    run = replace(config, phase=(EVERYTHING,), run=replace(config.run, max_steps=3, log_every=1))
    train = functools.partial(mobile.train, run, prior=prior)
    train(tmp_path / "whole", progress=lambda step, share, values: heard.append(dict(values)))
    names = {"l1", "laplacian", "steady", "landmark", "mesh", "adversarial", "critic", "r1", "loss"}
    assert all(names <= values.keys() for values in heard)
    assert all(np.isfinite(list(values.values())).all() for values in heard)
    assert min(values["steady"] for values in heard) > 0.0
    asked = iter([False, True])
    assert train(tmp_path / "parts", stop=lambda: next(asked)).steps == 1
    train(tmp_path / "parts")
    pairs = zip(parameters(tmp_path / "whole"), parameters(tmp_path / "parts"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    sheet = cv2.imread(str(tmp_path / "whole" / "sheets" / "0000003.png"))
    assert sheet.shape == (24 + 260, 10 * 260 - 4, 3)  # three levels three times, and clean


def test_losses_in_bfloat16_are_those_in_float32_but_for_its_rounding(
    config: mobile.MobileConfig, prior: ShapePrior, tmp_path: Path
) -> None:
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    losses: list[list[float]] = []
    for precision in precisions:
        heard: list[float] = []
        run = replace(
            config,
            phase=(replace(EVERYTHING, views=1, steady=0.0, adversarial=0.0, landmark=0.0, mesh=0.0),),
            run=replace(config.run, max_steps=3, log_every=1, precision=precision, sheet_faces=0),
        )
        folder = tmp_path / precision
        mobile.train(run, folder, prior=prior, progress=lambda step, share, values, to=heard: to.append(values["loss"]))
        losses.append(heard)
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_steadiness_wants_two_views(config: mobile.MobileConfig) -> None:
    with pytest.raises(ConfigError, match="2 where steady is above 0"):
        replace(config, phase=(replace(EVERYTHING, views=1),))
    with pytest.raises(ConfigError, match="below a quarter of the crop"):
        replace(config, phase=(replace(EVERYTHING, motion=64),))


def test_generated_faces_are_not_aligned_anew(config: mobile.MobileConfig) -> None:
    with pytest.raises(ConfigError, match="as `train faces` made them"):
        replace(config, data=replace(config.data, generated=True, aligned=False))
