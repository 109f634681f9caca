"""The settings of CodeFormer's training stages, as TOML files hold them; docs/training_codeformer.md explains them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vidrestore.errors import ConfigError
from vidrestore.restoration.codeformer import CodeFormerDims
from vidrestore.restoration.vqgan import DiscriminatorDims
from vidrestore.train.paper_degrade import LARGE, SMALL, BlindLevel, BrushOptions, ColourFaults
from vidrestore.train.run import RunOptions, load_options

__all__ = [
    "CodeFormerConfig",
    "DataOptions",
    "DegradationOptions",
    "LossOptions",
    "OptimiserOptions",
    "Part",
    "Stage",
    "StartOptions",
    "load_config",
]

Stage = Literal["autoencoder", "codes", "joint", "inpainting", "colorization"]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where faces come from."""

    faces: str = "data/faces"
    """Folder of square pictures of aligned faces (FFHQ's template)."""
    cache: str = "data/faces_codeformer.npy"
    """File of the faces at the network's size; made when missing or out of date."""
    held_out: int = 128
    """The first so many faces are for validation and never trained on."""
    batch: int = 8
    """Faces per step."""
    workers: int = 2
    """Processes that make samples."""


@dataclass(frozen=True, slots=True)
class DegradationOptions:
    """How faces are made bad."""

    large: BlindLevel = LARGE
    small: BlindLevel = SMALL
    """The second table of stage III."""
    colour: ColourFaults = field(default_factory=ColourFaults)
    """Colorization alone."""
    brush: BrushOptions = field(default_factory=BrushOptions)
    """Inpainting alone."""


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Weights to start from: ``.safetensors`` of an earlier stage, or published files after ``models convert``."""

    autoencoder: str | None = None
    """Stage I: the beginning of encoder, codebook and generator, and the network that gives the code targets."""
    codeformer: str | None = None
    """Stage II: the beginning of stage III."""
    discriminator: str | None = None
    """Stage I's; stage II trains none. None begins with a new one."""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weights of the losses; a stage reads those that it has."""

    pixel: float = 1.0
    """Mean absolute error."""
    perceptual: float = 1.0
    """LPIPS-type distance; left out, with a warning, where its parameters are not installed."""
    backbone: Literal["vgg", "alex"] = "vgg"
    """Of that distance."""
    window: int | None = None
    """Side in pixels of a random window that the distance looks at; None is the whole picture."""
    adversarial: float = 0.8
    adaptive: bool = True
    """The adversarial weight is multiplied by the ratio of gradients, at most 1."""
    adversarial_after: int = 0
    """Steps before discriminator and adversarial loss begin."""
    codebook: float = 1.0
    """Stage I: the quantiser's loss."""
    feature: float = 1.0
    """Mean squared distance of the encoder's output to the target's code entries."""
    cross_entropy: float = 0.5
    """Of the predicted codes."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """Adam without weight decay; the same for network and discriminator."""

    learning_rate: float = 1e-4
    final_rate: float | None = None
    """End of a cosine over the whole run; None keeps the rate but for ``milestones``."""
    milestones: tuple[int, ...] = ()
    """Steps at which the rate is halved."""
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = None
    """Longest gradient of the network; None, as published, leaves it."""
    ema: float = 0.995
    """Share of the average that stays at each step; the average is what is validated and exported."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of stage III or of inpainting."""

    until: float = 1.0
    """It ends at this share of the run, in (0, 1]."""
    w: float = 1.0
    """Fidelity weight of the steps with image losses; training goes above 1."""
    level: Literal["small", "large"] = "small"
    """Degradation of the steps with image losses."""
    image_every: int = 1
    """Every n-th step has image losses; the others take the large degradation and the code losses alone. 0: none."""


@dataclass(frozen=True, slots=True)
class CodeFormerConfig:
    """All of a run."""

    stage: Stage
    data: DataOptions = field(default_factory=DataOptions)
    network: CodeFormerDims = field(default_factory=CodeFormerDims)
    discriminator: DiscriminatorDims = field(default_factory=DiscriminatorDims)
    degradation: DegradationOptions = field(default_factory=DegradationOptions)
    start: StartOptions = field(default_factory=StartOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    run: RunOptions = field(default_factory=RunOptions)
    part: tuple[Part, ...] = (Part(),)
    revive_every: int = 0
    """Stage I: code entries that were not used for so many steps are set to latents of the batch; 0, as published,
    leaves them unused. Short runs need it: otherwise a handful of entries takes all."""
    continuous_steps: int = 0
    """Stage I: the first so many steps go past the codebook, which then begins with latents of the batch; 0, as
    published, quantises from the first step. Short runs need it: two learn faster than three."""
    image_loss_reach: Literal["fusion", "encoder"] = "fusion"
    """What the image losses of stage III move: the fusion blocks alone, as in the released code, or the encoder too,
    through the features that they fuse, as the paper writes."""

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        self.run.check_length()
        ends = [part.until for part in self.part]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0.0 or ends[-1] != 1.0:
            raise ConfigError(f"the parts' until must rise and end at 1.0, got {ends}")
        if self.stage != "autoencoder" and self.start.autoencoder is None:
            raise ConfigError(f"stage {self.stage} wants start.autoencoder: its code targets come from stage I")
        if self.stage == "joint" and self.start.codeformer is None:
            raise ConfigError("stage joint wants start.codeformer: it goes on from stage II")
        side, window = self.network.autoencoder.image_size, self.loss.window
        if window is not None and not 32 <= window <= side:
            raise ConfigError(f"loss.window must be within 32 and the picture's {side} pixels, got {window}")


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> CodeFormerConfig:
    """Reads a TOML file; see :func:`vidrestore.train.run.load_options`."""
    return load_options(path, CodeFormerConfig, overrides)
