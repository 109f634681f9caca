"""Samples made in the step: they are those of the workers, but for the codecs; faces without end; exact resume."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vidrestore.errors import ConfigError
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import ShapeRegressor
from vidrestore.restoration.mobilestyle import GeneratorDims, StyleGenerator
from vidrestore.train import device_samples, loop, mobile, regressor
from vidrestore.train.data import FaceCache, FacePairs, FacePlans, HeldOut, Mix
from vidrestore.train.device_samples import (
    DevicePlan,
    DeviceStream,
    EndlessFaces,
    PlannedFaces,
    PlannedMeshes,
    PlannedWide,
    StepGenerator,
    made,
)
from vidrestore.train.generator import Mapping
from vidrestore.train.losses import unsteadiness
from vidrestore.train.meshes import MeshPairs, PointCache
from vidrestore.train.run import Clock, RunOptions, shipped_config
from vidrestore.train.views import two_frames
from vidrestore.train.vr468 import mesh_of

DAMAGED = Mix(light=0.3, medium=0.2, heavy=0.2, still=0.1, still_heavy=0.1, texture=0.5, soft=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six smooth pictures of 96 pixels."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        cv2.imwrite(str(root / f"{i:05d}.png"), cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC))
    return root


@pytest.fixture(scope="module")
def cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    return FaceCache(sorted(folder.glob("*.png")), 80, tmp_path_factory.mktemp("cache") / "c.npy")


@pytest.fixture(scope="module")
def small() -> StepGenerator:
    """A generator of 64 pixels from random values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = StyleGenerator(GeneratorDims(style=16, base=16, channels=(16, 16, 8)))
        return StepGenerator(48, 3, "cpu", mapping=Mapping(16, 2), generator=net, mean=torch.zeros(16))


def levels(pictures: torch.Tensor) -> np.ndarray:
    """Of 8 bits, of pictures in [-1, 1]."""
    return np.asarray(((pictures + 1.0) * 127.5).round().numpy())


def decibel(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(float(np.mean((a.astype(float) - b) ** 2)), 1e-10)))


def test_clean_faces_are_those_of_the_workers(cache: FaceCache) -> None:
    pairs = FacePairs(cache, size=64, seed=1, crop=48, mix=DAMAGED)
    plans = [PlannedFaces(cache, pairs)[i] for i in range(40)]
    assert any(plan.hiding.layers for plan in plans)
    assert any(plan.other is not None for plan in plans)
    assert any(plan.texture is not None for plan in plans)
    assert any(plan.soft > 0 for plan in plans)
    found = levels(made(plans, "cpu", size=64, crop=48).clean)
    for i in range(40):
        assert decibel(found[i], pairs[i][1].numpy()) > 45.0, plans[i]


def test_the_damage_of_whole_samples_is_as_large_as_the_workers(cache: FaceCache) -> None:
    pairs = FacePairs(cache, size=64, seed=1, mix=DAMAGED, views=2)
    plans = [PlannedFaces(cache, pairs)[i] for i in range(40)]
    samples = made(plans, "cpu", size=64, views=2)
    assert samples.degraded.shape == (40, 2, 3, 64, 64)
    expected = [pairs[i] for i in range(40)]
    worker = [np.abs(d.numpy().astype(float) - c.numpy()).mean() for d, c in expected]
    device = np.abs(levels(samples.degraded) - levels(samples.clean)[:, None]).mean((1, 2, 3, 4))
    assert device.mean() == pytest.approx(np.mean(worker), rel=0.1)
    assert np.corrcoef(device, worker)[0, 1] > 0.9
    clean = [i for i, plan in enumerate(plans) if plan.level == 3]
    assert clean
    assert torch.equal(samples.degraded[clean, 0], samples.clean[clean])


def test_a_sample_does_not_depend_on_its_batch(cache: FaceCache) -> None:
    planned = PlannedFaces(cache, FacePlans(cache, size=64, seed=2))
    batch = made([planned[i] for i in range(6)], "cpu", size=64)
    alone = made([planned[4]], "cpu", size=64)
    assert decibel(levels(batch.clean[4]), levels(alone.clean[0])) > 60.0
    assert decibel(levels(batch.degraded[4]), levels(alone.degraded[0])) > 45.0


def test_points_follow_the_faces_that_the_device_moves(cache: FaceCache) -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0.3, 0.7, (6, 468, 2)), np.zeros((6, 468, 1))], -1).astype(np.float32)
    pairs = MeshPairs(
        cache, PointCache(points, np.ones(6, bool)), mesh_of(load_vr468()), size=64, seed=1, turned=0.0, blinking=0.0
    )
    plans = [PlannedMeshes(pairs)[i] for i in range(12)]
    samples = made(plans, "cpu", size=64, mode="bilinear")
    for i, plan in enumerate(plans):
        expected = pairs[i]
        assert plan.points is not None
        assert np.allclose(plan.points, expected["points"].numpy())
        assert (
            decibel(levels(samples.clean[i]), expected["clean"].numpy()) > 38.0
        )  # OpenCV's linear warp is of 1 / 32 px


def test_held_out_faces_are_degraded_on_the_device_as_by_the_workers(folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))
    there, here = (HeldOut.make(paths, size=64, device=device) for device in ("cpu", None))
    assert torch.equal(there.clean, here.clean)
    for level, degraded in there.degraded.items():
        harm = [float((d - here.clean).abs().mean()) for d in (degraded, here.degraded[level])]
        assert harm[0] == pytest.approx(harm[1], rel=0.25)
    alone = HeldOut.make(paths[1:2], size=64, device="cpu")
    assert alone.clean.shape == (1, 3, 64, 64)


def test_trainings_and_samples_on_a_device_want_no_pyav(folder: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from vidrestore.train import loop, mobile, regressor\n"
        "from vidrestore.train.data import HeldOut\n"
        f"print(len(HeldOut.make(sorted(Path({str(folder)!r}).glob('*.png')), size=64, device='cpu').degraded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "3", done.stderr


# --- generated -------------------------------------------------------------------------------------------------------


def test_generated_faces_depend_on_seed_and_number_alone(small: StepGenerator) -> None:
    styles = small.styles([5, 6, 7])
    assert torch.allclose(styles[1:2], small.styles([6]), atol=1e-6)
    assert not torch.allclose(styles[0], styles[1])
    pictures = small.pictures(styles)
    assert pictures.shape == (3, 3, 48, 48)
    assert 0.0 <= float(pictures.min()) < float(pictures.max()) <= 1.0
    assert len({plan.number for plan in (PlannedWide(EndlessFaces(48), size=32, seed=1)[i] for i in range(5))}) == 5


def test_styles_are_drawn_towards_the_mean_as_those_of_the_kept_faces(small: StepGenerator) -> None:
    """w - mean is psi times the mapping's own: its length over the mapping's lies in the published range of psi."""
    own = StepGenerator(48, 3, "cpu", mapping=small.mapping, generator=small.generator, mean=torch.zeros(16))
    z = [np.random.default_rng([3, device_samples._LATENT, n]).standard_normal(16, np.float32) for n in range(200)]
    w = own.mapping(torch.from_numpy(np.stack(z)))
    psi = own.styles(range(200)).norm(dim=1) / w.norm(dim=1)
    assert 0.6 <= float(psi.min()) < 0.65
    assert 0.90 < float(psi.max()) <= 0.95 + 1e-6
    assert float(psi.mean()) == pytest.approx(0.775, abs=0.03)


def test_samples_of_generated_faces_are_whole(small: StepGenerator) -> None:
    plans = [PlannedWide(EndlessFaces(48), size=32, seed=1)[i] for i in range(16)]
    samples = made(plans, "cpu", size=32, mode="bilinear", generator=small)
    assert samples.styles is not None
    assert samples.styles.shape == (16, 16)
    assert samples.degraded.shape == (16, 1, 3, 32, 32)
    assert bool(torch.isfinite(samples.degraded).all())
    again = made(plans[8:], "cpu", size=32, mode="bilinear", generator=small)
    assert again.styles is not None
    assert torch.allclose(samples.styles[8:], again.styles, atol=1e-6)
    with pytest.raises(ValueError, match="wants a generator"):
        made(plans, "cpu", size=32)


@pytest.mark.parametrize("start", [0, 5])
def test_batches_out_of_long_passes_are_the_same_samples(small: StepGenerator, start: int) -> None:
    plans = PlannedWide(EndlessFaces(48), size=32, seed=1)
    whole = made([plans[i] for i in range(8)], "cpu", size=32, mode="bilinear", generator=small)
    clock = Clock(RunOptions(max_steps=1))
    clock.samples = start
    source = DeviceStream(plans, size=32, device="cpu", workers=0, generator=small, at_once=8)
    for first in range(start, 18, 3):
        batch = source.batch(clock, 3)
        assert batch["face"].tolist() == [first, first + 1, first + 2]
        for i, number in enumerate(range(first, min(first + 3, 8))):  # of the first pass
            assert torch.equal(batch["degraded"][i], whole.degraded[number, 0])
            assert torch.equal(batch["clean"][i], whole.clean[number])


def test_levels_have_noise_and_the_finer_ones_may_be_of_somebody_else(small: StepGenerator) -> None:
    styles = small.styles(range(100))
    assert torch.equal(small.levels(range(100), styles), styles[:, None].expand(-1, 4, -1))
    parts = {"mapping": small.mapping, "generator": small.generator, "mean": small.mean}
    noisy = StepGenerator(48, 3, "cpu", noise=0.2, **parts)  # type: ignore[arg-type]
    away = noisy.levels(range(100), styles) - styles[:, None]
    assert float(away.std()) == pytest.approx(0.2 * noisy.spread, rel=0.03)
    assert abs(float(torch.corrcoef(away[:, :2].transpose(0, 1).flatten(1))[0, 1])) < 0.1  # each level its own
    with torch.random.fork_rng(devices=[]):
        deep = StyleGenerator(GeneratorDims(style=16, base=8, channels=(8,) * 6))
    mixed = StepGenerator(48, 3, "cpu", mapping=small.mapping, generator=deep, mean=small.mean, mixed=0.5)
    levels = mixed.levels(range(100), styles)
    assert torch.equal(levels[:, :4], styles[:, None].expand(-1, 4, -1))
    assert 0.35 < float((levels[:, -1] != styles).any(1).double().mean()) < 0.65
    assert mixed.pictures(levels[:2]).shape == (2, 3, 48, 48)
    assert torch.allclose(levels[7:9], mixed.levels([7, 8], styles[7:9]), atol=1e-6)


# --- trainings -------------------------------------------------------------------------------------------------------


def tiny(
    side: int, seed: int, device: str, *, mean: object = None, noise: float = 0.0, mixed: float = 0.0
) -> StepGenerator:
    """Stands in for the published generator, which takes a second a face on a CPU; the same styles of 512."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = StyleGenerator(GeneratorDims(style=512, base=8, channels=(8, 8, 8, 8)))
        return StepGenerator(
            side, seed, device, mapping=Mapping(512, 1), generator=net, mean=torch.zeros(512), noise=noise, mixed=mixed
        )


def parameters(folder: Path) -> list[torch.Tensor]:
    raw = torch.load(folder / "checkpoint.pt", weights_only=True)
    return [value for part in ("network", "average") for value in raw[part].values()]


@pytest.mark.parametrize("generated", [False, True], ids=["cached", "generated"])
def test_compact_learns_in_the_step_and_resumes_exactly(
    generated: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "StepGenerator", tiny)
    settings = [
        f"data.faces={folder}",
        "data.aligned=true",
        f"data.cache={tmp_path}/c.npy",
        "data.on_device=true",
        f"data.generated_in_step={str(generated).lower()}",
        f"data.made_at_once={5 if generated else 0}",
        "run.sheet_faces=0",
    ]
    config = loop.load_config(shipped_config("compact_smoke"), settings)
    loop.train(config, tmp_path / "whole")
    asked = iter([False] * 4 + [True])
    assert loop.train(config, tmp_path / "parts", stop=lambda: next(asked)).steps == 4
    loop.train(config, tmp_path / "parts")
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert (tmp_path / "c.npy").is_file() is not generated


def test_mobile_learns_from_generated_faces_and_resumes_exactly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobile, "StepGenerator", tiny)
    monkeypatch.setattr(mobile, "mean_style", lambda: torch.zeros(512))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = ShapePrior(regressor=ShapeRegressor().eval())
    settings = [
        f"data.faces={folder}",
        f"data.cache={tmp_path}/c.npy",
        f"data.points={tmp_path}/points.npz",
        "data.on_device=true",
        "data.generated_in_step=true",
        "network.style=512",
        "run.max_steps=2",
        "run.sheet_faces=0",
        "run.log_every=1",
    ]
    config = mobile.load_config(shipped_config("mobile_smoke"), settings)
    phase = mobile.Phase(batch=1, views=2, motion=4, steady=0.1, style=0.1, mesh=0.05)
    config = replace(config, phase=(phase,))
    heard: list[dict[str, float]] = []
    mobile.train(config, tmp_path / "whole", prior=prior, progress=lambda *x: heard.append(dict(x[2])))
    assert all(values["style"] > 0.0 and values["mesh"] > 0.0 for values in heard)
    asked = iter([False, True])
    mobile.train(config, tmp_path / "parts", prior=prior, stop=lambda: next(asked))
    mobile.train(config, tmp_path / "parts", prior=prior)
    whole, parts = parameters(tmp_path / "whole"), parameters(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert not (tmp_path / "points.npz").exists()  # nobody looked for points


def test_what_cannot_be_had_is_an_error(folder: Path) -> None:
    faces = [f"data.faces={folder}", "data.generated_in_step=true"]
    for load, name in ((loop.load_config, "compact_smoke"), (mobile.load_config, "mobile_smoke")):
        with pytest.raises(ConfigError, match=r"wants data\.on_device"):
            load(shipped_config(name), faces)
    whole = mobile.load_config(shipped_config("mobile_smoke"), [*faces, "data.on_device=true"])
    with pytest.raises(ConfigError, match=r"data\.mixed are of faces"):
        loop.load_config(shipped_config("compact_smoke"), [f"data.faces={folder}", "data.mixed=0.5"])
    with pytest.raises(ConfigError, match=r"data\.mixed from 0 to 1"):
        loop.load_config(shipped_config("compact_smoke"), [*faces, "data.on_device=true", "data.mixed=1.5"])
    with pytest.raises(ConfigError, match="teacher's points"):
        replace(whole, phase=(mobile.Phase(landmark=0.1),))
    with pytest.raises(ConfigError, match=r"unset data\.samples"):
        replace(whole, data=replace(whole.data, samples="data/samples"))
    with pytest.raises(ConfigError, match="reshaped"):
        replace(whole, data=replace(whole.data, reshaped=0.5))
    with pytest.raises(ConfigError, match="made_at_once"):
        replace(whole, data=replace(whole.data, on_device=False, generated_in_step=False, made_at_once=8))
    with pytest.raises(ConfigError, match=r"unset data\.samples"):
        regressor.DataOptions(on_device=True, samples="data/samples")
    with pytest.raises(ConfigError, match="generated_in_step"):
        regressor.load_config(shipped_config("regressor_smoke"), faces)


# --- two frames ------------------------------------------------------------------------------------------------------


def test_two_frames_on_the_device_show_the_same_with_other_noise() -> None:
    coarse = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clean = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1)
    there = two_frames(clean, [1, 2, 3], motion=6, seed=1, step=4, workers=0, on_device=True)
    here = two_frames(clean, [1, 2, 3], motion=6, seed=1, step=4, workers=0)
    assert there.offsets == here.offsets
    assert torch.equal(there.clean, here.clean)
    assert torch.equal(there.degraded[4:], there.clean[4:])
    assert 0.001 < float(unsteadiness(there.degraded[:4], there.offsets, margin=8)) < 0.2
    errors = [(frames.degraded[:4] - frames.clean[:4]).abs().mean() for frames in (there, here)]
    assert float(errors[0]) == pytest.approx(float(errors[1]), rel=0.3)
    again = two_frames(clean, [1, 2, 3], motion=6, seed=1, step=4, workers=0, on_device=True)
    assert torch.equal(there.degraded, again.degraded)


def test_a_plan_travels_between_processes(cache: FaceCache) -> None:
    planned = PlannedFaces(cache, FacePlans(cache, size=64, seed=2))
    loaded = next(iter(device_samples.stream(planned, batch=3, start=5, workers=1, collate=list)))
    assert all(isinstance(plan, DevicePlan) for plan in loaded)
    here = made([planned[i] for i in (5, 6, 7)], "cpu", size=64)
    assert torch.equal(made(loaded, "cpu", size=64).degraded, here.degraded)
