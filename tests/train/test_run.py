"""What every training shares: options from TOML, overrides, schedules, the average, resume, the log."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.train.run import (
    Clock,
    Log,
    RunOptions,
    Stateful,
    cosine_rate,
    descend,
    follow,
    load_options,
    reduced,
    rng_at,
    run,
    set_rate,
    stepped_rate,
    warmed_up,
    young,
)


@dataclass(frozen=True, slots=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kind: Literal["one", "two"] = "one"
    share: float = 0.5
    name: str | None = None
    loud: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    outer: Outer = field(default_factory=Outer)
    part: tuple[Inner, ...] = ()
    run: RunOptions = field(default_factory=RunOptions)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, "utf-8")
    return path


def test_nested_tables_become_dataclasses(tmp_path: Path) -> None:
    text = '[outer]\nkind = "two"\nshare = 1\n[outer.inner]\nsizes = [4, 5, 6]\n[[part]]\npair = [2, 3.5]\n[[part]]\n'
    settings = load_options(written(tmp_path, text), Settings)
    assert settings.outer == Outer(Inner((4, 5, 6)), "two", 1.0)
    assert isinstance(settings.outer.share, float)
    assert settings.part == (Inner(pair=(2.0, 3.5)), Inner())


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    overrides = ["run.max_steps=7", "outer.name=data/faces", "outer.inner.sizes=[9]", "outer.loud=true"]
    settings = load_options(written(tmp_path, "[run]\nmax_steps = 3\nseed = 4\n"), Settings, overrides)
    assert (settings.run.max_steps, settings.run.seed) == (7, 4)
    assert (settings.outer.name, settings.outer.inner.sizes, settings.outer.loud) == ("data/faces", (9,), True)


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("[outer.iner]\n", None, "unknown key outer.iner, did you mean 'inner'"),
        ('[outer]\nkind = "three"\n', None, "outer.kind must be Literal"),
        ("[outer]\nloud = 1\n", None, "outer.loud must be bool, got 1"),
        ("[outer.inner]\npair = [1]\n", None, "outer.inner.pair must be tuple"),
        ("[part]\n", None, r"part must be written as \[\[part\]\]"),
        ("", "run.max_steps", "expected table.key=value"),
        ("[outer]\nshare = 1\n", "outer.share.deep=3", "share is no table"),
        ("", "run.max_step=3", "did you mean 'max_steps'"),
    ],
)
def test_wrong_options_are_errors(tmp_path: Path, text: str, override: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_options(written(tmp_path, text), Settings, [override] if override else [])


def test_rates() -> None:
    assert [cosine_rate(share, 3.0, 1.0) for share in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([3.0, 2.0, 1.0, 1.0])
    assert [stepped_rate(step, 8.0, (10, 20)) for step in (9, 10, 19, 20)] == [8.0, 4.0, 4.0, 2.0]
    assert [warmed_up(1.0, step, 4) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]


def test_the_average_follows_parameters_and_not_buffers() -> None:
    network = nn.BatchNorm1d(1)
    average = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        network.weight.fill_(3.0)
        assert network.running_mean is not None
        network.running_mean.fill_(5.0)
    follow(average, network, 0.75)
    assert float(average.weight) == pytest.approx(0.75 * 1.0 + 0.25 * 3.0)
    assert average.running_mean is not None
    assert float(average.running_mean) == 0.0


def test_a_young_average_forgets_faster() -> None:
    assert young(0.99, 1) == pytest.approx(1 / 11)
    assert young(0.99, 10_000) == 0.99


def test_a_long_gradient_is_shortened() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    length = descend((weight * torch.tensor([3.0, 4.0])).sum(), optimiser, [weight], clip=1.0, step=0)
    assert length == pytest.approx(5.0)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], abs=1e-4)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(FloatingPointError, match="not finite at step 12"):
        descend(weight.sum() * torch.inf, optimiser, [weight], step=12)
    assert weight.tolist() == [1.0]


class Line:
    """Fits a slope of 2 to noisy points; Adam, so that its moments matter on resume."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.05)
        self.validations: list[int] = []

    @property
    def parts(self) -> dict[str, Stateful]:
        return {"network": self.network, "optimiser": self.optimiser}

    def step(self, clock: Clock) -> dict[str, float]:
        set_rate(self.optimiser, cosine_rate(clock.share, 0.3, 0.02))
        rng = rng_at(clock.options.seed, 9, clock.samples)
        x = torch.from_numpy(rng.normal(size=(8, 1))).float()
        loss = (self.network(x) - 2 * x).square().mean()
        descend(loss, self.optimiser, list(self.network.parameters()), step=clock.step)
        clock.samples += 8
        return {"loss": float(loss.detach())}

    def validate(self, clock: Clock) -> dict[str, float]:
        self.validations.append(clock.step)
        return {"slope": self.network.weight.item()}

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "slope.txt"
        path.write_text(str(self.network.weight.item()), "utf-8")
        return path


def settings(**options: object) -> Settings:
    return Settings(run=RunOptions(max_steps=60, log_every=20, **options))  # type: ignore[arg-type]


def test_a_run_learns_logs_and_exports(tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    config = settings()
    report = run(
        Line(), config.run, tmp_path, config=config, progress=lambda step, share, values: heard.append((step, share))
    )
    assert report.values["slope"] == pytest.approx(2.0, abs=0.05)
    assert report.weights.read_text("utf-8") == str(report.values["slope"])
    assert heard == [(20, pytest.approx(1 / 3)), (40, pytest.approx(2 / 3)), (60, 1.0)]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60, 60]


def test_a_resumed_run_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    config = settings()
    whole, first, second = Line(), Line(), Line()
    run(whole, config.run, tmp_path / "whole", config=config)
    asked = iter(range(100))
    assert run(first, config.run, tmp_path / "parts", config=config, stop=lambda: next(asked) == 23).steps == 23
    assert run(second, config.run, tmp_path / "parts", config=config).steps == 60
    assert torch.equal(whole.network.weight, second.network.weight)
    assert not torch.equal(whole.network.weight, first.network.weight)


def test_a_run_by_the_clock_ends_and_keeps_its_seconds(tmp_path: Path) -> None:
    config = Settings(run=RunOptions(max_seconds=0.2))
    report = run(Line(), config.run, tmp_path, config=config)
    assert 0.2 <= report.seconds < 1.0
    assert run(Line(), config.run, tmp_path, config=config).steps == report.steps


def test_checkpoints_and_validations_come_at_their_times(tmp_path: Path) -> None:
    line, config = Line(), settings(checkpoint_seconds=0.0, validate_seconds=0.0)
    seen: list[bool] = []
    run(
        line,
        config.run,
        tmp_path,
        config=config,
        stop=lambda: seen.append((tmp_path / "checkpoint.pt").is_file()) or len(seen) == 4,  # type: ignore[func-returns-value]
    )
    assert seen == [False, True, True, True]
    assert line.validations == [1, 2, 3, 3]


def test_another_trainings_checkpoint_is_an_error(tmp_path: Path) -> None:
    config = settings()
    run(Line(), config.run, tmp_path, config=config)
    other = Line()
    other.__class__ = type("Other", (Line,), {"parts": property(lambda self: {"something": self.network})})
    with pytest.raises(WeightsError, match="a checkpoint of another training"):
        run(other, config.run, tmp_path, config=config)


def test_other_settings_than_the_checkpoints_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = settings()
    run(Line(), config.run, tmp_path, config=config)
    with caplog.at_level(logging.WARNING):
        run(Line(), config.run, tmp_path, config=settings(seed=8))
    assert "made with another configuration" in caplog.text


class Shown(Line):
    """Shows its slope as a grey."""

    def sheet(self, faces: int) -> NDArray[np.uint8]:
        return np.full((8 * faces, 16, 3), round(100 * self.network.weight.item()), np.uint8)


def test_each_validation_leaves_a_sheet_of_samples(tmp_path: Path) -> None:
    config = settings(validate_seconds=0.0, sheet_faces=3)
    line, asked = Shown(), iter(range(100))
    run(line, config.run, tmp_path, config=config, stop=lambda: next(asked) == 2)
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == ["0000001.png", "0000002.png"]
    sheet = cv2.imread(str(tmp_path / "sheets" / "0000002.png"))
    assert sheet.shape == (24, 16, 3)
    assert int(sheet[0, 0, 0]) == round(100 * line.network.weight.item()) > 0


def test_sheets_can_be_left_out(tmp_path: Path) -> None:
    config = settings(sheet_faces=0)
    run(Shown(), config.run, tmp_path, config=config)
    assert not (tmp_path / "sheets").exists()


def test_the_log_shows_sheets_where_there_is_a_writer(tmp_path: Path) -> None:
    class Writer:
        def __init__(self) -> None:
            self.shown: list[tuple[str, int, str]] = []

        def add_image(self, name: str, picture: NDArray[np.uint8], step: int, dataformats: str) -> None:
            assert picture.shape == (4, 6, 3)
            self.shown.append((name, step, dataformats))

        def close(self) -> None: ...

    with Log(tmp_path) as log:
        log.writer = writer = Writer()
        log.show(Clock(RunOptions(), step=7), np.zeros((4, 6, 3), np.uint8))
    assert writer.shown == [("samples", 7, "HWC")]


def test_a_training_that_knows_float32_only_says_so(tmp_path: Path) -> None:
    config = settings(precision="bfloat16")
    with pytest.raises(ConfigError, match="knows float32 only"):
        run(Line(), config.run, tmp_path, config=config)


def test_layers_compute_in_the_precision_asked_for() -> None:
    layer = nn.Linear(2, 2)
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with reduced(settings(precision=precision).run):
            assert layer(torch.ones(1, 2)).dtype == expected
    assert layer.weight.dtype == torch.float32
