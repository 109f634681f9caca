"""CodeFormer's training: stage I (autoencoder), II (codes), III (joint), inpainting and colorization.

What each stage moves:
    I       encoder, codebook and generator, against a discriminator.
    II      encoder and transformer, by losses on the latent and on the code logits; colorization is the same with
            other pictures.
    III     the same losses at every step, and image losses at some, which reach the fusion blocks only. Inpainting
            has image losses at every step.
Code targets are the nearest entries of the *stage I* network for the clean face.

Source:
    Zhou et al. 2022, sections 3.1 to 3.4, and the released code's settings; where they differ, both are configurations
    (docs/training_codeformer.md). Perceptual loss: ST-LPIPS takes the place of LPIPS (its VGG16 as well), with the
    released code's double normalisation.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.restoration.codeformer import CodeFormer, CodeFormerDims
from vidrestore.restoration.vqgan import PatchDiscriminator, VQAutoencoder, VqganDims, load_published
from vidrestore.train.codeformer_data import CodeFaces, as_pictures, make_bad, views_of
from vidrestore.train.codeformer_options import CodeFormerConfig, Part, load_config
from vidrestore.train.data import FaceCache, list_images, split_held_out, stream, to_tensor
from vidrestore.train.gan import adaptive_weight, hinge_critic, hinge_fooling
from vidrestore.train.losses import published_normalisation
from vidrestore.train.run import (
    Clock,
    Heard,
    RunReport,
    Stateful,
    cosine_rate,
    descend,
    fill_options,
    follow,
    rng_at,
    run,
    set_rate,
    stepped_rate,
)
from vidrestore.train.sheets import lay_sheet

__all__ = [
    "CodeUse",
    "Validation",
    "load_config",
    "load_network",
    "load_weights",
    "make_training",
    "psnr",
    "save_weights",
    "train",
]

_log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

_STREAM_WINDOW, _STREAM_REVIVE, _STREAM_VALIDATION = 5, 6, 7
"""Purposes of random numbers, see :func:`vidrestore.train.run.rng_at`."""


def train(
    config: CodeFormerConfig,
    folder: str | os.PathLike[str],
    *,
    progress: Heard | None = None,
    stop: Callable[[], bool] | None = None,
) -> RunReport:
    """Trains the stage that the configuration names.

    Leaves ``autoencoder.safetensors`` (stage I) or ``codeformer.safetensors``, with ``discriminator.safetensors``
    where one is trained, ``checkpoint.pt`` and ``log.jsonl`` in the folder. See :func:`vidrestore.train.run.run`.

    Raises:
        ConfigError: no faces, or too few.
        WeightsError: a file to start from, or the checkpoint, is missing, damaged or of another network.
        FloatingPointError: the loss is no longer finite; the last checkpoint is kept.
    """
    return run(make_training(config), config.run, folder, config=config, progress=progress, stop=stop)


def make_training(config: CodeFormerConfig) -> AutoencoderTraining | CodesTraining | JointTraining:
    """The training of the configuration's stage, ready for its first step."""
    if config.stage == "autoencoder":
        return AutoencoderTraining(config)
    if config.stage in ("codes", "colorization"):
        return CodesTraining(config)
    return JointTraining(config)


def load_weights(network: nn.Module, path: str | os.PathLike[str], *, may_lack: tuple[str, ...] = ()) -> None:
    """Gives a network the tensors of a ``.safetensors`` file.

    Args:
        network: on any device.
        path: written by :func:`save_weights` or by ``models convert``.
        may_lack: beginnings of keys that may be missing and then keep their values.

    Raises:
        WeightsError: the file is missing, damaged or of another network; the message names the first wrong tensor.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is no readable safetensors file ({error})") from error
    load_published(network, state, source=os.fspath(path), may_lack=may_lack)


def load_network(path: str | os.PathLike[str]) -> VQAutoencoder | CodeFormer:
    """The network of a file of :func:`save_weights`, of whatever size, in evaluation mode on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, without a layout in its metadata, or of another network.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        dims = json.loads(metadata["dims"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: is no safetensors file that says its layout ({error!r})") from error
    network: VQAutoencoder | CodeFormer
    if metadata.get("network") == "VQAutoencoder":
        network = VQAutoencoder(fill_options(path, VqganDims, dims))
    elif metadata.get("network") == "CodeFormer":
        network = CodeFormer(fill_options(path, CodeFormerDims, dims))
    else:
        raise WeightsError(f"{path}: expected a VQAutoencoder or a CodeFormer, got {metadata.get('network')!r}")
    load_weights(network, path)
    return network.eval().requires_grad_(False)


def save_weights(network: nn.Module, path: Path, dims: object, clock: Clock) -> None:
    """Writes the parameters under their published names, layout and step in the metadata; whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    metadata = {"network": type(network).__name__, "step": str(clock.step)}
    metadata["dims"] = json.dumps(dataclasses.asdict(dims))  # type: ignore[call-overload]
    part = path.with_name(path.name + ".part")
    save_file(state, str(part), metadata=metadata)
    part.chmod(0o644)  # safetensors writes it for the owner alone
    os.replace(part, path)


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Mean peak signal to noise ratio in dB of pictures (B, 3, H, W) in [-1, 1], clamped first; at most 100."""
    error = ((picture.clamp(-1, 1) - reference) / 2).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """The first faces of the folder, degraded with fixed seeds."""

    clean: Tensor
    """(N, 3, S, S) in [-1, 1]."""
    views: Mapping[str, Tensor]
    """View -> (N, 3, S, S) in [-1, 1]."""

    @classmethod
    def make(cls, faces: FaceCache, config: CodeFormerConfig) -> Validation:
        """View k of face i depends on (i, k) alone."""
        clean = [np.asarray(face, np.float32) / np.float32(255.0) for face in faces.pictures]
        views: dict[str, Tensor] = {}
        for k, view in enumerate(views_of(config.stage)):
            rngs = (np.random.default_rng([0, _STREAM_VALIDATION, i, k]) for i in range(len(clean)))
            bad = [make_bad(face, view, config.degradation, rng) for face, rng in zip(clean, rngs, strict=True)]
            views[view] = torch.stack([to_tensor(picture) for picture in bad])
        return cls(torch.stack([to_tensor(face) for face in clean]), views)


class _Faces:
    """Samples of a stage, resumable, and its validation set."""

    def __init__(self, config: CodeFormerConfig) -> None:
        data, side = config.data, config.network.autoencoder.image_size
        paths, held_out = split_held_out(list_images(data.faces), data.held_out)
        cache = FaceCache(paths, side, data.cache)
        self.data = CodeFaces(cache, views_of(config.stage), config.degradation, config.run.seed)
        apart = Path(data.cache).with_name(f"{Path(data.cache).stem}_held_out.npy")
        self.validation = Validation.make(FaceCache(held_out[: config.run.validation_faces], side, apart), config)
        self._config = config
        self._source: Iterator[Tensor] | None = None

    def take(self, clock: Clock) -> list[Tensor]:
        """The clean faces and views of the coming step."""
        options = self._config.data
        if self._source is None:
            self._source = stream(self.data, batch=options.batch, start=clock.samples, workers=options.workers)
        clock.samples += options.batch
        return as_pictures(next(self._source), self._config.run.device)


class _ImageLoss:
    """Pixel and perceptual loss, and the discriminator with its own optimiser."""

    def __init__(self, config: CodeFormerConfig) -> None:
        self.config, self.loss = config, config.loss
        self.metric: ShiftTolerantLpips | None = None
        if self.loss.perceptual > 0.0:
            try:
                self.metric = ShiftTolerantLpips(self.loss.backbone).to(config.run.device)
            except WeightsError as error:
                _log.warning("training without the perceptual loss: %s", error)
        self.discriminator = _seeded(config, lambda: PatchDiscriminator(config.discriminator), 1)
        if config.start.discriminator is not None:
            load_weights(self.discriminator, config.start.discriminator)
        self.discriminator.to(config.run.device)
        self.optimiser = _adam(list(self.discriminator.parameters()), config)

    @property
    def parts(self) -> dict[str, Stateful]:
        return {"discriminator": self.discriminator, "discriminator_optimiser": self.optimiser}

    def reconstruction(self, restored: Tensor, clean: Tensor, clock: Clock) -> dict[str, Tensor]:
        """Weighted pixel and perceptual losses."""
        terms = {"pixel": self.loss.pixel * (restored - clean).abs().mean()}
        if self.metric is not None:
            side = restored.shape[-1]
            window = self.loss.window or side
            y, x = rng_at(clock.options.seed, _STREAM_WINDOW, clock.step).integers(0, side - window + 1, 2)
            cut = (..., slice(int(y), int(y) + window), slice(int(x), int(x) + window))
            with torch.no_grad():
                target = self.metric.features(published_normalisation(clean[cut]))
            distance = self.metric.compare(self.metric.features(published_normalisation(restored[cut])), target)
            terms["perceptual"] = self.loss.perceptual * distance.mean()
        return terms

    def adversarial(self, restored: Tensor, reconstruction: Tensor, layer: Tensor) -> dict[str, Tensor]:
        """The weighted adversarial loss and, for the log, the weight."""
        self.discriminator.requires_grad_(False)
        fooling = hinge_fooling(self.discriminator(restored))
        self.discriminator.requires_grad_(True)
        weight = torch.tensor(self.loss.adversarial, device=restored.device)
        if self.loss.adaptive:
            weight = weight * adaptive_weight(reconstruction, fooling, layer)
        return {"adversarial": weight * fooling, "adversarial_weight": weight}

    def improve(self, restored: Tensor, clean: Tensor, clock: Clock, rate: float) -> dict[str, float]:
        """One step of the discriminator; real and restored pictures go through it apart, each with its own batch
        statistics."""
        set_rate(self.optimiser, rate)
        real, fake = self.discriminator(clean), self.discriminator(restored.detach())
        loss = hinge_critic(real, fake)
        descend(loss, self.optimiser, list(self.discriminator.parameters()), step=clock.step, what="discriminator")
        return {
            "critic": float(loss.detach()),
            "score_real": float(real.detach().mean()),
            "score_fake": float(fake.detach().mean()),
        }

    def has_begun(self, clock: Clock) -> bool:
        """Whether discriminator and adversarial loss take part in the coming step."""
        return self.loss.adversarial > 0.0 and clock.step >= self.loss.adversarial_after


class CodeUse:
    """Which code entries were used of late, and new places for those that were not; a part of the checkpoint."""

    def __init__(self, codebook_size: int) -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": self.counts.clone()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes them back."""
        if state_dict["counts"].shape != self.counts.shape:
            raise ValueError("another size of codebook")
        self.counts = state_dict["counts"].cpu().clone()

    def note(self, codes: Tensor) -> None:
        """Counts the codes of a step."""
        self.counts += torch.bincount(codes.flatten().cpu(), minlength=len(self.counts))

    @torch.no_grad()
    def revive(self, codebooks: list[Tensor], latent: Tensor, rng: np.random.Generator) -> int:
        """Sets each unused entry of every codebook to a latent vector drawn from the batch; begins a new count.

        Args:
            codebooks: (codebook_size, C) each, the same entries in all: the network's and its average's.
            latent: (B, C, H, W).
            rng: source of randomness.

        Returns:
            How many entries were moved.
        """
        unused = torch.nonzero(self.counts == 0).flatten()
        vectors = latent.detach().permute(0, 2, 3, 1).flatten(0, 2)
        chosen = vectors[torch.from_numpy(rng.integers(0, len(vectors), len(unused))).to(vectors.device)]
        for codebook in codebooks:
            codebook[unused.to(codebook.device)] = chosen.to(codebook.dtype)
        self.counts.zero_()
        return len(unused)


class AutoencoderTraining:
    """Stage I."""

    def __init__(self, config: CodeFormerConfig) -> None:
        self.config = config
        self.dims = config.network.autoencoder
        self.faces = _Faces(config)
        self.network = _seeded(config, lambda: VQAutoencoder(self.dims), 0)
        if config.start.autoencoder is not None:
            load_weights(self.network, config.start.autoencoder)
        self.network.to(config.run.device)
        self.average = _copy(self.network)
        self.optimiser = _adam(list(self.network.parameters()), config)
        self.images = _ImageLoss(config)
        self.use = CodeUse(self.dims.codebook_size)

    @property
    def parts(self) -> dict[str, Stateful]:
        own: dict[str, Stateful] = {"network": self.network, "average": self.average, "optimiser": self.optimiser}
        return own | {"use": self.use} | self.images.parts

    def step(self, clock: Clock) -> dict[str, float]:
        (clean,) = self.faces.take(clock)
        rate = _rate(self.config, clock)
        set_rate(self.optimiser, rate)
        latent = self.network.encode(clean)
        quantised = self.network.quantize(latent)
        is_continuous = clock.step < self.config.continuous_steps
        restored = self.network.generator(latent if is_continuous else quantised.latent)
        terms = self.images.reconstruction(restored, clean, clock)
        loss = _total(terms)
        noted: dict[str, Tensor] = {}
        fights = self.images.has_begun(clock)
        if fights:
            noted = self.images.adversarial(restored, loss, self.last_layer)
            loss = loss + noted["adversarial"]
        if not is_continuous:
            loss = loss + self.config.loss.codebook * quantised.loss
        parameters = list(self.network.parameters())
        length = descend(loss, self.optimiser, parameters, clip=self.config.optimiser.clip, step=clock.step)
        follow(self.average, self.network, self.config.optimiser.ema)
        values = _floats(terms | noted | {"codebook": quantised.loss, "perplexity": quantised.perplexity})
        if fights:
            values |= self.images.improve(restored, clean, clock, rate)
        self._revive(clock, quantised.codes, latent)
        return values | {"gradient": length, "rate": rate}

    @property
    def last_layer(self) -> Tensor:
        """The generator's last convolution."""
        layer: Any = self.network.generator.blocks[-1]
        weight: Tensor = layer.weight
        return weight

    def _revive(self, clock: Clock, codes: Tensor, latent: Tensor) -> None:
        done, config = clock.step + 1, self.config
        begins = done == config.continuous_steps  # nothing was counted, so that all entries move
        if done > config.continuous_steps and config.revive_every > 0:
            self.use.note(codes)
        # the last part only refines
        is_due = config.revive_every > 0 and done > config.continuous_steps and done % config.revive_every == 0
        if begins or (is_due and clock.share < 0.8):
            books = [net.quantize.embedding.weight for net in (self.network, self.average)]
            self.use.revive(books, latent, rng_at(clock.options.seed, _STREAM_REVIVE, clock.step))

    @torch.inference_mode()
    def validate(self, clock: Clock) -> dict[str, float]:
        """``psnr`` of the reconstruction and how many entries it uses."""
        clean = self.faces.validation.clean
        codes = _in_parts(lambda x: self.average.predict_codes(self.average.encode(x)), clean, self.config)
        restored = _in_parts(self.average.decode, codes, self.config)
        return {
            "psnr": psnr(restored, clean),
            "absolute_error": float((restored - clean).abs().mean()),
            "codes_used": float(torch.bincount(codes.flatten()).count_nonzero()),
        }

    @torch.inference_mode()
    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """Clean faces, and as their codes are decoded."""
        clean = self.faces.validation.clean[:faces]
        codes = _in_parts(lambda x: self.average.predict_codes(self.average.encode(x)), clean, self.config)
        return lay_sheet({"clean": clean, "decoded": _in_parts(self.average.decode, codes, self.config)})

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "autoencoder.safetensors"
        save_weights(self.average, path, self.dims, clock)
        save_weights(self.images.discriminator, folder / "discriminator.safetensors", self.config.discriminator, clock)
        return path


class CodesTraining:
    """Stage II, and colorization: encoder and transformer learn to name the codes of the clean face."""

    def __init__(self, config: CodeFormerConfig) -> None:
        self.config = config
        self.faces = _Faces(config)
        self.teacher = VQAutoencoder(config.network.autoencoder).requires_grad_(False).eval()
        assert config.start.autoencoder is not None
        load_weights(self.teacher, config.start.autoencoder)
        self.teacher.to(config.run.device)
        self.network = _seeded(config, lambda: CodeFormer(config.network), 0)
        rest = ("position_emb", "feat_emb", "ft_layers", "idx_pred_layer", "fuse_convs_dict")
        if config.start.codeformer is not None:
            load_weights(self.network, config.start.codeformer, may_lack=("fuse_convs_dict",))
        else:
            load_weights(self.network, config.start.autoencoder, may_lack=rest)
        self.network.to(config.run.device)
        self.average = _copy(self.network)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = _adam(self.trained, config)

    @property
    def parts(self) -> dict[str, Stateful]:
        return {"network": self.network, "average": self.average, "optimiser": self.optimiser}

    def step(self, clock: Clock) -> dict[str, float]:
        clean, degraded = self.faces.take(clock)
        rate = _rate(self.config, clock)
        set_rate(self.optimiser, rate)
        latent = self.network.encoder(degraded).latent
        terms, accuracy = self.code_terms(latent, self.network.predict_logits(latent), self.targets(clean))
        length = descend(
            _total(terms), self.optimiser, self.trained, clip=self.config.optimiser.clip, step=clock.step, what=terms
        )
        follow(self.average, self.network, self.config.optimiser.ema)
        return _floats(terms) | {"accuracy": accuracy, "gradient": length, "rate": rate}

    @torch.no_grad()
    def targets(self, clean: Tensor) -> Tensor:
        """(B, num_codes) int64: what the stage I network sees in clean faces."""
        return self.teacher.predict_codes(self.teacher.encode(clean))

    def code_terms(self, latent: Tensor, logits: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], float]:
        """The weighted losses on latent and logits, and the share of codes that are right."""
        entries = self.network.quantize.lookup(targets).detach()
        terms = {
            "feature": self.config.loss.feature * functional.mse_loss(latent, entries),
            "cross_entropy": self.config.loss.cross_entropy
            * functional.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        }
        return terms, float((logits.argmax(-1) == targets).float().mean())

    @torch.inference_mode()
    def validate(self, clock: Clock) -> dict[str, float]:
        """By view: share of right codes of the transformer and of the nearest entry, and PSNR at w = 0 and 1."""
        validation, average = self.faces.validation, self.average
        targets = _in_parts(self.targets, validation.clean, self.config)
        values = {"psnr_targets": psnr(_in_parts(self.teacher.decode, targets, self.config), validation.clean)}
        for view, degraded in validation.views.items():
            latent = _in_parts(lambda x: average.encode(x).latent, degraded, self.config)
            codes = _in_parts(average.predict_codes, latent, self.config)
            nearest = average.quantize.nearest(latent.to(self.config.run.device)).cpu()
            values[f"accuracy_{view}"] = float((codes == targets).float().mean())
            values[f"nearest_accuracy_{view}"] = float((nearest == targets).float().mean())
            values[f"psnr_{view}_input"] = psnr(degraded, validation.clean)
            for w in self.weights_shown:
                restored = _in_parts(functools.partial(average, w=w, adain=False), degraded, self.config)
                values[f"psnr_{view}_w{w:g}"] = psnr(restored, validation.clean)
        return values

    @torch.inference_mode()
    def sheet(self, faces: int) -> NDArray[np.uint8]:
        """By view: as it is given, and restored with each w; then clean."""
        columns: dict[str, Tensor] = {}
        for view, degraded in self.faces.validation.views.items():
            columns[view] = degraded[:faces]
            for w in self.weights_shown:
                restore = functools.partial(self.average, w=w, adain=False)
                columns[f"{view}, w = {w:g}"] = _in_parts(restore, degraded[:faces], self.config)
        return lay_sheet(columns | {"clean": self.faces.validation.clean[:faces]})

    @property
    def weights_shown(self) -> tuple[float, ...]:
        """The w that validation decodes with: 0 where the fusion blocks are not trained."""
        return (0.0,)

    def export(self, folder: Path, clock: Clock) -> Path:
        path = folder / "codeformer.safetensors"
        save_weights(self.average, path, self.config.network, clock)
        return path


class JointTraining(CodesTraining):
    """Stage III, and inpainting: the losses of stage II, and image losses for the fusion blocks."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__(config)
        self.images = _ImageLoss(config)

    @property
    def parts(self) -> dict[str, Stateful]:
        return super().parts | self.images.parts

    def step(self, clock: Clock) -> dict[str, float]:
        part = next(p for p in self.config.part if clock.share < p.until)
        has_image = part.image_every > 0 and clock.step % part.image_every == 0
        clean, *views = self.faces.take(clock)
        degraded = views[0] if len(views) == 1 or (has_image and part.level == "small") else views[1]
        rate = _rate(self.config, clock)
        set_rate(self.optimiser, rate)
        latent, skips = self.network.encode(degraded)
        logits = self.network.predict_logits(latent)
        terms, accuracy = self.code_terms(latent, logits, self.targets(clean))
        noted: dict[str, Tensor] = {}
        restored: Tensor | None = None
        if has_image:
            restored = self.restored(logits, skips, part)
            image = self.images.reconstruction(restored, clean, clock)
            terms |= image
            if self.images.has_begun(clock):
                noted = self.images.adversarial(restored, _total(image), self.last_layer)
                terms["adversarial"] = noted["adversarial"]
        length = descend(
            _total(terms), self.optimiser, self.trained, clip=self.config.optimiser.clip, step=clock.step, what=terms
        )
        follow(self.average, self.network, self.config.optimiser.ema)
        values = _floats(terms | noted) | {"accuracy": accuracy, "gradient": length, "rate": rate}
        if restored is not None and self.images.has_begun(clock):
            values |= self.images.improve(restored, clean, clock, rate)
        return values

    def restored(self, logits: Tensor, skips: tuple[Tensor, ...], part: Part) -> Tensor:
        """The pictures of the predicted codes at the part's w, without AdaIN, as in every published training."""
        reaches = self.config.image_loss_reach == "encoder"
        return self.network.decode(logits.argmax(-1), skips, part.w, detaches_skips=not reaches)

    @property
    def last_layer(self) -> Tensor:
        """The last convolution of the shift branch of the largest fusion block: the last layer that is trained."""
        fusion: Any = self.network.fuse_convs_dict[str(max(self.config.network.fusion_sizes))]
        layer: Tensor = fusion.shift[-1].weight
        return layer

    @property
    def weights_shown(self) -> tuple[float, ...]:
        return (0.0, 0.5, 1.0)

    def export(self, folder: Path, clock: Clock) -> Path:
        save_weights(self.images.discriminator, folder / "discriminator.safetensors", self.config.discriminator, clock)
        return super().export(folder, clock)


def _seeded(config: CodeFormerConfig, make: Callable[[], Network], purpose: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed * 16 + purpose)
        return make()


def _copy(network: Network) -> Network:
    return copy.deepcopy(network).requires_grad_(False).eval()


def _adam(parameters: list[nn.Parameter], config: CodeFormerConfig) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=config.optimiser.learning_rate, betas=config.optimiser.betas)


def _rate(config: CodeFormerConfig, clock: Clock) -> float:
    o = config.optimiser
    if o.final_rate is not None:
        return cosine_rate(clock.share, o.learning_rate, o.final_rate)
    return stepped_rate(clock.step, o.learning_rate, o.milestones)


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}


def _in_parts(function: Callable[[Tensor], Tensor], batch: Tensor, config: CodeFormerConfig) -> Tensor:
    """A function of a batch in parts of eight, on the device, the result on the CPU."""
    return torch.cat([function(part.to(config.run.device)).cpu() for part in torch.split(batch, 8)])
