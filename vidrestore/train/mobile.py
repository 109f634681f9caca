"""Training of ``mobile``: encoder, fusion and joins on top of a trained trunk and the published generator.

The generator stays as it is until a phase says otherwise: what it knows of faces comes from far more pictures than a
run here sees. In ``style`` phases only the encoder and the latent learn, from the styles that the generated faces were
made of, which needs neither generator nor trunk and is therefore cheap.

Losses: those of ``compact`` (absolute error, Laplacian pyramid, ST-LPIPS, steadiness between two frames of one shot,
distance of dlib's embeddings, what the 3D model's regressor reads off the restored face, hinge loss of a patch critic
with R1); *style*: distance of the latent from the style that made the face, in shares of the styles' spread. A weight
of 0 switches a loss off. The fidelity weight w is drawn anew for each face, the same for both frames of a shot; where
it is 1 the prior is switched off, so the trunk goes on learning to do without.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import ConfigError
from vidrestore.evaluate.embedding import load_embedding
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.morphable.prior import ShapePrior
from vidrestore.restoration.compact import load_compact
from vidrestore.restoration.mobile import PRIOR_SIZE, MobileDims, MobileNet, load_mobile, save_mobile
from vidrestore.train.align import training_faces
from vidrestore.train.data import HeldOut, list_images, split_held_out
from vidrestore.train.device_samples import (
    DeviceStream,
    EndlessFaces,
    PlannedMeshes,
    PlannedWide,
    StepGenerator,
    check_options,
    check_styles,
)
from vidrestore.train.gan import PatchCritic, critic_optimiser, hinge_fooling, teach_critic
from vidrestore.train.generator import load_generator, mean_style, styles_of
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
from vidrestore.train.meshes import PointCache, SampleSource
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
    warmed_up,
    young,
)
from vidrestore.train.shape_judge import ShapeJudge
from vidrestore.train.sheets import lay_sheet
from vidrestore.train.views import Offsets, two_frames
from vidrestore.train.vr468 import mesh_of

__all__ = ["MobileConfig", "Phase", "load_config", "train"]

_EDGE = 8  # pixels that steadiness leaves out: nearer to the edge of the crop a reflection is seen


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where faces come from."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces, of photographs, or of videos."""
    aligned: bool | Literal["auto"] = "auto"
    """Whether ``faces`` holds aligned faces already; otherwise they are found and aligned, into a folder beside the
    cache (:func:`vidrestore.train.align.training_faces`)."""
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
    """Side of a sample's crop in pixels: 256 or 512."""
    held_out: int = 128
    """The first so many faces are for validation and never trained on."""
    generated: bool = True
    """The faces were made by ``vidrestore train faces``, so their styles are known from their numbers."""
    stills: float = 0.0
    """Share of the samples that is degraded as CodeFormer's training does, small and large in halves."""
    texture: float = 0.0
    """Share whose clean picture gets skin texture or grain first (:class:`vidrestore.train.data.Mix`)."""
    reshaped: float = 0.0
    """Share whose features are somebody else's, by a warp (:func:`vidrestore.train.meshes.reshape_face`); wants the
    teacher's points, so not with ``generated_in_step``."""
    workers: int = 2
    """Processes that make samples."""
    on_device: bool = False
    """Samples are made inside the step on the run's device, frames of two views, too; workers draw their numbers and
    warp faces. Video codecs are then approximated (:mod:`vidrestore.train.degrade_codecs`)."""
    generated_in_step: bool = False
    """The clean faces, too: generated and seen once, their styles known, not warped over meshes. ``faces`` are for
    validation only. Wants ``on_device``; no ``landmark``, whose points the teacher finds on the CPU."""
    made_at_once: int = 0
    """With ``on_device``: so many samples are made in one pass and given out batch by batch; 0 makes each batch by
    itself."""
    style_noise: float = 0.0
    """Noise on the style of each level of the generator, in shares of the spread of styles: a face that no single style
    makes, so that a network leans on its input."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """AdamW with a warm-up and a cosine down to ``final_rate``."""

    learning_rate: float = 1e-3
    final_rate: float = 1e-5
    trunk: float = 0.3
    """Share of the rate for the trunk, which is trained already, and for the generator where it learns."""
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    clip: float = 0.5
    ema: float = 0.998


@dataclass(frozen=True, slots=True)
class Phase:
    """What is learned in a part of the run."""

    until: float = 1.0
    """The phase ends at this share of the run, in (0, 1]."""
    batch: int = 8
    """Faces per step; the network sees ``batch * views`` pictures."""
    views: int = 1
    """1, or 2 frames of each shot, recorded anew from the clean crop, which should come out alike."""
    motion: int = 4
    """With two views: how far the face may move from one frame to the other, in pixels of the crop, along each axis."""
    only_style: bool = False
    """Only the encoder and the latent learn, and only from ``style``."""
    learns: tuple[str, ...] = ()
    """First words of the names of the parameters that learn: ``["fine"]`` is the finest octave alone, for which the
    prior is not run. Empty: all, the generator's own excepted."""
    learns_generator: bool = False
    """The generator's own parameters learn too."""
    style: float = 0.02
    l1: float = 1.0
    laplacian: float = 1.0
    softness: float = 0.05
    """Difference, in units of [-1, 1], below which these two count squares."""
    perceptual: float = 0.0
    """Weight of ST-LPIPS (AlexNet) over a window of ``window`` pixels."""
    window: int = 128
    judged: int | None = None
    """So many faces of a batch are looked at by ST-LPIPS, which costs as much as the network; None is all."""
    identity: float = 0.0
    """Weight of the distance of dlib's embedding of the restored face from the clean one's, by damage as ST-LPIPS."""
    steady: float = 0.0
    """Weight of the difference between the restorations of the two views, where both show the same."""
    landmark: float = 0.0
    """Weight of the distance of the 68 landmarks that the regressor reads off the restored face from the teacher's."""
    mesh: float = 0.0
    """Weight of the distance of its whole mesh, colours included, from what it reads off the clean face."""
    adversarial: float = 0.0
    """Weight of the hinge loss against a patch critic, which learns along; by damage as ST-LPIPS."""
    bold: bool = False
    """ST-LPIPS and the critic count by 1 - w: what the prior may invent, and the trunk alone should not."""
    r1: float = 1.0
    """Weight of the critic's squared gradient on clean faces."""

    def teaches(self, name: str) -> bool:
        """Whether a parameter, or a part, of this name learns; of the generator's own ``learns_generator`` decides."""
        return not self.learns or name.startswith(self.learns)


@dataclass(frozen=True, slots=True)
class MobileConfig:
    """All of a run."""

    data: DataOptions = field(default_factory=DataOptions)
    network: MobileDims = field(default_factory=MobileDims)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=RunOptions)
    phase: tuple[Phase, ...] = (Phase(until=0.2, batch=32, only_style=True, style=1.0), Phase())
    start: str = "compact"
    """What a new run begins with: "compact" takes the shipped trunk and the published generator, "mobile" the shipped
    network, "nothing" random values, and a path the weights of another run."""
    trunk: str | None = None
    """Weight file of ``compact`` whose values take the trunk's place in what the run begins with."""

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        ends = [p.until for p in self.phase]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0.0 or ends[-1] != 1.0:
            raise ConfigError(f"the phases' until must rise and end at 1.0, got {ends}")
        if self.start not in ("compact", "mobile", "nothing") and not Path(self.start).is_file():
            raise ConfigError(f"start must be compact, mobile, nothing or a weight file, got {self.start!r}")
        data = self.data
        check_options(
            on_device=data.on_device,
            generated_in_step=data.generated_in_step,
            samples=data.samples,
            made_at_once=data.made_at_once,
        )
        check_styles(data.style_noise, 0.0, generated_in_step=data.generated_in_step)
        if data.generated_in_step and data.reshaped > 0.0:
            raise ConfigError("data.reshaped warps over the teacher's points, which generated_in_step does not have")
        if data.generated_in_step and any(p.landmark > 0.0 for p in self.phase):
            raise ConfigError(
                "phase.landmark compares with the teacher's points, which faces generated in the step do not have: "
                "set it to 0 (mesh may stay), or unset data.generated_in_step"
            )
        if any(p.only_style for p in self.phase) and not (data.generated or data.generated_in_step):
            raise ConfigError("a phase that learns only the style needs generated faces")
        if self.data.generated and self.data.aligned is False:
            raise ConfigError(
                "data.generated wants the faces as `train faces` made them, and data.aligned false aligns"
            )
        for p in self.phase:
            if p.views not in (1, 2) or (p.steady > 0.0 and p.views != 2):
                raise ConfigError(f"views must be 1 or 2, and 2 where steady is above 0, got {p}")
            if not 0 <= p.motion < self.data.size // 4:
                raise ConfigError(f"motion must be below a quarter of the crop, got {p}")
        self.run.check_length()


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> MobileConfig:
    """Reads a TOML file with the tables data, network, optimiser, run and any number of ``[[phase]]``.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value is wrong.
    """
    return load_options(path, MobileConfig, overrides)


def train(
    config: MobileConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
    prior: ShapePrior | None = None,
) -> RunReport:
    """Trains ``mobile`` and leaves ``mobile.safetensors``, ``checkpoint.pt`` and ``log.jsonl`` in a folder.

    Args:
        config: all settings.
        folder: for the results; one that holds a checkpoint is resumed.
        progress: called at each line of the log.
        stop: asked before each step.
        prior: of the shapes; None is what comes with the package.
    """
    training = _MobileTraining(config, prior or ShapePrior(config.run.device))
    return run(training, config.run, folder, config=config, progress=progress, stop=stop)


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a step learns from; P pictures, two for each face where there are two views."""

    degraded: Tensor
    """(P, 3, S, S) in [-1, 1]."""
    clean: Tensor
    """(P, 3, S, S)."""
    styles: Tensor | None
    """(P, 512) that the faces were made of, where they are known."""
    points: Tensor | None
    """(P, 468, 3) of the teacher, in pixels of each picture, where it has seen them."""
    offsets: Offsets
    """Of the two views."""


class _MobileTraining:
    """What changes while training, and how."""

    takes_bfloat16 = True

    def __init__(self, config: MobileConfig, prior: ShapePrior) -> None:
        self.config, self.prior = config, prior
        data, device = config.data, config.run.device
        paths = list_images(data.faces) if data.generated else training_faces(data.faces, data.aligned, data.cache)
        held_out = paths[: data.held_out]
        self.held_out = HeldOut.make(
            held_out[: config.run.validation_faces], size=data.size, device=device if data.on_device else None
        )
        knows_styles = data.generated or data.generated_in_step
        mean = mean_style() if knows_styles or config.start == "compact" else torch.zeros(config.network.style)
        self.styles: Tensor | None = None
        """(F, 512) of the training faces, where they were made before."""
        if data.generated_in_step:
            generator = StepGenerator(data.cache_size, config.run.seed, device, mean=mean, noise=data.style_noise)
            plans = PlannedWide(
                EndlessFaces(data.cache_size),
                size=data.size,
                seed=config.run.seed,
                stills=data.stills,
                texture=data.texture,
            )
            self.source: SampleSource | DeviceStream = DeviceStream(
                plans,
                size=data.size,
                device=device,
                workers=data.workers,
                generator=generator,
                at_once=data.made_at_once,
            )
            some: Tensor | None = generator.styles(range(512))
        else:
            training, _ = split_held_out(paths, data.held_out)
            self.source = self._cached(training, PointCache.of(paths, data.points))
            self.styles = some = styles_of(training, mean).to(device) if data.generated else None
        if some is not None:
            self.spread = (some - mean.to(device)).square().mean()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.network = MobileNet(config.network)
            self.critic = PatchCritic()
        if config.start == "compact":
            self.network.start_from(load_compact(), load_generator(), mean)
        elif config.start != "nothing":
            self.network = load_mobile(None if config.start == "mobile" else config.start).requires_grad_(True)
            if self.network.dims != config.network:
                raise ConfigError(f"start has the layout {self.network.dims}, the run asks for {config.network}")
        if config.trunk is not None:
            self.network.trunk.load_state_dict(load_compact(config.trunk).state_dict())
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.critic.to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        o = config.optimiser
        slow = [*self.network.trunk.parameters(), *self._generator_parameters()]
        known_ids = {id(p) for p in slow}
        quick = [p for p in self.network.parameters() if id(p) not in known_ids]
        groups = [{"params": quick, "share": 1.0}, {"params": slow, "share": o.trunk}]
        self.optimiser = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(0.9, 0.98), weight_decay=o.weight_decay)
        self.critic_optimiser = critic_optimiser(self.critic)
        wants_metric = any(p.perceptual > 0 for p in config.phase)
        self.metric = ShiftTolerantLpips("alex").to(device) if wants_metric else None
        self.embedding = load_embedding().to(device) if any(p.identity > 0 for p in config.phase) else None
        self.judge = ShapeJudge(prior.regressor, prior.model)

    def _cached(self, faces: Sequence[Path], everything: PointCache) -> SampleSource | DeviceStream:
        data, seed = self.config.data, self.config.run.seed
        source = SampleSource(
            faces,
            PointCache(everything.points[data.held_out :], everything.trusted[data.held_out :]),
            mesh_of(self.prior.model),
            cache=data.cache,
            cache_size=data.cache_size,
            size=data.size,
            seed=seed,
            stored=data.samples,
            num_stored=data.num_samples,
            workers=data.workers,
            stills=data.stills,
            texture=data.texture,
            reshaped=data.reshaped,
        )
        if not data.on_device:
            return source
        plans = PlannedMeshes(source.samples)
        return DeviceStream(
            plans,
            size=data.size,
            device=self.config.run.device,
            workers=data.workers,
            at_once=data.made_at_once,
        )

    def _generator_parameters(self) -> list[nn.Parameter]:
        extra = {id(p) for block in self.network.blocks for p in block.conv1.extra.parameters()}  # type: ignore[union-attr]
        own = [*self.network.first.parameters(), *self.network.blocks.parameters()]
        return [p for p in own if id(p) not in extra]

    @property
    def parts(self) -> dict[str, Stateful]:
        return {
            "network": self.network,
            "average": self.average,
            "optimiser": self.optimiser,
            "critic": self.critic,
            "critic_optimiser": self.critic_optimiser,
        }

    def step(self, clock: Clock) -> dict[str, float]:
        o = self.config.optimiser
        phase = next(p for p in self.config.phase if clock.share < p.until)
        self._choose_what_learns(phase)
        rate = warmed_up(cosine_rate(clock.share, o.learning_rate, o.final_rate), clock.step, o.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        rng = rng_at(clock.options.seed, 6, clock.step)
        batch = {k: v.to(self.config.run.device) for k, v in self.source.batch(clock, phase.batch).items()}
        sample = self._views(batch, phase, clock)
        if phase.learns == ("fine",):
            with reduced(clock.options):
                restored = self.network.without_prior(sample.degraded)
            terms, loss = self._picture_terms(phase, sample, restored.float(), rng, torch.ones(()))
        else:
            coefficients = self.prior.coefficients(sample.degraded).clone()
            render = self.prior.picture(coefficients, PRIOR_SIZE).clone()
            if phase.only_style:
                terms, loss = self._style_terms(phase, sample, render, coefficients)
            else:
                terms, loss = self._terms(phase, sample, render, coefficients, rng)
        learning = [p for p in self.network.parameters() if p.requires_grad]
        length = descend(loss, self.optimiser, learning, clip=o.clip, step=clock.step, what=terms)
        clock.samples += len(batch["clean"])
        follow(self.average, self.network, young(o.ema, clock.step + 1))
        return {name: float(value.detach()) for name, value in terms.items()} | {
            "loss": float(loss.detach()),
            "gradient": length,
            "rate": rate,
        }

    def _choose_what_learns(self, phase: Phase) -> None:
        generator = {id(p) for p in self._generator_parameters()}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(phase.teaches(name) and (phase.learns_generator or id(parameter) not in generator))

    def _views(self, batch: Mapping[str, Tensor], phase: Phase, clock: Clock) -> _Sample:
        styles, points = batch.get("styles"), batch.get("points")
        if self.styles is not None:
            styles = self.styles[batch["face"]]
        if phase.views == 1:
            return _Sample(batch["degraded"], batch["clean"], styles, points, ((0, 0), (0, 0)))
        frames = two_frames(
            batch["clean"],
            batch["level"].tolist(),
            motion=phase.motion,
            seed=clock.options.seed,
            step=clock.step,
            workers=self.config.data.workers,
            on_device=self.config.data.on_device,
        )
        if points is not None:
            shift = torch.tensor([(x, y) for y, x in frames.offsets]).to(points)  # (2, 2) of the windows' corners
            points = points.repeat_interleave(2, 0).clone()
            points[..., :2] -= shift.repeat(len(points) // 2, 1)[:, None]
        if styles is not None:
            styles = styles.repeat_interleave(2, 0)
        return _Sample(frames.degraded, frames.clean, styles, points, frames.offsets)

    def _style_terms(
        self, phase: Phase, sample: _Sample, render: Tensor, coefficients: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        terms = {"style": self._style_error(self._style(sample, render, coefficients), sample.styles)}
        return terms, phase.style * terms["style"]

    def _style(self, sample: _Sample, render: Tensor, coefficients: Tensor) -> Tensor:
        with reduced(self.config.run):
            return self.network.look(_small(sample.degraded), render, coefficients)[2].float()

    def _style_error(self, style: Tensor, wanted: Tensor | None) -> Tensor:
        assert wanted is not None
        return (style - wanted).square().mean() / self.spread

    def _terms(
        self, phase: Phase, sample: _Sample, render: Tensor, coefficients: Tensor, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses, not yet weighted, and their weighted sum."""
        count = len(sample.clean) // phase.views
        draw = rng.random(count)
        without = 0.2 if phase.teaches("trunk") else 0.0  # without the prior there is only the trunk to teach
        drawn = np.where(draw < 0.6, 0.0, np.where(draw < 0.6 + without, 1.0, rng.random(count)))
        w = torch.from_numpy(drawn).float()
        w = w.repeat_interleave(phase.views).to(sample.degraded.device)
        with reduced(self.config.run):
            restored = self.network(sample.degraded, render, coefficients, w)
        freedom = 1.0 - w if phase.bold else torch.ones_like(w)
        terms, loss = self._picture_terms(phase, sample, restored.float(), rng, freedom)
        if phase.style > 0.0 and sample.styles is not None:
            style = self._style_error(self._style(sample, render, coefficients), sample.styles)
            terms, loss = terms | {"style": style}, loss + phase.style * style
        return terms, loss

    def _picture_terms(
        self, phase: Phase, sample: _Sample, restored: Tensor, rng: np.random.Generator, freedom: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The same of the pictures alone; ``freedom``, () or (P,), is how far each may differ from its input."""
        clean = sample.clean
        before = absolute_error(sample.degraded, clean, softness=phase.softness)
        weights, share = sample_weights(before), damage_share(before)
        pull = share * freedom.to(share)
        terms = {
            "l1": (weights * absolute_error(restored, clean, softness=phase.softness)).mean(),
            "laplacian": (weights * laplacian_error(restored, clean, softness=phase.softness)).mean(),
        }
        if phase.perceptual > 0.0 and self.metric is not None:
            y, x = rng.integers(0, restored.shape[-1] - phase.window + 1, 2)
            few, corner = slice(None, phase.judged), (int(y), int(x))
            distance = perceptual_error(self.metric, restored[few], clean[few], corner=corner, side=phase.window)
            terms["perceptual"] = (pull[few] * distance).mean()
        if phase.identity > 0.0 and self.embedding is not None:
            moves = identity_moves(rng, len(restored)).to(restored.device)
            distance = identity_error(self.embedding, restored, clean, moves)
            terms["identity"] = (share * distance).mean()
        if phase.landmark > 0.0 or phase.mesh > 0.0:
            read = self.judge.errors(restored, clean, sample.points)
            terms["landmark"] = (share * read.landmark).mean()
            terms["mesh"] = (share * read.mesh).mean()
        if phase.steady > 0.0:
            terms["steady"] = unsteadiness(restored, sample.offsets, margin=_EDGE)
        seen: dict[str, Tensor] = {}
        if phase.adversarial > 0.0:
            seen = teach_critic(self.critic, self.critic_optimiser, clean, restored.detach(), phase.r1)
            terms["adversarial"] = (pull * hinge_fooling(self.critic(restored), per_picture=True)).mean()
        loss = sum((getattr(phase, name) * value for name, value in terms.items()), before.new_zeros(()))
        return terms | seen | {"input_l1": (weights * before).mean().detach()}, loss

    @torch.inference_mode()
    def validate(self, clock: Clock) -> dict[str, float]:
        """Means per level: of the input, with all of the prior (w = 0), with half and with none (w = 1). PSNR, and
        ST-LPIPS and identity where they are among the losses."""
        values: dict[str, float] = {}
        clean = self.held_out.clean
        for level, degraded in self.held_out.degraded.items():
            for name, w in (("_input", None), ("", 0.0), ("_w0.5", 0.5), ("_w1", 1.0)):
                pictures = degraded if w is None else self._restored(degraded, w)
                values[f"psnr_{level}{name}"] = _psnr(pictures, clean)
                for kind, distances in self._distances(pictures, clean).items():
                    values[f"{kind}_{level}{name}"] = float(distances.mean())
        return values

    def _distances(self, pictures: Tensor, clean: Tensor) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for some, others in zip(torch.split(pictures, 8), torch.split(clean, 8), strict=True):
            own, wanted = some.to(self.config.run.device), others.to(self.config.run.device)
            if self.metric is not None:
                whole = perceptual_error(self.metric, own, wanted, corner=(0, 0), side=own.shape[-1])
                found.setdefault("st_lpips", []).append(whole)
            if self.embedding is not None:
                found.setdefault("identity", []).append(identity_error(self.embedding, own, wanted))
        return {kind: torch.cat(parts) for kind, parts in found.items()}

    @torch.inference_mode()
    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """By level: degraded, restored with all of the prior, and with none; then clean."""
        columns: dict[str, Tensor] = {}
        for level, degraded in self.held_out.degraded.items():
            columns[level] = degraded[:faces]
            columns[f"{level}, w = 0"] = self._restored(degraded[:faces], 0.0)
            columns[f"{level}, w = 1"] = self._restored(degraded[:faces], 1.0)
        return lay_sheet(columns | {"clean": self.held_out.clean[:faces]})

    def _restored(self, pictures: Tensor, w: float) -> Tensor:
        done = []
        for part in torch.split(pictures, 8):
            crops = part.to(self.config.run.device)
            coefficients = self.prior.coefficients(crops)
            render = self.prior.picture(coefficients, PRIOR_SIZE)
            weights = torch.full((len(crops),), w, device=crops.device)
            done.append(self.average(crops, render, coefficients, weights).clamp(-1, 1).cpu())
        return torch.cat(done)

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "mobile.safetensors"
        save_mobile(self.average, path, notes={"step": str(clock.step), "samples": str(clock.samples)})
        return path


def _small(pictures: Tensor) -> Tensor:
    """(B, 3, 256, 256), as the network's prior sees them."""
    return functional.avg_pool2d(pictures, pictures.shape[-1] // 256)


def _psnr(picture: Tensor, reference: Tensor) -> float:
    error = ((picture - reference) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)  # at most 100 dB
    return float((-10 * error.log10()).mean())
