"""The training of ``compact``: its configuration, its losses by phase, its validation.

Resume, log and schedule are :mod:`vidrestore.train.run`'s.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.errors import ConfigError
from vidrestore.evaluate.embedding import load_embedding
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.morphable.prior import ShapePrior
from vidrestore.restoration.compact import CompactDims, CompactNet, load_compact, save_compact
from vidrestore.train.align import training_faces
from vidrestore.train.data import FaceCache, FacePairs, FacePlans, HeldOut, Mix, batches, split_held_out
from vidrestore.train.device_samples import (
    EndlessFaces,
    PlannedFaces,
    StepGenerator,
    check_options,
    check_styles,
    device_batches,
)
from vidrestore.train.gan import PatchCritic, critic_optimiser, hinge_fooling, teach_critic
from vidrestore.train.losses import (
    absolute_error,
    damage_share,
    identity_error,
    identity_moves,
    laplacian_error,
    perceptual_error,
    sample_weights,
    unsteadiness,
)
from vidrestore.train.run import (
    Clock,
    Heard,
    RunOptions,
    RunReport,
    Stateful,
    cosine_rate,
    descend,
    follow,
    load_options,
    reduced,
    rng_at,
    run,
    set_rate,
    shipped_config,
    warmed_up,
    young,
)
from vidrestore.train.shape_judge import ShapeJudge
from vidrestore.train.sheets import lay_sheet

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


_EDGE = 8  # two blocks: nearer to the edge of a window the padding is seen


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where faces come from and how samples are made."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces (FFHQ's template), of photographs, or of videos."""
    aligned: bool | Literal["auto"] = "auto"
    """Whether ``faces`` holds aligned faces already; otherwise they are found and aligned, into a folder beside the
    cache (:func:`vidrestore.train.align.training_faces`)."""
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
    mix: Mix = field(default_factory=Mix)
    """Kinds of damage and of clean faces."""
    on_device: bool = False
    """Samples are made inside the step on the run's device, and workers only draw their numbers. Video codecs are then
    approximated (:mod:`vidrestore.train.degrade_codecs`). For a GPU: on a CPU it takes about twice as long."""
    generated_in_step: bool = False
    """The clean faces, too: generated and seen once. ``faces`` are for validation only. Wants ``on_device``."""
    made_at_once: int = 0
    """With ``on_device``: so many samples are made in one pass and given out batch by batch; 0 makes each batch by
    itself."""
    style_noise: float = 0.0
    """Noise on the style of each level of the generator, in shares of the spread of styles: a face that no single style
    makes, so that a network leans on its input."""
    mixed: float = 0.0
    """Share of the generated faces whose finer levels have the style of somebody else."""


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
    """1, or 2 frames of each shot, which should come out alike."""
    shift: int = 0
    """The network sees two windows of each face, up to so many pixels apart, cut out of the two views or of the one
    there is; the windows are smaller than the crop by this. What belongs to the network's blocks and not to the face,
    such as a grid, differs between them."""
    apart: int | None = None
    """The two windows lie up to so many pixels beside the middle, each way; None is anywhere."""
    l1: float = 1.0
    laplacian: float = 0.5
    softness: float = 0.05
    """Difference, in units of [-1, 1], below which these two count squares; 0 is the plain absolute value."""
    balanced: bool = True
    """Weighs each sample by the inverse of its error before restoration."""
    perceptual: float = 0.0
    """Weight of ST-LPIPS (AlexNet) over a window of ``window`` pixels. A sample counts by its damage: hardly at all
    where it is clean, so that good faces are not repainted."""
    window: int = 128
    """Side of that window in pixels. Smaller than the crop, it lies at a random place, and the strides of the metric
    fall on other pixels of the network's blocks each time."""
    judged: int | None = None
    """So many pictures of a batch are looked at by ST-LPIPS, which costs several times the network; None is all."""
    identity: float = 0.0
    """Weight of the distance of dlib's embedding of the restored face from the clean one's, by damage as ST-LPIPS. The
    network must see nearly all of the crop: no ``crop``, and ``shift`` at most an eighth of its side."""
    crop: int | None = None
    """Side of the random window of the face that is trained on, in pixels; None is the whole."""
    steady: float = 0.0
    """Weight of the difference between the restorations of two views or windows of one face."""
    landmark: float = 0.0
    """Weight of the distance of the 68 landmarks that the 3D model's regressor reads off the restored face from those
    off the clean one, by damage as ST-LPIPS; wants whole crops: no ``crop``, no ``shift``."""
    mesh: float = 0.0
    """The same of its whole mesh, colours included."""
    adversarial: float = 0.0
    """Weight of the hinge loss against a patch critic, which learns along."""
    r1: float = 1.0
    """Weight of the critic's squared gradient on clean faces."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """All of a run; read from TOML by :func:`load_config`."""

    data: DataOptions = field(default_factory=DataOptions)
    network: CompactDims = field(default_factory=CompactDims)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=RunOptions)
    phase: tuple[Phase, ...] = (Phase(),)
    start: str | None = None
    """What a new run begins with: "shipped", or a weight file; None is random values."""

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        ends = [p.until for p in self.phase]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0.0 or ends[-1] != 1.0:
            raise ConfigError(f"the phases' until must rise and end at 1.0, got {ends}")
        self.run.check_length()
        data = self.data
        check_options(
            on_device=data.on_device, generated_in_step=data.generated_in_step, made_at_once=data.made_at_once
        )
        check_styles(data.style_noise, data.mixed, generated_in_step=data.generated_in_step)
        for phase in self.phase:
            side = (phase.crop or self.data.size) - phase.shift
            if phase.perceptual > 0.0 and phase.window > side:
                raise ConfigError(f"window must be at most the crop, got {phase}")
            knows_points = max(phase.landmark, phase.mesh) > 0.0
            if knows_points and (phase.crop is not None or phase.shift > 0):
                raise ConfigError(f"landmark and mesh want the whole face: no crop, no shift, got {phase}")
            if phase.identity > 0.0 and (phase.crop is not None or 8 * phase.shift > self.data.size):
                raise ConfigError(f"identity wants the whole face: no crop, shift at most size / 8, got {phase}")
            if phase.apart is not None and not 0 < 2 * phase.apart <= phase.shift:
                raise ConfigError(f"apart must be above 0 and at most half of shift, got {phase}")
            if phase.views not in (1, 2) or (phase.steady > 0.0 and phase.views != 2 and phase.shift == 0):
                raise ConfigError(f"views must be 1 or 2, and 2 where steady is above 0 without shift, got {phase}")
            if phase.shift < 0 or side % self.network.multiple:
                raise ConfigError(f"crop less shift must be a multiple of {self.network.multiple}, got {phase}")
        if self.data.size % self.network.multiple:
            raise ConfigError(f"data.size must be a multiple of {self.network.multiple}, got {self.data.size}")


@dataclass(frozen=True, slots=True)
class TrainReport(RunReport):
    """What a run came to."""

    psnr: Mapping[str, tuple[float, float]]
    """Level -> (degraded, restored) mean PSNR in dB over the validation faces."""


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a TOML file with the tables data, network, optimiser, run and any number of ``[[phase]]``.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong; a misspelt key is told its neighbour.
    """
    return load_options(path, TrainConfig, overrides)


def train(
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainReport:
    """Trains ``compact`` and leaves ``compact.safetensors``, ``checkpoint.pt`` and ``log.jsonl`` in a folder.

    See :func:`vidrestore.train.run.run` for resume, ``progress`` and ``stop``.

    Raises:
        ConfigError: no faces, or too few.
        WeightsError: the checkpoint is damaged or of another network, or a loss's network is wanted and not installed.
        FloatingPointError: the loss is no longer finite; the last checkpoint is kept.
    """
    report = run(_CompactTraining(config), config.run, folder, config=config, progress=progress, stop=stop)
    levels = [name.removesuffix("_input") for name in report.values if name.endswith("_input")]
    psnr = {name.removeprefix("psnr_"): (report.values[f"{name}_input"], report.values[name]) for name in levels}
    return TrainReport(report.steps, report.seconds, report.weights, report.values, psnr)


class _CompactTraining:
    """What changes while training, and how."""

    takes_bfloat16 = True

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        data = config.data
        found = training_faces(data.faces, data.aligned, data.cache)
        self.cache: FaceCache | EndlessFaces
        self.generator: StepGenerator | None = None
        if data.generated_in_step:
            held_out = found[: data.held_out]
            self.cache = EndlessFaces(data.cache_size)
            self.generator = StepGenerator(
                data.cache_size, config.run.seed, config.run.device, noise=data.style_noise, mixed=data.mixed
            )
        else:
            paths, held_out = split_held_out(found, data.held_out)
            self.cache = FaceCache(paths, data.cache_size, data.cache)
        self.held_out = HeldOut.make(
            held_out[: config.run.validation_faces],
            size=config.data.size,
            device=config.run.device if data.on_device else None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = CompactNet(config.network)
            self.critic = PatchCritic().to(config.run.device) if any(p.adversarial > 0 for p in config.phase) else None
        if config.start is not None:
            self.network.load_state_dict(_first_weights(config.start, config.network))
        self.network.to(device=config.run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        o = config.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=o.learning_rate, betas=o.betas, weight_decay=o.weight_decay
        )
        wants_metric = any(p.perceptual > 0 for p in config.phase)
        self.metric = ShiftTolerantLpips("alex").to(config.run.device) if wants_metric else None
        knows_people = any(p.identity > 0 for p in config.phase)
        self.embedding = load_embedding().to(config.run.device) if knows_people else None
        self.critic_optimiser = critic_optimiser(self.critic) if self.critic is not None else None
        prior = ShapePrior(config.run.device) if any(max(p.landmark, p.mesh) > 0 for p in config.phase) else None
        self.judge = ShapeJudge(prior.regressor, prior.model) if prior is not None else None
        self.phase: Phase | None = None
        self.source: Iterator[tuple[Tensor, Tensor]] = iter(())

    @property
    def parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
        }
        if self.critic is not None and self.critic_optimiser is not None:
            parts |= {"critic": self.critic, "critic_optimiser": self.critic_optimiser}
        return parts

    def step(self, clock: Clock) -> dict[str, float]:
        began = time.monotonic()
        phase, o = self._enter_phase(clock), self.config.optimiser
        degraded, clean = (pictures.to(self.config.run.device) for pictures in next(self.source))
        waited = time.monotonic() - began
        rate = warmed_up(cosine_rate(clock.share, o.learning_rate, o.final_rate), clock.step, o.warmup_steps)
        set_rate(self.optimiser, rate)
        terms, seen = self._terms(phase, clock, degraded, clean)
        loss = sum((getattr(phase, name) * value for name, value in terms.items()), clean.new_zeros(()))
        parameters = list(self.network.parameters())
        length = descend(loss, self.optimiser, parameters, clip=o.clip, step=clock.step, what=terms)
        clock.samples += len(clean)
        follow(self.average, self.network, young(o.ema, clock.step + 1))
        return {name: float(value.detach()) for name, value in (terms | seen).items()} | {
            "loss": float(loss.detach()),
            "gradient": length,
            "rate": rate,
            "waited_s": waited,
        }

    def _enter_phase(self, clock: Clock) -> Phase:
        phase = next(p for p in self.config.phase if clock.share < p.until)
        if phase is not self.phase:
            self.phase, data = phase, self.config.data
            self.source = self._samples(phase, data, clock)
        return phase

    def _samples(self, phase: Phase, data: DataOptions, clock: Clock) -> Iterator[tuple[Tensor, Tensor]]:
        seed, start = clock.options.seed, clock.samples
        if data.on_device or isinstance(self.cache, EndlessFaces):
            plans = FacePlans(self.cache, size=data.size, seed=seed, crop=phase.crop, mix=data.mix)
            return device_batches(
                PlannedFaces(self.cache, plans),
                batch=phase.batch,
                start=start,
                workers=data.workers,
                views=phase.views,
                device=clock.options.device,
                generator=self.generator,
                at_once=data.made_at_once,
            )
        pairs = FacePairs(self.cache, size=data.size, seed=seed, views=phase.views, crop=phase.crop, mix=data.mix)
        return batches(pairs, batch=phase.batch, start=start, workers=data.workers)

    def _terms(
        self, phase: Phase, clock: Clock, degraded: Tensor, clean: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses, not yet weighted, and what else the log shall hold."""
        offsets = ((0, 0), (0, 0))
        reference = clean.repeat_interleave(phase.views, 0)
        if phase.shift > 0:
            middle, most = phase.shift // 2, phase.apart
            least, end = (0, phase.shift) if most is None else (middle - most, middle + most)
            draw = rng_at(clock.options.seed, 5, clock.step).integers(least, end + 1, 4)
            offsets = ((int(draw[0]), int(draw[1])), (int(draw[2]), int(draw[3])))
            degraded = _two_windows(degraded, offsets, phase.views, phase.shift)
            reference = _two_windows(clean, offsets, 1, phase.shift)
        with reduced(clock.options):
            restored = self.network(degraded)
        restored = restored.float()
        before = absolute_error(degraded, reference, softness=phase.softness)
        weights = sample_weights(before) if phase.balanced else torch.ones_like(before)
        terms = {
            "l1": (weights * absolute_error(restored, reference, softness=phase.softness)).mean(),
            "laplacian": (weights * laplacian_error(restored, reference, softness=phase.softness)).mean(),
        }
        if phase.perceptual > 0.0 and self.metric is not None:
            room = restored.shape[-1] - phase.window
            draw = rng_at(clock.options.seed, 4, clock.step).integers(0, room + 1, 2)
            corner = (int(draw[0]), int(draw[1]))
            few = slice(None, phase.judged)
            distance = perceptual_error(self.metric, restored[few], reference[few], corner=corner, side=phase.window)
            terms["perceptual"] = (damage_share(before[few]) * distance).mean()
        if phase.identity > 0.0 and self.embedding is not None:
            moves = identity_moves(rng_at(clock.options.seed, 7, clock.step), len(restored)).to(restored.device)
            distance = identity_error(self.embedding, restored, reference, moves)
            terms["identity"] = (damage_share(before) * distance).mean()
        if phase.steady > 0.0:
            terms["steady"] = unsteadiness(restored, offsets, margin=_EDGE if phase.shift > 0 else 0)
        if max(phase.landmark, phase.mesh) > 0.0 and self.judge is not None:
            read = self.judge.errors(restored, reference)
            terms["landmark"] = (damage_share(before) * read.landmark).mean()
            terms["mesh"] = (damage_share(before) * read.mesh).mean()
        seen = {"input_l1": (weights * before).mean().detach()}
        if phase.adversarial > 0.0 and self.critic is not None and self.critic_optimiser is not None:
            seen |= teach_critic(self.critic, self.critic_optimiser, reference, restored.detach(), phase.r1)
            terms["adversarial"] = hinge_fooling(self.critic(restored))
        return terms, seen

    @torch.inference_mode()
    def validate(self, clock: Clock) -> dict[str, float]:
        """Mean PSNR per level before and after, and how far clean faces are changed (``psnr_clean``)."""
        values: dict[str, float] = {}
        for level, degraded in self.held_out.degraded.items():
            values[f"psnr_{level}"] = _psnr(self._restored(degraded), self.held_out.clean)
            values[f"psnr_{level}_input"] = _psnr(degraded, self.held_out.clean)
        return values | {"psnr_clean": _psnr(self._restored(self.held_out.clean), self.held_out.clean)}

    @torch.inference_mode()
    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """By level: degraded and restored; then clean, and what becomes of clean faces."""
        clean = self.held_out.clean[:faces]
        columns: dict[str, Tensor] = {}
        for level, degraded in self.held_out.degraded.items():
            columns |= {level: degraded[:faces], f"{level}, restored": self._restored(degraded[:faces])}
        return lay_sheet(columns | {"clean": clean, "clean, restored": self._restored(clean)})

    def _restored(self, pictures: Tensor) -> Tensor:
        device = self.config.run.device
        return torch.cat([self.average(part.to(device)).clamp(-1, 1).cpu() for part in torch.split(pictures, 8)])

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "compact.safetensors"
        save_compact(self.average, path, notes={"step": str(clock.step), "samples": str(clock.samples)})
        return path


def _two_windows(pictures: Tensor, offsets: tuple[tuple[int, int], tuple[int, int]], views: int, shift: int) -> Tensor:
    """(2 B, 3, S - shift, S - shift): windows beside each other, of (views * B, 3, S, S)."""
    side = pictures.shape[-1] - shift
    parts = [pictures[i % views :: views, :, y : y + side, x : x + side] for i, (y, x) in enumerate(offsets)]
    return torch.stack(parts, 1).flatten(0, 1)


def _first_weights(start: str, dims: CompactDims) -> dict[str, Tensor]:
    weights = load_compact(None if start == "shipped" else start)
    if replace(weights.dims, without_grid=dims.without_grid) != dims:
        raise ConfigError(f"start = {start!r} has the layout {weights.dims}, the run asks for {dims}")
    return weights.state_dict()


def _psnr(picture: Tensor, reference: Tensor) -> float:
    error = ((picture - reference) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)  # at most 100 dB
    return float((-10 * error.log10()).mean())
