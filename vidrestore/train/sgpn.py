"""The training of SGPN, of which its authors published none, in the two steps of the paper.

1. *Adapt*: the regressor learns to read a degraded face as the pretrained one reads the clean face (mesh loss).
2. *Join*: regressor, encoder and generator are trained together, against a discriminator:
   reconstruction + 1 * adversarial + 100 * landmark + 100 * mesh.

What the paper says and what had to be chosen stands in docs/networks.md and at each option.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import COEFFICIENTS
from vidrestore.morphable.d3dfr import D3dfr, D3dfrDims, load_published_d3dfr
from vidrestore.morphable.files import load_vr468, read_model
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.synthetic import synthetic_model
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.sgpn import Encoded, Sgpn, SgpnDims, SgpnDiscriminator, start_from_stylegan
from vidrestore.restoration.shape_prior import ShapePrior
from vidrestore.restoration.vqgan import load_published
from vidrestore.train.data import stream
from vidrestore.train.run import (
    Clock,
    Heard,
    RunOptions,
    RunReport,
    Stateful,
    descend,
    follow,
    load_options,
    run,
    young,
)
from vidrestore.train.sgpn_data import Batch, SgpnData, SgpnSamples, as_batch, held_out_batch, open_faces
from vidrestore.train.shape_losses import Measure, landmark_loss, mesh_loss
from vidrestore.train.sheets import lay_sheet

__all__ = [
    "AdversarialOptions",
    "LossOptions",
    "OptimiserOptions",
    "SgpnConfig",
    "ShapeOptions",
    "StartOptions",
    "load_config",
    "train",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """The shape prior."""

    model: str = "vr468"
    """``vr468`` comes with the package; ``synthetic`` is an egg for tests; or the path of a converted model."""
    regressor: D3dfrDims = field(default_factory=D3dfrDims)
    """Layout of the regressor: the paper's ResNet-50, or something smaller in tests."""
    view: int = 224
    """Side of the regressor's view in pixels."""


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Weights to begin with; paths of ``.safetensors`` files, empty: none."""

    regressor: str = ""
    """Of the pretrained regressor (``models convert d3dfr``), which is also the teacher. Without it both are seeded,
    which is of use in tests only."""
    stylegan: str = ""
    """Of a StyleGAN2 face generator in the layout of rosinality's port, as the paper starts."""
    discriminator: str = ""
    """Of its discriminator, of the network's size."""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weights of the losses. The last three are the paper's."""

    reconstruction: float = 1.0
    """Of the mean absolute difference (chosen)."""
    perceptual: float = 0.0
    """Of ST-LPIPS between output and target (chosen: the paper's formula is not known; 1 is a common choice)."""
    adversarial: float = 1.0
    landmark: float = 100.0
    """0 with ``mesh`` 0 is the ablation without 3D losses."""
    mesh: float = 100.0
    measure: Measure = "squared"
    """Of the 3D differences (chosen; :mod:`vidrestore.train.shape_losses` says why)."""


@dataclass(frozen=True, slots=True)
class AdversarialOptions:
    """StyleGAN2's logistic loss; the paper says no more than its weight."""

    r1: float = 10.0
    """Weight of the gradient penalty on clean pictures (StyleGAN2's at 512 pixels)."""
    r1_every: int = 16
    """Steps between penalties, each of which then counts so many times (StyleGAN2's)."""
    after: int = 0
    """Joint steps without discriminator at first."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """Adam; rate, batch and length are the paper's."""

    batch: int = 32
    learning_rate: float = 2e-3
    regressor_rate: float = 1e-4
    """Of the regressor in both steps (chosen: 2e-3 destroys a pretrained ResNet)."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Of generator and discriminator: StyleGAN2's (chosen)."""
    regressor_betas: tuple[float, float] = (0.9, 0.999)
    """Of the regressor: Adam's own (chosen: it is fine-tuned, and plays against nobody)."""
    clip: float | None = None
    """Longest gradient of generator and regressor; None leaves them."""
    ema: float = 0.999
    """Share of the average that stays at each step (chosen); the average is validated and exported."""
    adapt_share: float = 0.05
    """Share of the run that is step 1, in [0, 1] (chosen). 0 leaves it out, 1 does nothing else."""


@dataclass(frozen=True, slots=True)
class SgpnConfig:
    """All of a run. The paper's ablations are one switch each: ``network.has_shape_prior``,
    ``network.has_generative_prior``, ``network.fusion``, and ``has_shape_losses``."""

    data: SgpnData = field(default_factory=SgpnData)
    network: SgpnDims = field(default_factory=SgpnDims)
    shape: ShapeOptions = field(default_factory=ShapeOptions)
    start: StartOptions = field(default_factory=StartOptions)
    losses: LossOptions = field(default_factory=LossOptions)
    adversarial: AdversarialOptions = field(default_factory=AdversarialOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=lambda: RunOptions(max_steps=400_000, validate_seconds=3600.0))
    has_shape_losses: bool = True
    """False leaves landmark and mesh loss out of step 2."""

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        self.run.check_length()
        if not 0.0 <= self.optimiser.adapt_share <= 1.0:
            raise ConfigError(f"optimiser.adapt_share must lie in [0, 1], got {self.optimiser.adapt_share}")
        if self.optimiser.adapt_share > 0.0 and not self.network.has_shape_prior:
            raise ConfigError("without shape prior there is no regressor to adapt: set optimiser.adapt_share = 0")
        if self.start.stylegan and not self.network.has_generative_prior:
            raise ConfigError("start.stylegan is the generative prior that network.has_generative_prior rules out")
        if self.network.coefficients != COEFFICIENTS:
            raise ConfigError(f"network.coefficients must be {COEFFICIENTS}, got {self.network.coefficients}")


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SgpnConfig:
    """Reads a TOML file; ``overrides`` are ``table.key=value``.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong.
    """
    return load_options(path, SgpnConfig, overrides)


def train(
    config: SgpnConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
) -> RunReport:
    """Trains SGPN and leaves ``sgpn.safetensors``, ``d3dfr.safetensors``, ``checkpoint.pt`` and ``log.jsonl``.

    See :func:`vidrestore.train.run.run` for resume, ``progress`` and ``stop``.

    Raises:
        ConfigError: no faces, or too few.
        WeightsError: the checkpoint or a file to start from is damaged or of another network.
        FloatingPointError: the loss is no longer finite; the last checkpoint is kept.
    """
    return run(SgpnTraining(config), config.run, folder, config=config, progress=progress, stop=stop)


class SgpnTraining:
    """What changes while training, and how."""

    def __init__(self, config: SgpnConfig) -> None:
        self.config = config
        device = torch.device(config.run.device)
        self.cache, held_out = open_faces(config.data)
        size = config.network.size
        self.held_out = held_out_batch(held_out[: config.run.validation_faces], config.data, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = Sgpn(config.network)
            self.critic = SgpnDiscriminator(config.network)
        _begin(self.network, self.critic, config.start)
        model = make_model(config.shape.model)
        camera = Camera().scaled(config.shape.view)
        self.prior = ShapePrior(make_regressor(config.shape.regressor, config.start), model, camera)
        for part in (self.network, self.critic, self.prior):
            part.to(device)
        self.prior.eval()  # batch statistics stay those of the pretrained regressor: batches are small and mixed
        self.teacher = copy.deepcopy(self.prior).requires_grad_(False)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.average_prior = copy.deepcopy(self.prior).requires_grad_(False).eval()
        o = config.optimiser
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(self.network.parameters()), "lr": o.learning_rate},
                {"params": list(self.prior.parameters()), "lr": o.regressor_rate, "betas": o.regressor_betas},
            ],
            betas=o.betas,
        )
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=o.learning_rate, betas=o.betas)
        self.metric = ShiftTolerantLpips("alex").to(device) if config.losses.perceptual > 0 else None
        self.source: Iterator[Sequence[Tensor]] | None = None

    @property
    def parts(self) -> dict[str, Stateful]:
        """See :class:`vidrestore.train.run.Training`; the teacher never changes, and comes from its file again."""
        return {
            "network": self.network,
            "critic": self.critic,
            "regressor": self.prior.regressor,
            "average": self.average,
            "average_regressor": self.average_prior.regressor,
            "optimiser": self.optimiser,
            "critic_optimiser": self.critic_optimiser,
        }

    def step(self, clock: Clock) -> dict[str, float]:
        """One step of either kind."""
        data, o = self.config.data, self.config.optimiser
        if self.source is None:
            samples = SgpnSamples(self.cache, data, size=self.config.network.size, seed=clock.options.seed)
            self.source = stream(samples, batch=o.batch, start=clock.samples, workers=data.workers)
        batch = as_batch(next(self.source), data.template).to(self.config.run.device)
        adapts = clock.share < o.adapt_share
        values = self._adapt(batch, clock) if adapts else self._join(batch, clock)
        clock.samples += len(batch.clean)
        keep = young(o.ema, clock.step + 1)
        follow(self.average, self.network, keep)
        follow(self.average_prior, self.prior, keep)
        return values

    def _adapt(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Step 1: the mesh read off the degraded face is to be the one read off the clean face."""
        maps = self.prior.maps(batch.points, batch.clean.shape[-1])
        with torch.no_grad():
            target = self.teacher.read(batch.clean, maps)
        terms = self._mesh(self.prior.read(batch.degraded, maps), target)
        return self._descend(terms, clock) | {"adapts": 1.0}

    def _join(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Step 2: discriminator, then generator and regressor."""
        losses = self.config.losses
        restored, coefficients, maps = self._restored(batch)
        plays = losses.adversarial > 0.0 and clock.step >= self._first_joint_step(clock) + self.config.adversarial.after
        values = self._judge(batch.clean, restored.detach(), clock) if plays else {}
        terms = {"reconstruction": (restored - batch.clean).abs().mean()}
        if self.metric is not None:
            terms["perceptual"] = self.metric(restored, batch.clean).mean()
        if plays:
            self.critic.requires_grad_(False)
            terms["adversarial"] = functional.softplus(-self.critic(restored)).mean()
            self.critic.requires_grad_(True)
        if self.config.has_shape_losses:
            if maps is None:
                maps = self.teacher.maps(batch.points, batch.clean.shape[-1])
            with torch.no_grad():
                target = self.teacher.read(batch.clean, maps)
            seen = self.teacher.read(restored, maps)
            terms["landmark"] = landmark_loss(self.teacher.model, seen, target, losses.measure)
            if coefficients is not None:
                terms |= self._mesh(coefficients, target)
        return values | self._descend(terms, clock) | {"adapts": 0.0}

    def _first_joint_step(self, clock: Clock) -> int:
        steps = clock.options.max_steps
        return 0 if steps is None else int(self.config.optimiser.adapt_share * steps)

    def _mesh(self, coefficients: Tensor, target: Tensor) -> dict[str, Tensor]:
        errors = mesh_loss(self.prior.model, coefficients, target, self.config.losses.measure)
        return {"mesh_positions": errors.positions, "mesh_colours": errors.colours}

    def _restored(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The restored faces; with a shape prior, the coefficients and maps too."""
        if not self.config.network.has_shape_prior:
            return self.network(batch.degraded), None, None
        maps = self.prior.maps(batch.points, batch.clean.shape[-1])
        coefficients = self.prior.read(batch.degraded, maps)
        rendered = self.prior.draw(coefficients, maps, batch.clean.shape[-1])
        return self.network(batch.degraded, rendered, coefficients), coefficients, maps

    def _judge(self, clean: Tensor, restored: Tensor, clock: Clock) -> dict[str, float]:
        """One step of the discriminator."""
        options = self.config.adversarial
        real, fake = self.critic(clean), self.critic(restored)
        loss = functional.softplus(-real).mean() + functional.softplus(fake).mean()
        values = {"critic": loss, "real": real.mean(), "fake": fake.mean()}
        if options.r1 > 0.0 and clock.step % options.r1_every == 0:
            pictures = clean.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.critic(pictures).sum(), pictures, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            loss = loss + 0.5 * options.r1 * options.r1_every * penalty
            values["r1"] = penalty
        descend(loss, self.critic_optimiser, list(self.critic.parameters()), step=clock.step, what=values)
        return {name: float(value.detach()) for name, value in values.items()}

    def _descend(self, terms: Mapping[str, Tensor], clock: Clock) -> dict[str, float]:
        weights = self.config.losses
        factors = {"mesh_positions": weights.mesh, "mesh_colours": weights.mesh}
        loss = torch.stack([factors.get(k, getattr(weights, k, 0.0)) * v for k, v in terms.items()]).sum()
        parameters = [*self.network.parameters(), *self.prior.parameters()]
        length = descend(loss, self.optimiser, parameters, clip=self.config.optimiser.clip, step=clock.step, what=terms)
        named = {name: float(value.detach()) for name, value in terms.items()}
        return named | {"loss": float(loss.detach()), "gradient": length}

    @torch.no_grad()
    def validate(self, clock: Clock) -> dict[str, float]:
        """PSNR of held-out faces before and after, the mean of the masks, and the error of the mesh."""
        psnr: list[float] = []
        before: list[float] = []
        masks: list[Tensor] = []
        errors: list[float] = []
        for i in range(len(self.held_out.clean)):
            faces, here = self.held_out, slice(i, i + 1)
            one = Batch(faces.degraded[here], faces.clean[here], faces.points[here]).to(self.config.run.device)
            restored, coefficients = self._averaged(one, masks)
            if coefficients is not None:
                prior = self.average_prior
                target = self.teacher.read(one.clean, prior.maps(one.points, one.clean.shape[-1]))
                errors.append(float(mesh_loss(prior.model, coefficients, target, "squared").positions) ** 0.5)
            psnr.append(_psnr(restored.clamp(-1.0, 1.0), one.clean))
            before.append(_psnr(one.degraded, one.clean))
        values = {"psnr": _mean(psnr), "psnr_input": _mean(before)}
        if masks:
            values["mask"] = _mean([float(mask.mean()) for mask in masks])
        if errors:
            values["mesh_rms"] = _mean(errors)
        return values

    def _averaged(self, one: Batch, masks: list[Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """The averaged network's pictures, and the coefficients they were made with; the masks are added."""
        drawn: Encoded | None = None
        coefficients: Tensor | None = None
        if self.config.network.has_shape_prior:
            prior, size = self.average_prior, one.clean.shape[-1]
            maps = prior.maps(one.points, size)
            coefficients = prior.read(one.degraded, maps)
            drawn = self.average.encode(prior.draw(coefficients, maps, size))
        return self.average.decode(self.average.encode(one.degraded), drawn, coefficients, masks), coefficients

    @torch.no_grad()
    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """Degraded, restored and clean."""
        held_out, rows = self.held_out, []
        for i in range(min(faces, len(held_out.clean))):
            here = slice(i, i + 1)
            one = Batch(held_out.degraded[here], held_out.clean[here], held_out.points[here])
            rows.append(self._averaged(one.to(self.config.run.device))[0].cpu())
        shown = slice(0, len(rows))
        columns = {"degraded": held_out.degraded[shown], "restored": torch.cat(rows), "clean": held_out.clean[shown]}
        return lay_sheet(columns)

    def export(self, folder: Path, clock: Clock) -> Path:
        """The averaged network and regressor."""
        path = folder / "sgpn.safetensors"
        notes = {"step": str(clock.step), "samples": str(clock.samples)}
        save_file(_plain(self.average), path, metadata={"network": "sgpn", **notes})
        regressor = _plain(self.average_prior.regressor)
        save_file(regressor, folder / "d3dfr.safetensors", metadata={"network": "d3dfr", **notes})
        return path


def make_model(name: str) -> MorphableModel:
    """The morphable model of that name or file.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if name == "synthetic":
        return synthetic_model()
    return load_vr468() if name == "vr468" else read_model(Path(name))


def make_regressor(dims: D3dfrDims, start: StartOptions) -> D3dfr:
    """The regressor with the weights to begin with.

    Raises:
        WeightsError: the file is damaged or of another network.
    """
    network = D3dfr(dims)
    if start.regressor:
        load_published_d3dfr(network, _read(start.regressor), source=start.regressor)
        return network
    _log.warning("start.regressor names no file: the regressor is seeded, and what it reads means nothing")
    return fill_seeded(network)


def _begin(network: Sgpn, critic: SgpnDiscriminator, start: StartOptions) -> None:
    if start.stylegan:
        filled = start_from_stylegan(network, _read(start.stylegan), source=start.stylegan)
        _log.info("%s: %s tensors of the generator", start.stylegan, len(filled))
    if start.discriminator:
        load_published(critic, _read(start.discriminator), source=start.discriminator)


def _read(path: str) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kinds, and OSError
        raise WeightsError(f"{path}: is no readable safetensors file ({error})") from error


def _plain(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}


def _psnr(picture: Tensor, reference: Tensor) -> float:
    error = ((picture - reference) / 2).square().mean().clamp_min(1e-10)  # at most 100 dB
    return float(-10 * error.log10())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
