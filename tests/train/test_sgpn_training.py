"""SGPN's training: both steps learn, runs resume exactly, ablations are switches, 3D losses are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.morphable.synthetic import synthetic_model
from vidrestore.restoration.seeded import fill_seeded, seeded_values
from vidrestore.restoration.sgpn import Sgpn, SgpnDims, StyledConvAffb
from vidrestore.train.run import Clock, shipped_config
from vidrestore.train.sgpn import SgpnConfig, SgpnTraining, load_config, make_regressor, train
from vidrestore.train.sgpn_data import SgpnSamples, held_out_batch, open_faces
from vidrestore.train.shape_losses import landmark_loss, mesh_loss


@pytest.fixture
def config(tmp_path: Path) -> SgpnConfig:
    """The shipped smoke configuration on six small pictures that have much in common, as faces do."""
    folder = tmp_path / "faces"
    folder.mkdir()
    common = np.random.default_rng(6).integers(0, 256, (6, 6, 3))
    common = (common + common[:, ::-1]) / 2  # flips leave it as it is
    for i in range(6):
        own = np.random.default_rng(i).integers(0, 256, (6, 6, 3))
        coarse = (0.8 * common + 0.2 * own).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.png"), cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC))
    smoke = load_config(shipped_config("sgpn_smoke"))
    return replace(smoke, data=replace(smoke.data, faces=str(folder), cache=str(tmp_path / "faces.npy")))


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def changed(config: SgpnConfig, **parts: dict[str, object]) -> SgpnConfig:
    """A configuration with some options replaced, {part: {option: value}}."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in parts.items()})


def test_the_smoke_configuration_takes_both_steps_and_leaves_weights(config: SgpnConfig, tmp_path: Path) -> None:
    report = train(config, tmp_path / "run")
    lines = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert [line["adapts"] for line in lines] == [1.0] * 6 + [0.0] * 6
    assert {"mesh_positions", "mesh_colours"} <= lines[0].keys()
    assert {"reconstruction", "adversarial", "landmark", "mesh_positions", "critic"} <= lines[-1].keys()
    assert {"psnr", "psnr_input", "mask", "mesh_rms"} <= report.values.keys()
    assert len(list((tmp_path / "run" / "sheets").glob("*.png"))) == 1
    Sgpn(config.network).load_state_dict(load_file(report.weights))
    start = replace(config.start, regressor=str(tmp_path / "run" / "d3dfr.safetensors"))
    make_regressor(config.shape.regressor, start)  # what it leaves is what a next run starts from


def test_the_regressor_learns_to_read_degraded_faces(config: SgpnConfig, tmp_path: Path) -> None:
    longer = changed(config, optimiser={"adapt_share": 1.0, "batch": 8}, run={"max_steps": 40, "log_every": 1})
    begin = SgpnTraining(longer)
    before = begin.validate(_clock(longer))["mesh_rms"]
    report = train(longer, tmp_path / "run")
    assert report.values["mesh_rms"] < 0.8 * before
    losses = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_the_joint_step_learns_to_restore(config: SgpnConfig, tmp_path: Path) -> None:
    longer = changed(
        config,
        optimiser={"adapt_share": 0.0, "learning_rate": 5e-3, "clip": 5.0, "ema": 0.7},
        run={"max_steps": 20},
        adversarial={"after": 16},
    )
    before = SgpnTraining(longer).validate(_clock(longer))["psnr"]
    report = train(longer, tmp_path / "run")
    assert report.values["psnr"] > before + 0.3, "decibels, after so few steps"
    lines = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert "critic" not in lines[15]
    assert "critic" in lines[16]
    assert np.mean([x["reconstruction"] for x in lines[-5:]]) < 0.95 * lines[0]["reconstruction"]


def _clock(config: SgpnConfig) -> Clock:
    return Clock(config.run)


def test_a_resumed_run_equals_an_uninterrupted_one(config: SgpnConfig, tmp_path: Path) -> None:
    short = changed(config, run={"max_steps": 6}, optimiser={"batch": 2})
    train(short, tmp_path / "whole")
    asked = iter([False] * 4 + [True])  # both steps, and a joint one after the pause
    assert train(short, tmp_path / "parts", stop=lambda: next(asked)).steps == 4
    assert train(short, tmp_path / "parts").steps == 6
    whole, parts = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    for name in ("network", "critic", "regressor", "average", "average_regressor"):
        assert all(torch.equal(whole[name][key], parts[name][key]) for key in whole[name]), name


@pytest.mark.parametrize(
    "switch",
    [
        "network.has_shape_prior=false",
        "network.has_generative_prior=false",
        'network.fusion="concat"',
        "has_shape_losses=false",
    ],
)
def test_each_ablation_of_the_paper_is_one_switch(config: SgpnConfig, tmp_path: Path, switch: str) -> None:
    overrides = [f'data.faces="{config.data.faces}"', f'data.cache="{config.data.cache}"', "run.max_steps=2", switch]
    overrides += ["optimiser.adapt_share=0.0", "optimiser.batch=2"]
    report = train(load_config(shipped_config("sgpn_smoke"), overrides), tmp_path / "run")
    assert report.steps == 2
    last = [line for line in lines_of(tmp_path / "run") if "loss" in line][-1]
    assert ("landmark" in last) == (switch != "has_shape_losses=false")
    assert ("mesh_positions" in last) == (switch not in ("has_shape_losses=false", "network.has_shape_prior=false"))


def test_a_run_starts_from_given_weights(config: SgpnConfig, tmp_path: Path) -> None:
    regressor = fill_seeded(make_regressor(config.shape.regressor, config.start), seed=7)
    save_file(regressor.state_dict(), tmp_path / "d3dfr.safetensors")
    started = changed(config, start={"regressor": str(tmp_path / "d3dfr.safetensors")})
    training = SgpnTraining(started)
    assert all(torch.equal(a, b) for a, b in zip(training.teacher.parameters(), regressor.parameters(), strict=True))
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="no readable safetensors"):
        SgpnTraining(changed(config, start={"stylegan": str(tmp_path / "damaged.safetensors")}))


def test_holes_are_white_strokes_over_the_degraded_picture(config: SgpnConfig) -> None:
    data = replace(config.data, hole_share=1.0)
    cache, held_out = open_faces(data)
    degraded, clean = SgpnSamples(cache, data, size=32, seed=0)[3]
    plain, same = SgpnSamples(cache, replace(data, hole_share=0.0), size=32, seed=0)[3]
    holes = (degraded == 255).all(0)
    assert 0.01 < holes.float().mean() < 0.9
    assert torch.equal(degraded[:, ~holes], plain[:, ~holes])
    assert torch.equal(clean, same)
    batch = held_out_batch(held_out, data, 32)
    assert (batch.degraded[:, 0] == 1.0).any()


@pytest.mark.parametrize("chain", ["blind", "video"])
def test_samples_depend_on_their_index_alone(config: SgpnConfig, chain: str) -> None:
    data = replace(config.data, chain=chain, varied=True)
    cache, _ = open_faces(data)
    first, again = SgpnSamples(cache, data, size=32, seed=0), SgpnSamples(cache, data, size=32, seed=0)
    again[0], again[4]
    assert all(torch.equal(a, b) for a, b in zip(first[5], again[5], strict=True))
    assert not torch.equal(first[5][0], first[6][0])
    assert first[5][0].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.adapt_share=1.5", r"lie in \[0, 1\]"),
        ("network.has_shape_prior=false", "no regressor to adapt"),
        ("network.coefficients=3", "must be 257"),
        ("network.sice=3", "did you mean 'size'"),
    ],
)
def test_a_wrong_configuration_is_an_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(shipped_config("sgpn_smoke"), [override])


def test_the_paper_s_numbers_are_in_the_shipped_configuration() -> None:
    config = load_config(shipped_config("sgpn"))
    o, losses = config.optimiser, config.losses
    assert (o.batch, o.learning_rate, config.run.max_steps) == (32, 0.002, 400_000)
    assert (losses.adversarial, losses.landmark, losses.mesh) == (1.0, 100.0, 100.0)
    assert config.network == SgpnDims()
    assert load_config(shipped_config("sgpn_inpainting")).data.hole_share == 1.0


def test_shape_losses_are_squares_of_what_moved() -> None:
    model = synthetic_model(5, 5)
    target = 0.3 * torch.from_numpy(seeded_values("target", (2, 257)))
    moved = target.clone()
    moved[:, 254] += 0.3  # all of the mesh by 0.3 along x
    assert landmark_loss(model, moved, target).item() == pytest.approx(0.3**2 / 3, rel=1e-3)
    assert mesh_loss(model, moved, target).positions.item() == pytest.approx(0.3**2 / 3, rel=1e-3)
    assert mesh_loss(model, moved, target).colours.item() == pytest.approx(0.0, abs=1e-9)
    assert landmark_loss(model, moved, target, "absolute").item() == pytest.approx(0.1, rel=1e-3)
    lit = target.clone()
    lit[:, 227] += 0.1  # more red light: positions stay
    errors = mesh_loss(model, lit, target)
    assert errors.positions.item() == 0.0
    assert errors.colours.item() > 1e-4


def test_shape_losses_move_the_coefficients_and_leave_the_target() -> None:
    model = synthetic_model(5, 5)
    coefficients = (0.1 * torch.from_numpy(seeded_values("c", (2, 257)))).requires_grad_()
    target = torch.zeros(2, 257, requires_grad=True)
    errors = mesh_loss(model, coefficients, target)
    (landmark_loss(model, coefficients, target) + errors.positions + errors.colours).backward()
    assert target.grad is None
    assert coefficients.grad is not None
    parts = coefficients.grad.split([80, 64, 80, 3, 27, 3], 1)
    assert all(part.abs().sum() > 0 for part in parts)


def test_a_fusion_block_learns_whom_to_believe() -> None:
    """Where the render's features are wrong the mask goes up, elsewhere it goes down: the gradient leads there."""
    torch.manual_seed(0)
    dims = SgpnDims(size=16, max_channels=8, area_channels=128, latent=4, style=8)
    block = StyledConvAffb(8, 8, dims, 16, upsamples=False)
    block.noise.weight.data.fill_(1.0)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.05)

    def sample() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        truth = torch.randn(8, 8, 8, 8)
        wrong = (torch.rand(8, 1, 8, 8) < 0.3).float()
        rendered = truth * (1 - wrong) + 3.0 * wrong  # an occluder that the render does not know
        noisy = truth + 0.5 * torch.randn_like(truth)
        return torch.randn(8, 8, 8, 8), noisy, rendered, truth, wrong

    style = torch.zeros(8, 8)
    for _ in range(120):
        x, noisy, rendered, truth, _ = sample()
        mask = block.mask(block.conv(x, style), noisy, rendered)
        loss = (torch.lerp(rendered, noisy, mask) - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, noisy, rendered, _, wrong = sample()
    with torch.no_grad():
        mask = block.mask(block.conv(x, style), noisy, rendered).mean(1, keepdim=True)
    inside, outside = (mask * wrong).sum() / wrong.sum(), (mask * (1 - wrong)).sum() / (1 - wrong).sum()
    assert inside > 0.8
    assert outside < 0.35
