"""The training loop of ``compact``: configuration, exact resume, checkpoints, log, validation.

A sample depends on (seed, index) alone and a step on (seed, step) alone, so no generator's state has to be carried
over: network, average, optimiser, step and the seconds used make a checkpoint. On one machine with one number of
threads, a run that stops and resumes gives the same parameters as one that does not, where its length is set in
steps; where it is set in seconds, the schedule follows the clock.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib.util
import json
import logging
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.restoration.compact import CompactDims, CompactNet, save_compact
from vidrestore.train.data import FaceCache, FacePairs, HeldOut, batches, list_images, split_held_out
from vidrestore.train.losses import absolute_error, laplacian_error, perceptual_error, sample_weights, unsteadiness

__all__ = [
    "DataOptions",
    "OptimiserOptions",
    "Phase",
    "RunOptions",
    "TrainConfig",
    "TrainReport",
    "load_config",
    "shipped_config",
    "train",
]

_log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where faces come from and how samples are made."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces (FFHQ's template)."""
    cache: str = "data/faces_320.npy"
    """File of the resized faces; made when missing or out of date."""
    cache_size: int = 320
    """Side of the cached faces in pixels: a quarter more than the crop, for jitter without blur."""
    size: int = 256
    """Side of the network's crop in pixels."""
    held_out: int = 128
    """The first so many faces are for validation and never trained on."""
    workers: int = 2
    """Processes that make samples."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """AdamW with a warm-up and a cosine down to ``final_rate``."""

    learning_rate: float = 6e-4
    final_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 0.5
    """Longest gradient; longer ones are shortened to it."""
    ema: float = 0.998
    """Share of the average that stays at each step; the average is what is validated and shipped."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Weights of the losses for a part of the run."""

    until: float = 1.0
    """The phase ends at this share of the run, in (0, 1]."""
    batch: int = 8
    """Faces per step; the network sees ``batch * views`` pictures."""
    views: int = 1
    """1, or 2 frames of each shot, which ``steady`` wants."""
    l1: float = 1.0
    laplacian: float = 0.5
    softness: float = 0.05
    """Difference, in units of [-1, 1], below which these two count squares; 0 is the plain absolute value."""
    balanced: bool = True
    """Weighs each sample by the inverse of its error before restoration."""
    perceptual: float = 0.0
    """Weight of ST-LPIPS (AlexNet) over a window of ``window`` pixels."""
    window: int = 128
    """Side of that window in pixels, at most that of the crop."""
    crop: int | None = None
    """Side of the random window of the face that is trained on, in pixels; None is the whole."""
    steady: float = 0.0
    """Weight of the difference between the restorations of two frames of one shot."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Length, seed and housekeeping."""

    seed: int = 1
    max_steps: int | None = None
    """The run ends after so many steps."""
    max_seconds: float | None = None
    """The run ends after so many seconds of training, earlier sittings included; the schedule is fitted to it."""
    threads: int | None = None
    """Threads of torch; None leaves them."""
    device: str = "cpu"
    log_every: int = 20
    """Steps between lines of the log."""
    validate_seconds: float = 300.0
    """Seconds between validations; one is made at the end in any case."""
    validation_faces: int = 16
    """Held-out faces of a validation."""
    checkpoint_seconds: float = 180.0
    """Seconds between checkpoints; one is made at the end in any case."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """All of a run; read from TOML by :func:`load_config`."""

    data: DataOptions = field(default_factory=DataOptions)
    network: CompactDims = field(default_factory=CompactDims)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=RunOptions)
    phase: tuple[Phase, ...] = (Phase(),)

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        ends = [p.until for p in self.phase]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0.0 or ends[-1] != 1.0:
            raise ConfigError(f"the phases' until must rise and end at 1.0, got {ends}")
        if self.run.max_steps is None and self.run.max_seconds is None:
            raise ConfigError("set run.max_steps or run.max_seconds, otherwise training has no end")
        for phase in self.phase:
            if phase.views not in (1, 2) or (phase.steady > 0.0 and phase.views != 2):
                raise ConfigError(f"views must be 1 or 2, and 2 where steady is above 0, got {phase}")
        if self.data.size % self.network.multiple:
            raise ConfigError(f"data.size must be a multiple of {self.network.multiple}, got {self.data.size}")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a run came to."""

    steps: int
    seconds: float
    """Seconds of training over all sittings, without validation."""
    weights: Path
    """The averaged network as ``.safetensors``."""
    psnr: Mapping[str, tuple[float, float]]
    """Level -> (degraded, restored) mean PSNR in dB over the validation faces."""


def load_config(path: str | os.PathLike[str]) -> TrainConfig:
    """Reads a TOML file with the tables data, network, optimiser, run and any number of ``[[phase]]``.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong; a misspelt key is told its neighbour.
    """
    try:
        raw = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    kinds: dict[str, Any] = {
        "data": DataOptions,
        "network": CompactDims,
        "optimiser": OptimiserOptions,
        "run": RunOptions,
        "phase": Phase,
    }
    _check_keys(path, "", raw, kinds)
    parts: dict[str, Any] = {}
    for name, table in raw.items():
        if name == "phase":
            parts[name] = tuple(_fill(path, "phase", Phase, entry) for entry in table)
        else:
            parts[name] = _fill(path, name, kinds[name], table)
    return TrainConfig(**parts)


def shipped_config(name: str) -> Path:
    """The path of a configuration in the package: ``compact`` or ``compact_smoke``.

    Raises:
        ConfigError: there is none of that name.
    """
    path = Path(str(resources.files("vidrestore.train").joinpath("configs", f"{name}.toml")))
    if not path.is_file():
        names = sorted(p.stem for p in path.parent.glob("*.toml"))
        raise ConfigError(f"no training configuration {name!r}, there are {', '.join(names)}")
    return path


def _check_keys(path: str | os.PathLike[str], table: str, got: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in got:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {f'{table}.' if table else ''}{key}{hint}")


def _fill(path: str | os.PathLike[str], name: str, kind: Any, table: Any) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} must be a table, got {table!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _check_keys(path, name, table, fields)
    values: dict[str, Any] = {}
    for key, value in table.items():
        annotation = str(fields[key].type)
        if annotation.startswith("tuple"):
            fits = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
            value = tuple(value) if fits else value
        elif annotation.startswith("float"):
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            value = float(value) if fits else value
        elif annotation == "bool":
            fits = isinstance(value, bool)
        elif annotation.startswith("int"):
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, str)
        if not fits:
            raise ConfigError(f"{path}: {name}.{key} must be {annotation}, got {value!r}")
        values[key] = value
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{path}: {name}: {error}") from error


class _State:
    """What changes while training, and what a checkpoint holds."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = CompactNet(config.network)
        self.network.to(device=config.run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        o = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=o.learning_rate, betas=o.betas, weight_decay=o.weight_decay
        )
        self.step = 0
        self.samples = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        run = self.config.run
        by_steps = self.step / run.max_steps if run.max_steps is not None else 0.0
        by_clock = self.seconds / run.max_seconds if run.max_seconds is not None else 0.0
        return min(1.0, max(by_steps, by_clock))

    @property
    def rate(self) -> float:
        """The learning rate of the coming step."""
        o = self.config.optimiser
        cosine = o.final_rate + (o.learning_rate - o.final_rate) * 0.5 * (1 + math.cos(math.pi * self.progress))
        return cosine * min(1.0, (self.step + 1) / max(1, o.warmup_steps))

    def save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        torch.save(
            {
                "format": _FORMAT,
                "step": self.step,
                "samples": self.samples,
                "seconds": self.seconds,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "config": json.dumps(dataclasses.asdict(self.config)),
            },
            part,
        )
        os.replace(part, path)

    def load(self, path: Path) -> None:
        try:
            raw = torch.load(path, map_location=self.config.run.device, weights_only=True)
            if raw["format"] != _FORMAT:
                raise WeightsError(f"{path}: checkpoint format {raw['format']}, this version reads {_FORMAT}")
            self.network.load_state_dict(raw["network"])
            self.average.load_state_dict(raw["average"])
            self.optimiser.load_state_dict(raw["optimiser"])
            self.step, self.samples, self.seconds = int(raw["step"]), int(raw["samples"]), float(raw["seconds"])
        except WeightsError:
            raise
        except Exception as error:
            raise WeightsError(f"{path}: not a checkpoint of this network; remove it to begin anew") from error
        if raw["config"] != json.dumps(dataclasses.asdict(self.config)):
            _log.warning("%s was made with another configuration; going on with the new one", path)


def train(
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, float, Mapping[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainReport:
    """Trains ``compact`` and leaves ``compact.safetensors``, ``checkpoint.pt`` and ``log.jsonl`` in a folder.

    A folder that holds a checkpoint is resumed. With TensorBoard installed its event files are written too.

    Args:
        config: the run.
        folder: for the results; made if missing.
        progress: called at each line of the log with the step, the share done and the values.
        stop: asked after each step; once true, a checkpoint is written and the run ends early.

    Raises:
        ConfigError: no faces, or too few.
        WeightsError: the checkpoint is damaged or of another network, or ST-LPIPS is wanted and not installed.
        FloatingPointError: the loss is no longer finite; the last checkpoint is kept.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths, held_out = split_held_out(list_images(config.data.faces), config.data.held_out)
    cache = FaceCache(paths, config.data.cache_size, config.data.cache)
    validation = HeldOut.make(held_out[: config.run.validation_faces], size=config.data.size)
    state = _State(config)
    checkpoint = target / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(checkpoint)
    with _threads(config.run.threads), _Log(target) as log:
        report = _run(state, cache, validation, target, log, progress, stop or (lambda: False))
    return report


def _run(
    state: _State,
    cache: FaceCache,
    validation: HeldOut,
    target: Path,
    log: _Log,
    progress: Callable[[int, float, Mapping[str, float]], None] | None,
    stop: Callable[[], bool],
) -> TrainReport:
    config, run = state.config, state.config.run
    metric = ShiftTolerantLpips("alex").to(run.device) if any(p.perceptual > 0 for p in config.phase) else None
    phase: Phase | None = None
    source: Iterator[tuple[Tensor, Tensor]] = iter(())
    saved = validated = time.monotonic()
    values: dict[str, float] = {}
    while state.progress < 1.0 and not stop():
        began = time.monotonic()
        current = next(p for p in config.phase if state.progress < p.until)
        if current is not phase:
            phase = current
            data = FacePairs(cache, size=config.data.size, seed=run.seed, views=phase.views, crop=phase.crop)
            source = batches(data, batch=phase.batch, start=state.samples, workers=config.data.workers)
        degraded, clean = next(source)
        waited = time.monotonic() - began
        values = _step(state, phase, metric, degraded.to(run.device), clean.to(run.device))
        state.seconds += time.monotonic() - began
        if state.step % run.log_every == 0:
            values |= {"waited_s": waited, "step_s": time.monotonic() - began}
            log.write(state.step, state.progress, values)
            if progress is not None:
                progress(state.step, state.progress, values)
        if time.monotonic() - saved > run.checkpoint_seconds:
            state.save(target / "checkpoint.pt")
            saved = time.monotonic()
        if time.monotonic() - validated > run.validate_seconds:
            _validate(state, validation, log)
            _export(state, target)
            validated = time.monotonic()
    state.save(target / "checkpoint.pt")
    psnr = _validate(state, validation, log)
    return TrainReport(state.step, state.seconds, _export(state, target), psnr)


def _step(
    state: _State, phase: Phase, metric: ShiftTolerantLpips | None, degraded: Tensor, clean: Tensor
) -> dict[str, float]:
    rate = state.rate
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    restored = state.network(degraded)
    reference = clean.repeat_interleave(phase.views, 0)
    before = absolute_error(degraded, reference, softness=phase.softness)
    weights = sample_weights(before) if phase.balanced else torch.ones_like(before)
    terms = {
        "l1": (weights * absolute_error(restored, reference, softness=phase.softness)).mean(),
        "laplacian": (weights * laplacian_error(restored, reference, softness=phase.softness)).mean(),
    }
    if phase.perceptual > 0.0 and metric is not None:
        room = restored.shape[-1] - phase.window
        draw = np.random.default_rng([state.config.run.seed, 4, state.step]).integers(0, room + 1, 2)
        corner = (int(draw[0]), int(draw[1]))
        distance = perceptual_error(metric, restored, reference, corner=corner, side=phase.window)
        terms["perceptual"] = (weights * distance).mean()
    if phase.steady > 0.0:
        terms["steady"] = unsteadiness(restored)
    loss = sum((getattr(phase, name) * value for name, value in terms.items()), restored.new_zeros(()))
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is not finite at step {state.step}: {terms}")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    length = torch.nn.utils.clip_grad_norm_(state.network.parameters(), state.config.optimiser.clip)
    state.optimiser.step()
    state.step += 1
    state.samples += len(clean)
    keep = min(state.config.optimiser.ema, state.step / (state.step + 10))  # a young average follows faster
    with torch.no_grad():
        for mean, value in zip(state.average.parameters(), state.network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - keep)
    names = {name: float(value.detach()) for name, value in terms.items()}
    return names | {
        "input_l1": float((weights * before).mean()),
        "loss": float(loss.detach()),
        "gradient": float(length),
        "rate": rate,
    }


@torch.inference_mode()
def _validate(state: _State, held_out: HeldOut, log: _Log) -> dict[str, tuple[float, float]]:
    """Mean PSNR per level before and after, and how far clean faces are changed (key ``clean``, after only)."""
    result: dict[str, tuple[float, float]] = {}
    device = state.config.run.device
    for level, degraded in held_out.degraded.items():
        restored = torch.cat([state.average(part.to(device)).clamp(-1, 1).cpu() for part in torch.split(degraded, 8)])
        result[level] = (_psnr(degraded, held_out.clean), _psnr(restored, held_out.clean))
    kept = torch.cat([state.average(part.to(device)).clamp(-1, 1).cpu() for part in torch.split(held_out.clean, 8)])
    values = {f"psnr_{level}": after for level, (_, after) in result.items()}
    values |= {f"psnr_{level}_input": before for level, (before, _) in result.items()}
    log.write(state.step, state.progress, values | {"psnr_clean": _psnr(kept, held_out.clean)})
    return result


def _psnr(picture: Tensor, reference: Tensor) -> float:
    error = ((picture - reference) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)  # at most 100 dB
    return float((-10 * error.log10()).mean())


def _export(state: _State, target: Path) -> Path:
    path = target / "compact.safetensors"
    save_compact(state.average, path, notes={"step": str(state.step), "samples": str(state.samples)})
    return path


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Log:
    """JSON lines always, TensorBoard where it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def __enter__(self) -> _Log:
        self.file = (self.folder / "log.jsonl").open("a", encoding="utf-8")
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # heavy, and wants the package

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(self, step: int, progress: float, values: Mapping[str, float]) -> None:
        line = {"step": step, "progress": round(progress, 5), "time_s": round(time.time(), 1), **values}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
