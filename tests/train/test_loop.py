"""The training loop: the smoke configuration runs, resumes exactly, and its configuration is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.compact import CompactDims, load_compact
from vidrestore.train.loop import (
    OptimiserOptions,
    Phase,
    RunOptions,
    TrainConfig,
    load_config,
    shipped_config,
    train,
)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """The shipped smoke configuration on six small pictures."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(6):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.png"), cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC))
    smoke = load_config(shipped_config("compact_smoke"))
    return replace(smoke, data=replace(smoke.data, faces=str(folder), cache=str(tmp_path / "faces.npy")))


def parameters(folder: Path) -> list[torch.Tensor]:
    raw = torch.load(folder / "checkpoint.pt", weights_only=True)
    return [*raw["network"].values(), *raw["average"].values()]


def test_the_smoke_configuration_leaves_weights_and_a_log(config: TrainConfig, tmp_path: Path) -> None:
    heard: list[int] = []
    report = train(config, tmp_path / "run", progress=lambda step, share, values: heard.append(step))
    assert report.steps == config.run.max_steps == 6
    assert heard == [2, 4, 6]
    assert load_compact(report.weights).dims == config.network
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert "steady" in lines[1]
    assert {"psnr_light", "psnr_light_input", "psnr_clean"} <= lines[-1].keys()
    assert set(report.psnr) == {"light", "medium", "heavy"}
    sheet = cv2.imread(str(tmp_path / "run" / "sheets" / "0000006.png"))
    assert sheet.shape == (24 + 2 * (64 + 4), 8 * (64 + 4) - 4, 3)  # three levels twice, clean twice; two faces


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    config: TrainConfig, tmp_path: Path, precision: Literal["float32", "bfloat16"]
) -> None:
    config = replace(config, run=replace(config.run, precision=precision))
    train(config, tmp_path / "whole")
    steps = iter([False, False, False, True])  # asked before each step: the first phase alone
    stopped = train(config, tmp_path / "parts", stop=lambda: next(steps))
    assert stopped.steps == 3
    assert train(config, tmp_path / "parts").steps == 6
    pairs = zip(parameters(tmp_path / "whole"), parameters(tmp_path / "parts"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_can_begin_with_a_weight_file(config: TrainConfig, tmp_path: Path) -> None:
    first = train(config, tmp_path / "first")
    rate = replace(config.optimiser, learning_rate=0.0, final_rate=0.0)
    started = replace(config, optimiser=rate, run=replace(config.run, max_steps=1), start=str(first.weights))
    again = load_compact(train(started, tmp_path / "again").weights).state_dict()
    assert all(torch.equal(again[k], v) for k, v in load_compact(first.weights).state_dict().items())
    with pytest.raises(ConfigError, match="has the layout"):
        train(replace(started, start="shipped"), tmp_path / "other")


@pytest.mark.parametrize("views", [1, 2])
def test_two_windows_of_a_face_are_compared(config: TrainConfig, tmp_path: Path, views: int) -> None:
    heard: list[float] = []
    phase = Phase(batch=2, crop=36, shift=4, views=views, steady=0.3)
    shifted = replace(config, run=replace(config.run, max_steps=2, log_every=1), phase=(phase,))
    train(shifted, tmp_path / "run", progress=lambda step, share, values: heard.append(values["steady"]))
    assert len(heard) == 2
    assert heard[0] >= 0.0
    with pytest.raises(ConfigError, match="crop less shift must be a multiple of 32"):
        replace(config, phase=(replace(phase, crop=34),))


def test_shape_losses_and_a_critic_are_in_the_log_and_resume(config: TrainConfig, tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []
    phase = Phase(batch=2, landmark=0.1, mesh=0.1, adversarial=0.01)
    judged = replace(config, run=replace(config.run, max_steps=3, log_every=1), phase=(phase,))
    train(judged, tmp_path / "whole", progress=lambda step, share, values: heard.append(dict(values)))
    assert all(np.isfinite(list(values.values())).all() for values in heard)
    assert all({"landmark", "mesh", "adversarial", "critic", "r1"} <= values.keys() for values in heard)
    assert heard[-1]["landmark"] > 0.0
    asked = iter([False, True])
    train(judged, tmp_path / "parts", stop=lambda: next(asked))
    train(judged, tmp_path / "parts")
    pairs = zip(parameters(tmp_path / "whole"), parameters(tmp_path / "parts"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_windows_for_identity_lie_near_the_middle(config: TrainConfig, tmp_path: Path) -> None:
    phase = Phase(batch=2, shift=32, apart=2, steady=0.3)
    near = replace(config, data=replace(config.data, size=64), phase=(phase,))
    train(replace(near, run=replace(config.run, max_steps=1)), tmp_path / "run")
    with pytest.raises(ConfigError, match="shift at most size / 8"):
        replace(near, phase=(replace(phase, identity=0.1),))
    with pytest.raises(ConfigError, match="at most half of shift"):
        replace(near, phase=(replace(phase, apart=17),))


def test_shape_losses_want_the_whole_face(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="landmark and mesh want the whole face"):
        replace(config, phase=(Phase(mesh=0.1, crop=32),))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_fits_a_face(config: TrainConfig, tmp_path: Path, precision: Literal["float32", "bfloat16"]) -> None:
    """Forty steps on one kind of picture must lower the validation error; a loop that does not learn fails here."""
    longer = replace(
        config,
        network=CompactDims((16,), (1,), ()),
        run=replace(config.run, max_steps=40, precision=precision),
        phase=(Phase(batch=4, crop=32, laplacian=1.0),),
        optimiser=OptimiserOptions(learning_rate=2e-3, warmup_steps=5, ema=0.9),
    )
    report = train(longer, tmp_path / "run")
    before, after = (np.mean([v[i] for v in report.psnr.values()]) for i in (0, 1))
    assert after > before


def test_a_run_leaves_the_global_state_alone(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(config, run=replace(config.run, threads=1, max_steps=2)), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_damaged_checkpoint_is_an_error(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="not a checkpoint of this network"):
        train(config, tmp_path / "run")


def test_a_finished_run_is_not_trained_further(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    before = parameters(tmp_path / "run")
    assert train(config, tmp_path / "run").steps == 6
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(tmp_path / "run"), strict=True))


@pytest.mark.parametrize("name", ["compact", "compact_finish", "compact_identity", "compact_smoke"])
def test_shipped_configurations_load(name: str) -> None:
    assert load_config(shipped_config(name)).phase[-1].until == 1.0


def test_the_shipped_configuration_trains_the_shipped_layout() -> None:
    assert load_config(shipped_config("compact")).network == load_compact().dims


def test_an_unknown_configuration_is_an_error() -> None:
    with pytest.raises(
        ConfigError,
        match=r"no training configuration .large., there are .*compact, compact_finish, compact_identity, compact_s",
    ):
        shipped_config("large")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run\n", "not a readable TOML file"),
        ("[run]\nmax_step = 3\n", "unknown key run.max_step, did you mean 'max_steps'"),
        ("[rune]\n", "unknown key rune, did you mean 'run'"),
        ("[run]\nmax_steps = 1.5\n", "run.max_steps must be int"),
        ('[data]\nworkers = "two"\n', "data.workers must be int"),
        ("[data]\nfaces = 3\n", "data.faces must be str"),
        ("data = 3\n", "data must be a table"),
        ("[network]\nwidths = [8]\n", "do not fit widths"),
        ("[run]\nmax_steps = 3\n[data]\nsize = 100\n", "multiple of 32"),
        ("[data]\nsize = 64\n", "otherwise training has no end"),
        ("[run]\nmax_steps = 3\n[[phase]]\nuntil = 0.5\n", "end at 1.0"),
        ("[run]\nmax_steps = 3\n[[phase]]\nsteady = 0.5\n", "2 where steady is above 0"),
    ],
)
def test_a_wrong_configuration_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_the_rate_warms_up_and_ends_low(config: TrainConfig, tmp_path: Path) -> None:
    run = replace(
        config,
        optimiser=OptimiserOptions(warmup_steps=4),
        run=RunOptions(max_steps=8, log_every=1, threads=1, validation_faces=1),
    )
    rates: list[float] = []
    train(run, tmp_path / "run", progress=lambda step, share, values: rates.append(values["rate"]))
    assert rates[0] < rates[1] < rates[2]
    assert rates[-1] < 0.1 * max(rates)
