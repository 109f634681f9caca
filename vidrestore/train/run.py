"""What every training needs: configuration from TOML, exact resume, average, rates, log, validation, stopping.

A training is a small class (:class:`Training`): its parts, one step, one validation, one export. :func:`run` does the
rest. A step must depend on (seed, step, samples) alone: draw from :func:`rng_at`, take batches from
:func:`vidrestore.train.data.stream` at ``clock.samples``. Then no generator's state has to be carried over, and on one
machine with one number of threads a run that stops and resumes gives the same parameters as one that does not, where
its length is set in steps; where it is set in seconds, the schedule follows the clock.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import logging
import math
import os
import time
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.train.sheets import write_sheet

__all__ = [
    "Clock",
    "Log",
    "RunOptions",
    "RunReport",
    "Shows",
    "Training",
    "cosine_rate",
    "descend",
    "fill_options",
    "follow",
    "load_options",
    "reduced",
    "rng_at",
    "run",
    "set_rate",
    "shipped_config",
    "stepped_rate",
    "warmed_up",
    "young",
]

_log = logging.getLogger(__name__)

_FORMAT = 1
_COUNTERS = ("format", "step", "samples", "seconds", "config")

Heard = Callable[[int, float, Mapping[str, float]], None]
"""Called at each line of the log with the step, the share of the run that is done and the values."""

Options = TypeVar("Options")


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
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's way from picture to picture (:func:`reduced`); parameters, losses and the average stay float32.
    Trainings that have no such way refuse bfloat16."""
    sheet_faces: int = 4
    """Held-out faces on the sheet of samples that each validation leaves; 0 is none."""

    def check_length(self) -> None:
        """Raises ConfigError where the run would have no end."""
        if self.max_steps is None and self.max_seconds is None:
            raise ConfigError("set run.max_steps or run.max_seconds, otherwise training has no end")


@dataclass(slots=True)
class Clock:
    """How far a run is: the counters that a checkpoint holds."""

    options: RunOptions
    step: int = 0
    """Finished steps: within a step, the number of that step from 0."""
    samples: int = 0
    """Samples taken from the data; a training adds its batch."""
    seconds: float = 0.0
    """Of training over all sittings, without validation."""

    @property
    def share(self) -> float:
        """The share of the run that is done, in [0, 1]: by steps or by seconds, whichever is further."""
        by_steps = self.step / self.options.max_steps if self.options.max_steps is not None else 0.0
        by_clock = self.seconds / self.options.max_seconds if self.options.max_seconds is not None else 0.0
        return min(1.0, max(by_steps, by_clock))


class Stateful(Protocol):
    """A module, an optimiser, or anything else that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Takes them back."""
        ...


class Training(Protocol):
    """What is particular to one training."""

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """Name -> what a checkpoint holds of it: networks, averages, optimisers."""
        ...

    def step(self, clock: Clock) -> dict[str, float]:
        """One optimiser step; adds its batch to ``clock.samples`` and gives the values for the log."""
        ...

    def validate(self, clock: Clock) -> dict[str, float]:
        """Measures on held-out data, with all that the report shall hold."""
        ...

    def export(self, folder: Path, clock: Clock) -> Path:
        """Writes the result as it stands, and gives its path."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A training that can show samples."""

    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB: held-out faces as they were degraded, as they are restored, and clean.

        Args:
            faces: how many at most.
        """
        ...


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run came to."""

    steps: int
    seconds: float
    """Seconds of training over all sittings, without validation."""
    weights: Path
    """The averaged network as ``.safetensors``."""
    values: Mapping[str, float]
    """Of the last validation."""


def run(
    training: Training,
    options: RunOptions,
    folder: str | os.PathLike[str],
    *,
    config: object,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
) -> RunReport:
    """Trains, and leaves the export, ``checkpoint.pt``, ``log.jsonl`` and sheets of samples in a folder.

    A folder that holds a checkpoint is resumed. With TensorBoard installed its event files are written too, the sheets
    in them. A sheet is made at each validation by a training that :class:`Shows`: ``sheets/0001234.png`` after step
    1234.

    Args:
        training: what is trained, built from the configuration and not yet resumed.
        options: length and housekeeping.
        folder: for the results; made if missing.
        config: the dataclass of all settings; kept in the checkpoint, and a warning tells where they have changed.
        progress: called at each line of the log.
        stop: asked before each step; once true, a checkpoint is written and the run ends early.

    Raises:
        ConfigError: ``precision`` is one that the training has not.
        WeightsError: the checkpoint is damaged or of another network.
        FloatingPointError: the loss is no longer finite; the last checkpoint is kept.
    """
    if options.precision != "float32" and not getattr(training, "takes_bfloat16", False):
        raise ConfigError(f"run.precision = {options.precision!r}: this training knows float32 only")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    clock = Clock(options)
    checkpoint = target / "checkpoint.pt"
    text = json.dumps(dataclasses.asdict(typing.cast(Any, config)))
    if checkpoint.is_file():
        _load(checkpoint, training, clock, text)
    with _threads(options.threads), Log(target) as log:
        saved = validated = time.monotonic()
        while clock.share < 1.0 and not (stop is not None and stop()):
            began = time.monotonic()
            values = training.step(clock)
            clock.step += 1
            clock.seconds += time.monotonic() - began
            if clock.step % options.log_every == 0:
                values["step_s"] = time.monotonic() - began
                log.write(clock, values)
                if progress is not None:
                    progress(clock.step, clock.share, values)
            if time.monotonic() - saved > options.checkpoint_seconds:
                _save(checkpoint, training, clock, text)
                saved = time.monotonic()
            if time.monotonic() - validated > options.validate_seconds:
                log.write(clock, training.validate(clock))
                _show(training, target, clock, log)
                training.export(target, clock)
                validated = time.monotonic()
        _save(checkpoint, training, clock, text)
        last = training.validate(clock)
        log.write(clock, last)
        _show(training, target, clock, log)
    return RunReport(clock.step, clock.seconds, training.export(target, clock), last)


def _show(training: Training, folder: Path, clock: Clock, log: Log) -> None:
    if clock.options.sheet_faces > 0 and isinstance(training, Shows):
        sheet = training.sheet(clock.options.sheet_faces)
        write_sheet(folder / "sheets" / f"{clock.step:07d}.png", sheet)
        log.show(clock, sheet)


def _save(path: Path, training: Training, clock: Clock, config: str) -> None:
    state: dict[str, Any] = {
        "format": _FORMAT,
        "step": clock.step,
        "samples": clock.samples,
        "seconds": clock.seconds,
        "config": config,
    }
    for name, part in training.parts.items():
        assert name not in state, name
        state[name] = part.state_dict()
    part_path = path.with_name(path.name + ".part")
    torch.save(state, part_path)
    os.replace(part_path, path)


def _load(path: Path, training: Training, clock: Clock, config: str) -> None:
    try:
        raw = torch.load(path, map_location=clock.options.device, weights_only=True)
        if raw["format"] != _FORMAT:
            raise WeightsError(f"{path}: checkpoint format {raw['format']}, this version reads {_FORMAT}")
        parts = training.parts
        if set(raw) - set(_COUNTERS) != set(parts):
            raise WeightsError(f"{path}: holds {', '.join(sorted(raw))}; a checkpoint of another training")
        for name, part in parts.items():
            part.load_state_dict(raw[name])
        clock.step, clock.samples, clock.seconds = int(raw["step"]), int(raw["samples"]), float(raw["seconds"])
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{path}: not a checkpoint of this network; remove it to begin anew") from error
    if raw["config"] != config:
        _log.warning("%s was made with another configuration; going on with the new one", path)


def reduced(options: RunOptions) -> AbstractContextManager[Any]:
    """Where a network's layers compute in ``options.precision``; nothing changes where it is float32.

    What it gives may be bfloat16: make it float32 before it meets a loss.
    """
    kind = torch.device(options.device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=options.precision == "bfloat16")


def rng_at(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The random numbers of one step or sample: a function of its arguments alone.

    Args:
        seed: of the run.
        purpose: keeps streams apart; the samples of :mod:`vidrestore.train.data` use 1 to 3.
        number: of the step or sample.
    """
    return np.random.default_rng([seed, purpose, number])


def cosine_rate(share: float, first: float, last: float) -> float:
    """Learning rate at a share of its period: half a cosine from ``first`` to ``last``."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def stepped_rate(step: int, first: float, milestones: Sequence[int], factor: float = 0.5) -> float:
    """Learning rate that is multiplied by ``factor`` at each milestone, given in steps."""
    return first * factor ** sum(step >= milestone for milestone in milestones)


def warmed_up(rate: float, step: int, warmup_steps: int) -> float:
    """The rate, rising in a line over the first steps of a run."""
    return rate * min(1.0, (step + 1) / max(1, warmup_steps))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Gives all parameter groups the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    *,
    clip: float | None = None,
    step: int,
    what: object = "",
) -> float:
    """One step down; gives the length of the gradient before it was shortened.

    Args:
        loss: scalar.
        optimiser: over ``parameters``.
        parameters: all that the optimiser moves.
        clip: longest gradient; longer ones are shortened to it. None leaves them.
        step: for the message.
        what: the terms of the loss, for the message.

    Raises:
        FloatingPointError: the loss is not finite; nothing was changed.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is not finite at step {step}: {what}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    length = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
    optimiser.step()
    return float(length)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Moves an average towards a network: ``keep * average + (1 - keep) * network``.

    Named parameters only, as the published trainings do: buffers of the average keep their first values.
    """
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1.0 - keep)


def young(keep: float, step: int) -> float:
    """The share that stays in an average, lower in the first steps, so that the first values are soon forgotten.

    Args:
        keep: in the long run.
        step: finished steps, this one included.
    """
    return min(keep, step / (step + 10))


def load_options(path: str | os.PathLike[str], kind: type[Options], overrides: Sequence[str] = ()) -> Options:
    """Reads a TOML file into a frozen dataclass of dataclasses.

    A field that is a dataclass is a table, one that is a tuple of dataclasses any number of ``[[tables]]``; they
    may be nested. Values are checked against the annotations: bool, int, float, str, ``Literal``, tuples of
    them, and ``| None``.

    Args:
        path: the file.
        kind: the dataclass.
        overrides: ``table.key=value``, over the file; the value is TOML, or else taken as a word.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong; a misspelt key is told its neighbour.
    """
    try:
        raw = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    for override in overrides:
        _override(raw, override)
    return fill_options(path, kind, raw)


def fill_options(source: str | os.PathLike[str], kind: type[Options], raw: Mapping[str, Any]) -> Options:
    """The same of a table that was read already.

    Raises:
        ConfigError: a key or value is wrong; ``source`` is named.
    """
    return typing.cast(Options, _fill(source, "", kind, raw))


def shipped_config(name: str) -> Path:
    """The path of a configuration that comes with the package.

    Raises:
        ConfigError: there is none of that name.
    """
    path = Path(str(resources.files("vidrestore.train").joinpath("configs", f"{name}.toml")))
    if not path.is_file():
        names = sorted(p.stem for p in path.parent.glob("*.toml"))
        raise ConfigError(f"no training configuration {name!r}, there are {', '.join(names)}")
    return path


def _override(raw: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    *tables, last = key.strip().split(".")
    if not sign or not last:
        raise ConfigError(f"expected table.key=value, got {text!r}")
    for table in tables:
        raw = raw.setdefault(table, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{text!r}: {table} is no table")
    try:
        raw[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raw[last] = value.strip()


def _fill(path: str | os.PathLike[str], name: str, kind: Any, table: Any) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} must be a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{name}.{key}" if name else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(fields)}"
            raise ConfigError(f"{path}: unknown key {place}{hint}")
        hint_type = hints[key]
        inner = typing.get_args(hint_type)[0] if typing.get_origin(hint_type) is tuple else None
        if dataclasses.is_dataclass(hint_type):
            values[key] = _fill(path, place, hint_type, value)
        elif inner is not None and dataclasses.is_dataclass(inner):
            if not isinstance(value, list):
                raise ConfigError(f"{path}: {place} must be written as [[{place}]], got {value!r}")
            values[key] = tuple(_fill(path, place, inner, entry) for entry in value)
        else:
            try:
                values[key] = _fitted(hint_type, value)
            except TypeError:
                raise ConfigError(f"{path}: {place} must be {fields[key].type}, got {value!r}") from None
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {name}: {error}") from error


def _fitted(hint: Any, value: Any) -> Any:
    """The value as the annotation wants it; TypeError where it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for argument in arguments:
            if argument is not types.NoneType:
                try:
                    return _fitted(argument, value)
                except TypeError:
                    continue
        raise TypeError
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise TypeError
        return tuple(_fitted(kind, entry) for kind, entry in zip(kinds, value, strict=True))
    if origin is Literal and value in arguments:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Log:
    """JSON lines always, TensorBoard where it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def __enter__(self) -> Log:
        self.file = (self.folder / "log.jsonl").open("a", encoding="utf-8")
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # heavy, and wants the package

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(self, clock: Clock, values: Mapping[str, float]) -> None:
        """One line, at once on disk."""
        line = {"step": clock.step, "progress": round(clock.share, 5), "time_s": round(time.time(), 1), **values}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, clock.step)

    def show(self, clock: Clock, picture: NDArray[np.uint8]) -> None:
        """An (H, W, 3) RGB picture, where TensorBoard is installed."""
        if self.writer is not None:
            self.writer.add_image("samples", picture, clock.step, dataformats="HWC")
