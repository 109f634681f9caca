"""Training of the 3DMM regressor: degraded crops in, the teacher's mesh on the clean face as the truth.

Losses, all in units of the distance between the eyes (or of 255 for colours):
    *points*: where the vertices of the regressed face are seen, against the teacher's 468 points; vertices around eyes
    and mouth count more, since there expression is read.
    *depth*: the vertices' depths without their mean, which one picture does not tell.
    *landmarks*: the 68 usual points once more (SGPN's landmark loss).
    *openings*: how far lids and lips are apart. A blink moves few vertices by little, so the others drown it: without
    this term the regressed lids hardly followed (correlation with the teacher's 0.2 after 33 000 samples).
    *colours*: what the lit mesh would show, against the clean picture at the teacher's points (the other half of SGPN's
    mesh loss).
    *prior*: squares of identity, expression and texture, and of the light: keeps what the picture does not tell at the
    mean.
    *identity*: squares of the difference of identity and texture from what another network (``reference``) reads in the
    same crop. A jaw turned as far as warps turn it does not fit the expressions wholly, and what is left goes into the
    identity: without this term a wide open mouth made another person (1 - cosine 0.24, between people 0.36).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vidrestore.errors import ConfigError
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.regressor import REGRESSOR_SIZE, RegressorDims, ShapeRegressor, load_regressor, save_regressor
from vidrestore.train.data import FaceCache, list_images, split_held_out
from vidrestore.train.device_samples import DeviceStream, PlannedMeshes, check_options
from vidrestore.train.meshes import MeshPairs, PointCache, SampleSource
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
    run,
    set_rate,
    warmed_up,
    young,
)
from vidrestore.train.vr468 import mesh_of

__all__ = [
    "LID_PAIRS",
    "LIP_PAIRS",
    "RegressorConfig",
    "ShapeErrors",
    "eye_distance",
    "load_config",
    "openings",
    "point_errors",
    "shape_errors",
    "train",
]

_EYES = (33, 133, 362, 263)
_FINE = (
    *(246, 161, 160, 159, 158, 157, 173, 7, 163, 144, 145, 153, 154, 155, 33, 133),
    *(466, 388, 387, 386, 385, 384, 398, 249, 390, 373, 374, 380, 381, 382, 263, 362),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87, 40, 270, 91, 321),
    *(191, 80, 81, 311, 310, 415, 95, 88, 178, 402, 318, 324),
)


LID_PAIRS = ((160, 144), (159, 145), (158, 153), (385, 380), (386, 374), (387, 373))
"""Vertices of upper and lower lids, one above the other."""
LIP_PAIRS = ((81, 178), (13, 14), (311, 402))
"""Vertices of the inner lips, one above the other."""
_OPENINGS = (*LID_PAIRS, *LIP_PAIRS, (61, 291))  # and the corners of the mouth


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where faces come from."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces."""
    cache: str = "data/faces_320.npy"
    """File of the resized faces; made when missing or out of date."""
    cache_size: int = 320
    """Side of the cached faces in pixels."""
    points: str = "data/points.npz"
    """File of the teacher's points; made when missing or out of date."""
    samples: str | None = None
    """Folder of finished samples, made once; None makes them on the fly."""
    num_samples: int = 7000
    """How many finished samples there shall be."""
    size: int = 256
    """Side of a sample's crop in pixels: degradations are those that the restorers see."""
    held_out: int = 128
    """The first so many faces are for validation and never trained on."""
    workers: int = 2
    """Processes that make samples."""
    lids: bool = False
    """Lids are the iris network's; FaceMesh alone hardly sees them move."""
    blinking: float = 0.2
    """Share of the samples whose eyes are closed by a warp, in part or wholly."""
    speaking: float = 0.0
    """Share whose mouth is opened by a warp."""
    painted: float = 0.0
    """Share of the closed eyes whose lids are painted over the warp."""
    on_device: bool = False
    """Samples are made inside the step on the run's device; workers draw their numbers and warp faces. Video codecs are
    then approximated. Faces cannot be generated in the step: the teacher's points, the truth here, come from a network
    that runs on the CPU."""

    def __post_init__(self) -> None:
        """Checks the shares, and that samples are not both finished and made in the step."""
        check_options(on_device=self.on_device, generated_in_step=False, samples=self.samples)
        for name in ("blinking", "speaking", "painted"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"data.{name} must be from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """AdamW with a warm-up and a cosine down to ``final_rate``."""

    learning_rate: float = 2e-3
    final_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    clip: float = 5.0
    ema: float = 0.998
    batch: int = 32


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weights of the losses."""

    points: float = 1.0
    fine: float = 3.0
    """How often a vertex around eyes and mouth counts within ``points``."""
    depth: float = 0.3
    landmarks: float = 0.5
    openings: float = 2.0
    colours: float = 0.3
    prior: float = 2e-4
    identity: float = 0.0
    """Needs ``reference``."""


@dataclass(frozen=True, slots=True)
class RegressorConfig:
    """All of a run."""

    data: DataOptions = field(default_factory=DataOptions)
    network: RegressorDims = field(default_factory=RegressorDims)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    run: RunOptions = field(default_factory=RunOptions)
    start: str = "nothing"
    """What a new run begins with: "nothing" (random values), "shipped" (the network of the package), or a file."""
    reference: str | None = None
    """Whose identities are kept: "shipped" or a file."""
    start_share: float = 1.0
    """The run begins with the mean of the parameters of ``start``, which count so much, and of the reference."""
    learns: Literal["all", "last"] = "all"
    """The whole network, or its last layer alone, whose steps take half the time."""

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        self.run.check_length()
        if self.loss.identity > 0.0 and self.reference is None:
            raise ConfigError("loss.identity needs a reference")
        if not (0.0 <= self.start_share <= 1.0 and (self.start_share == 1.0 or self.reference is not None)):
            raise ConfigError(f"start_share must be from 0 to 1, less than 1 with a reference, got {self.start_share}")
        if self.data.size % REGRESSOR_SIZE:
            raise ConfigError(f"data.size must be a multiple of {REGRESSOR_SIZE}, got {self.data.size}")


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RegressorConfig:
    """Reads a TOML file with the tables data, network, optimiser, loss and run.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong.
    """
    return load_options(path, RegressorConfig, overrides)


def train(
    config: RegressorConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
    model: MorphableModel | None = None,
) -> RunReport:
    """Trains the regressor and leaves ``regressor.safetensors``, ``checkpoint.pt`` and ``log.jsonl`` in a folder.

    Args:
        config: all settings.
        folder: for the results; one that holds a checkpoint is resumed.
        progress: called at each line of the log.
        stop: asked before each step.
        model: whose coefficients are regressed; None is ``vr468``.
    """
    training = _RegressorTraining(config, model or load_vr468())
    return run(training, config.run, folder, config=config, progress=progress, stop=stop)


@dataclass(frozen=True, slots=True)
class ShapeErrors:
    """Losses of a batch, each (B,)."""

    points: Tensor
    depth: Tensor
    landmarks: Tensor
    openings: Tensor
    colours: Tensor
    prior: Tensor


def shape_errors(
    model: MorphableModel, coefficients: Tensor, points: Tensor, clean: Tensor, *, fine: float = 1.0
) -> ShapeErrors:
    """How far regressed faces are from the teacher's.

    Args:
        model: ``vr468``.
        coefficients: (B, 257).
        points: (B, 468, 3) of the teacher, in pixels of the crop.
        clean: (B, 3, S, S) RGB in [-1, 1], the picture that the points lie in.
        fine: how often vertices around eyes and mouth count.
    """
    face = model(coefficients, Camera().scaled(clean.shape[-1]))
    unit = eye_distance(points)[:, None]
    away = (face.points_px - points[..., :2]).square().sum(-1).add(1e-6).sqrt() / unit  # (B, 468)
    weights = torch.ones_like(away[0])
    weights[list(_FINE)] = fine
    upper, lower = (torch.tensor(side, device=away.device) for side in zip(*_OPENINGS, strict=True))
    gap, true_gap = (p[:, upper] - p[:, lower] for p in (face.points_px, points[..., :2]))
    openings = (gap - true_gap).square().sum(-1).add(1e-6).sqrt() / unit
    scale = face.depth.new_tensor(Camera().scaled(clean.shape[-1]).focal) / face.depth.mean(1, keepdim=True)
    depth = face.depth * scale  # in pixels, as the teacher's
    deep = (_centred(depth) - _centred(points[..., 2])).abs() / unit
    shown = _sample(clean, points[..., :2])  # (B, 468, 3)
    normals_to_viewer = face.normals[..., 2].detach() > 0.2
    colours = ((face.colours - (shown + 1) * 127.5).abs().mean(-1) / 255.0 * normals_to_viewer).mean(1)
    c = split(coefficients)
    flat = torch.cat([c.identity, c.expression, c.texture], 1).square().mean(1) + c.lighting.square().mean(1) * 20.0
    return ShapeErrors(
        (away * weights).sum(1) / weights.sum(),
        deep.mean(1),
        away[:, model.landmarks].mean(1),
        openings.mean(1),
        colours,
        flat,
    )


def eye_distance(points: Tensor) -> Tensor:
    """(B,) distance between the eyes' centres in space, so that a profile's is not short."""
    eyes = points[:, list(_EYES)]
    distance: Tensor = (eyes[:, :2].mean(1) - eyes[:, 2:].mean(1)).norm(dim=-1)
    return distance


def point_errors(model: MorphableModel, coefficients: Tensor, points: Tensor, size: int) -> Tensor:
    """(B,) mean distance of the 68 landmarks from the teacher's, in shares of the distance between the eyes.

    Args:
        model: ``vr468``.
        coefficients: (B, 257).
        points: (B, 468, 3) in pixels of the crop.
        size: of the crop in pixels.
    """
    found = model(coefficients, Camera().scaled(size)).points_px[:, model.landmarks]
    errors: Tensor = (found - points[:, model.landmarks, :2]).norm(dim=-1).mean(1) / eye_distance(points)
    return errors


def openings(seen: Tensor, pairs: Sequence[tuple[int, int]], points: Tensor) -> Tensor:
    """(B,) mean distance between the vertices of pairs, in shares of the distance between the eyes.

    Args:
        seen: (B, 468, 2) in pixels.
        pairs: :data:`LID_PAIRS` or :data:`LIP_PAIRS`.
        points: (B, 468, 3) of the teacher, whose eyes give the unit.
    """
    upper, lower = (list(side) for side in zip(*pairs, strict=True))
    distance: Tensor = (seen[:, upper] - seen[:, lower]).norm(dim=-1).mean(1) / eye_distance(points)
    return distance


def _slope(measured: Tensor, true: Tensor) -> float:
    """Of the least-squares line through measured openings over true ones: 1 is all of a motion, 0 nothing."""
    away = true - true.mean()
    return float((measured * away).sum() / away.square().sum().clamp_min(1e-12))


def _centred(depth: Tensor) -> Tensor:
    return depth - depth.mean(1, keepdim=True)


def _sample(pictures: Tensor, places: Tensor) -> Tensor:
    """(B, N, 3) of (B, 3, S, S) at (B, N, 2) pixels, over a neighbourhood of about one vertex."""
    soft = functional.avg_pool2d(pictures, 3, 1, 1)
    grid = (places + 0.5) * (2.0 / pictures.shape[-1]) - 1.0
    found = functional.grid_sample(soft, grid[:, None], align_corners=False, padding_mode="border")
    return found[:, :, 0].transpose(1, 2)


class _RegressorTraining:
    """What changes while training, and how."""

    def __init__(self, config: RegressorConfig, model: MorphableModel) -> None:
        self.config = config
        device = config.run.device
        self.model = model.to(device)
        data = config.data
        paths = list_images(data.faces)
        training, held_out = split_held_out(paths, data.held_out)
        everything = PointCache.of(paths, data.points, lids=data.lids)
        mesh = mesh_of(model)
        shares = {"blinking": data.blinking, "speaking": data.speaking, "painted": data.painted}
        known = PointCache(everything.points[data.held_out :], everything.trusted[data.held_out :])
        source = SampleSource(
            training,
            known,
            mesh,
            cache=data.cache,
            cache_size=data.cache_size,
            size=data.size,
            seed=config.run.seed,
            stored=data.samples,
            num_stored=data.num_samples,
            workers=data.workers,
            **shares,
        )
        self.source: SampleSource | DeviceStream = source
        if data.on_device:
            plans = PlannedMeshes(source.samples)
            self.source = DeviceStream(plans, size=data.size, device=config.run.device, workers=data.workers)
        test_file = Path(data.cache).with_name(Path(data.cache).stem + "_held_out.npy")
        test_cache = FaceCache(held_out, data.cache_size, test_file)
        test_points = PointCache(everything.points[: data.held_out], everything.trusted[: data.held_out])
        self.tests = MeshPairs(test_cache, test_points, mesh, size=data.size, seed=1, **shares)
        self.test_batch: dict[str, Tensor] | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = ShapeRegressor(config.network)
        if config.start != "nothing":
            self.network = _load(config.start)
        self.network.requires_grad_(config.learns == "all").last.requires_grad_(True)
        self.reference = _load(config.reference) if config.reference is not None else None
        if self.reference is not None:
            follow(self.network, self.reference, config.start_share)
            for mine, other in zip(self.network.buffers(), self.reference.buffers(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(other, 1.0 - config.start_share)
            self.reference.to(device)
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        o = config.optimiser
        self.learning = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.learning, lr=o.learning_rate, weight_decay=o.weight_decay)

    @property
    def parts(self) -> dict[str, Stateful]:
        return {"network": self.network, "average": self.average, "optimiser": self.optimiser}

    def step(self, clock: Clock) -> dict[str, float]:
        o, loss_options = self.config.optimiser, self.config.loss
        batch = {name: value.to(self.config.run.device) for name, value in self.source.batch(clock, o.batch).items()}
        degraded, clean, points = batch["degraded"], batch["clean"], batch["points"]
        rate = warmed_up(cosine_rate(clock.share, o.learning_rate, o.final_rate), clock.step, o.warmup_steps)
        set_rate(self.optimiser, rate)
        self.network.train(
            self.config.learns == "all"
        )  # statistics of the batches stay where only the last layer learns
        coefficients = self.network(degraded)
        errors = shape_errors(self.model, coefficients, points, clean, fine=loss_options.fine)
        terms = {
            name: getattr(errors, name).mean()
            for name in ("points", "depth", "landmarks", "openings", "colours", "prior")
        }
        if self.reference is not None:
            with torch.no_grad():
                wanted = split(self.reference(degraded))
            own = split(coefficients)
            away = torch.cat([own.identity - wanted.identity, own.texture - wanted.texture], 1)
            terms["identity"] = away.square().mean()
        loss = sum((getattr(loss_options, name) * value for name, value in terms.items()), points.new_zeros(()))
        length = descend(loss, self.optimiser, self.learning, clip=o.clip, step=clock.step, what=terms)
        clock.samples += len(points)
        follow(self.average, self.network, young(o.ema, clock.step + 1))
        for mean, value in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(value)  # statistics of the batches: of the network that the average trails
        return {name: float(value.detach()) for name, value in terms.items()} | {
            "loss": float(loss.detach()),
            "gradient": length,
            "rate": rate,
        }

    @torch.inference_mode()
    def validate(self, clock: Clock) -> dict[str, float]:
        """Landmark error in % of the eyes' distance by level, on held-out faces; 'error_mean_face' for comparison."""
        if self.test_batch is None:
            count = max(4, self.config.run.validation_faces)
            samples = [self.tests[i] for i in range(count)]
            self.test_batch = {name: torch.stack([s[name] for s in samples]) for name in samples[0]}
        batch = self.test_batch
        self.average.eval()
        device = self.config.run.device
        found = torch.cat([self.average(_float(part.to(device))) for part in torch.split(batch["degraded"], 32)])
        points, size = batch["points"].to(device), batch["clean"].shape[-1]
        errors = 100.0 * point_errors(self.model, found, points, size)
        start = self.average.centre.expand(len(points), -1)
        values = {
            "error": float(errors.mean()),
            "error_mean_face": 100.0 * float(point_errors(self.model, start, points, size).mean()),
        }
        seen = self.model(found, Camera().scaled(size)).points_px
        for name, pairs in (("lids", LID_PAIRS), ("lips", LIP_PAIRS)):
            values[f"slope_{name}"] = _slope(openings(seen, pairs, points), openings(points[..., :2], pairs, points))
        for number, name in enumerate(("light", "medium", "heavy", "clean")):
            chosen = batch["level"].to(device) == number
            if bool(chosen.any()):
                values[f"error_{name}"] = float(errors[chosen].mean())
        return values

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "regressor.safetensors"
        save_regressor(self.average, path, {"step": str(clock.step), "samples": str(clock.samples)})
        return path


def _load(name: str) -> ShapeRegressor:
    return load_regressor(None if name == "shipped" else name)


def _float(pictures: Tensor) -> Tensor:
    return pictures.float() * (2.0 / 255.0) - 1.0
