"""The options of every stage, and how presets, files and flags become one :class:`RestoreConfig`.

Defaults < preset < file < flags, merged once, here. Every field has its default, unit and reason in this file and
nowhere else; a stage is handed only its own part. Values are checked against the annotated bounds, an unknown key is
an error that offers the nearest known name, and no field is a path, an address or a command: a preset from a
stranger cannot reach a file.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from vidrestore.errors import ConfigError

__all__ = [
    "BlendOptions",
    "DecodeOptions",
    "DetectOptions",
    "EncodeOptions",
    "LiveOptions",
    "RestoreConfig",
    "RestoreOptions",
    "TrackOptions",
    "load_config",
    "load_preset",
    "nearest",
    "preset_names",
]

Hardware = Literal["none", "auto", "cuda", "qsv", "vaapi", "videotoolbox"]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Reading the input."""

    threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Decoder threads; 0 lets FFmpeg choose."""
    hardware: Hardware = "none"
    """Decode with the machine's own decoder where one works, else in software: the samples are the same. Unasked it is
    not tried: a decoded frame then crosses the bus twice, which pays only beside a busy CPU."""
    cut_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.30
    """Change of the picture, in [0, 1], above which a new shot begins (decode/shots.py defines the measure)."""


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """Finding faces."""

    detector: Literal["yunet", "retinaface", "retinaface_mobile", "facexlib"] = "yunet"
    """``yunet`` comes with the package and runs on the CPU; ``retinaface`` (ResNet-50) and ``retinaface_mobile`` find
    smaller, turned and hidden faces, run where the network runs, and want their weights: ``models pull``. ``facexlib``
    is the former as that package runs it, where it is installed."""
    score_threshold: Unit = 0.6
    """Detections below it are dropped. YuNet's own default is 0.9; heavily compressed 50 px faces score 0.8."""
    input_size_px: Annotated[int, Field(ge=128, le=4096)] = 640
    """Longer side of the copy that the detector sees, up to ``max_enlargement`` times the picture's size."""
    max_enlargement: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    """Small pictures are enlarged at most so much for detection (176 x 144 needs about 2)."""
    every: Annotated[int, Field(ge=1, le=60)] = 1
    """``track.method = "points"``: run the detector on every n-th frame and after each cut; the tracker fills the gaps.
    The tracker that carries a 3D face decides by itself when to look."""
    min_face_px: Annotated[float, Field(ge=0.0)] = 16.0
    """Faces whose box is narrower, in display pixels, are left alone: nothing is there to restore."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of OpenCV, in which ``yunet`` runs, during a run; 0: OpenCV's choice, all cores."""


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """Joining detections into persons, steady in time."""

    method: Literal["mesh", "points"] = "mesh"
    """``mesh`` carries a 3D face from frame to frame and asks the detector on key frames only; ``points`` joins the
    five points of a detector that looks every ``detect.every`` frames."""
    model: Literal["vr468", "bfm"] = "vr468"
    """``mesh``: whose 3D face: ``vr468`` is ours; ``bfm`` is the Basel Face Model 2009, read by D3DFR, which the user
    brings (``models convert bfm2009``, ``models convert d3dfr``). A reading costs about twenty times as much."""
    shortest_gap: Annotated[int, Field(ge=1, le=60)] = 4
    """``mesh``: frames from one look of the detector to the next while faces come, go, hide or move fast."""
    longest_gap: Annotated[int, Field(ge=1, le=120)] = 15
    """``mesh``: and while nothing of that happens. Above ``lookahead`` a new face may miss its first frames."""
    lookahead: Annotated[int, Field(ge=0, le=120)] = 16
    """Frames that tracking may wait, for smoothing and fades; 0 for live use. ``max_missed + fade_frames`` and more
    let a face fade out before it is lost."""
    smoothing_frames: Annotated[float, Field(ge=0.0, le=30.0)] = 3.0
    """Standard deviation of the landmark smoother in frames; 0 takes the detector's points as they are."""
    match_iou: Unit = 0.3
    """Least overlap of a detection with the predicted box of a track for them to be the same face."""
    max_missed: Annotated[int, Field(ge=0, le=300)] = 8
    """A track that was not seen for more frames ends."""
    min_hits: Annotated[int, Field(ge=1, le=60)] = 3
    """A face must be seen in so many frames before it is believed; false detections rarely persist."""
    fade_frames: Annotated[int, Field(ge=0, le=120)] = 6
    """Frames over which the effect comes and goes where a face appears or is lost within a shot."""
    min_size_px: Annotated[float, Field(ge=0.0)] = 16.0
    """Tracked faces whose box is narrower, in display pixels, are left alone, as ``detect.min_face_px`` of single
    detections."""
    max_size_px: Annotated[float, Field(ge=0.0)] = 0.0
    """Tracked faces whose box is wider are left alone: they may show more than a network can draw. 0: no limit."""
    min_detail: Annotated[float, Field(ge=0.0)] = 2.0
    """Faces whose eyes and mouth stand out from the noise by less are left alone: nothing tells whose face it is
    (track/rules.py defines the measure). 0: no limit."""
    max_yaw_deg: Annotated[float, Field(gt=0.0, le=180.0)] = 80.0
    """Faces that are turned further to the side are left alone, where the pose is known."""
    only: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Ids of the only tracks to restore; none named: all of them."""
    never: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Ids of tracks to leave alone."""


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """The network."""

    network: Literal["auto", "compact", "mobile", "codeformer", "sgpn"] = "auto"
    """Which restorer: ``compact`` and ``mobile`` are ours; ``auto`` is ``mobile`` on a GPU where its weights are there,
    and ``compact`` on a CPU, where it is twice as fast; ``codeformer`` and ``sgpn`` want their authors' weights,
    which ``models convert`` reads."""
    prior_every: Annotated[int, Field(ge=1, le=120)] = 8
    """``sgpn``: the face's render is made anew after so many frames of a track at the latest; 1 makes it in each."""
    prior_tolerance_px: Annotated[float, Field(ge=0.0)] = 3.0
    """``sgpn``: and sooner, where a landmark of it, lips included, would be further off, in pixels of a crop of 512."""
    w: Unit = 0.5
    """Fidelity weight of ``codeformer``: 0 trusts its codebook (cleanest), 1 stays closest to the input."""
    w_of_track: dict[Annotated[int, Field(ge=0)], Unit] = field(default_factory=dict)
    """``w`` for single tracks, {track id: w}, in place of the common one."""
    code_hysteresis: Annotated[float, Field(ge=0.0, le=20.0)] = 0.0
    """``codeformer``: logit by which another code must win in the mean along a track to take over where nothing moves;
    0 takes each frame's own codes, as published. docs/training_codeformer.md has what it does."""
    steady: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.65
    """How much of a restored face is carried from frame to frame where the source did not change, after any network; 0
    leaves every frame as the network made it. docs/steadiness.md has what it does."""
    exposure_lock: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the kept change of brightness, colour and contrast at each frame; 0 takes each frame's own."""
    yaw_from_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 35.0
    """Faces that are turned further are restored less, smoothly, where the tracker knows their pose."""
    yaw_to_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 70.0
    """From here on with ``yaw_strength`` and ``yaw_w``."""
    yaw_strength: Unit = 0.5
    """Strength of the effect on faces turned that far; 1 makes no difference between them and others."""
    yaw_w: Unit = 0.8
    """Fidelity weight of ``codeformer`` on them, where it is more than their ``w``; 0 makes no difference."""
    grey: Literal["auto", "yes", "no"] = "auto"
    """Whether the clip is black and white, so that restored faces have to be; auto looks at frames all over the clip,
    once (frames that a program hands in are grey where their pixel format is)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps; auto takes the first of cuda, mps, cpu that is there."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network; auto is what was measured fastest without visible loss on the device."""
    compile: Literal["off", "on"] = "off"
    """``compact``: let torch compile the network when a batch of a new size comes: a wait of seconds to a minute each,
    for a faster pass. Wants a C++ compiler (on a GPU: triton). docs/performance.md has figures."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    """Most crops in one pass of the network; faces of several frames share a batch."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads of networks and kernels during a run; 0: torch's choice, which ``OMP_NUM_THREADS`` bounds, and all
    cores for the kernels."""
    on_error: Literal["keep", "stop"] = "keep"
    """A crop that comes out as NaN or Inf: keep the source there and count it, or stop."""


@dataclass(frozen=True, slots=True)
class BlendOptions:
    """Putting the faces back."""

    strength: Unit = 1.0
    """How much of the change is applied: 0 leaves the source, 1 is the network's result."""
    colour: Unit = 0.4
    """How much of the change of *colour* is applied; brightness is always applied in full. Networks repaint irises and
    lips: on the committed clip a share of 1 leaves the chroma 0.1 dB further from the truth than the input was, 0.25 to
    0.5 bring it 0.55 to 0.7 dB nearer (PSNR of R'G'B' minus luma over the mask, 11 frames)."""
    feather: Annotated[float, Field(gt=0.0, le=0.5)] = 0.12
    """Width of the mask's soft edge as a share of the crop's side."""
    mask: Literal["mesh", "ellipse"] = "mesh"
    """Outline of the mask: that of the tracked 3D face, which follows the head's turn, or a fixed one for faces that
    look ahead. Faces without a tracked 3D face take the fixed one."""
    occluder_frames: Annotated[int, Field(ge=0, le=250)] = 10
    """Frames over which a part of a face that something covered (a hand, a microphone) is restored again after the
    cover is gone; covers count at once. 0: every frame decides alone, and the decision may waver."""


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Writing the output."""

    codec: Literal["h264", "hevc", "av1", "ffv1", "prores", "dnxhr"] = "h264"
    """Video codec of the output."""
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    """Constant quality, lower is better; None takes the codec's own choice (h264 17, hevc 20, av1 24)."""
    speed: Literal["ultrafast", "veryfast", "fast", "medium", "slow", "veryslow"] = "medium"
    """Encoder's effort, in x264's words; mapped to the others."""
    depth: Literal["source", "8", "10"] = "source"
    """Bits per sample of the output; source keeps them where the codec can."""
    copy_streams: bool = True
    """Copy audio, subtitles, chapters, attachments and metadata."""
    threads: Annotated[int, Field(ge=0, le=64)] = 0
    """Encoder threads; 0 lets the encoder choose."""
    hardware: Hardware = "none"
    """Encode h264, hevc or av1 with the machine's own encoder where one works: much faster, and larger or worse than in
    software at the same ``crf``."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """A camera in, a restored picture out, while it happens."""

    width: Annotated[int, Field(ge=16, le=7680)] = 1280
    """Columns asked of a camera; one that cannot gives its nearest size."""
    height: Annotated[int, Field(ge=16, le=4320)] = 720
    """Rows asked of a camera."""
    rate: Annotated[float, Field(gt=0.0, le=240.0)] = 30.0
    """Frames per second asked of a camera."""
    mirror: bool = False
    """Show the picture as a mirror does, left and right exchanged."""
    latency_budget_ms: Annotated[float, Field(ge=5.0, le=10_000.0)] = 90.0
    """Age that a frame may have when it is handed to the sink. Sound that is not delayed leads the picture by as much,
    and a lead of more than 90 ms is not acceptable at the end of a chain (ITU-R BT.1359-1)."""
    adapts: bool = True
    """Give up quality, step by step, while the budget is not kept, and take it back when there is room."""
    hold_s: Annotated[float, Field(ge=0.0, le=60.0)] = 3.0
    """Seconds that the last picture stays after the camera was lost; then a slate says so."""
    preview_width_px: Annotated[int, Field(ge=160, le=3840)] = 960
    """Widest picture that the browser page is sent."""
    preview_quality: Annotated[int, Field(ge=30, le=95)] = 82
    """JPEG quality of the browser page's pictures."""
    max_clients: Annotated[int, Field(ge=1, le=64)] = 4
    """Browsers and players that may be connected at once; each costs a copy of every picture."""


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """Everything that a run needs to know beside its input and output."""

    decode: DecodeOptions = field(default_factory=DecodeOptions)
    detect: DetectOptions = field(default_factory=DetectOptions)
    track: TrackOptions = field(default_factory=TrackOptions)
    restore: RestoreOptions = field(default_factory=RestoreOptions)
    blend: BlendOptions = field(default_factory=BlendOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    live: LiveOptions = field(default_factory=LiveOptions)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, ready for JSON."""
        return asdict(self)


_ADAPTER = TypeAdapter(RestoreConfig)


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the closest of the known words, then all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listing = ", ".join(sorted(known))
    return f"did you mean {close[0]!r}? Known: {listing}" if close else f"known: {listing}"


def preset_names() -> list[str]:
    """Names of the presets in the package, sorted."""
    folder = resources.files("vidrestore.presets")
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> dict[str, Any]:
    """The values of a named preset, unchecked, as nested dictionaries.

    Raises:
        ConfigError: there is no such preset; the nearest name is offered.
    """
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}, {nearest(name, preset_names())}")
    return tomllib.loads(preset_text(name))


def preset_text(name: str) -> str:
    """The TOML text of a preset that exists."""
    return (resources.files("vidrestore.presets") / f"{name}.toml").read_text("utf-8")


def load_config(
    *,
    base: Mapping[str, Mapping[str, Any]] | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> RestoreConfig:
    """Merges defaults, preset, file and flags, later ones winning, and checks the result.

    Args:
        base: {stage: {field: value}} below the preset: the settings of a run that is repeated.
        preset: a name out of :func:`preset_names`.
        file: a TOML file of the same form as a preset.
        overrides: {stage: {field: value}}, from flags or from a program.

    Raises:
        ConfigError: an unknown name, a value out of its bounds, or a file that is no TOML; the message says where.
    """
    merged: dict[str, dict[str, Any]] = {}
    layers: list[tuple[str, Mapping[str, Any]]] = [] if base is None else [("the run before", base)]
    if preset is not None:
        layers.append((f"preset {preset}", load_preset(preset)))
    if file is not None:
        layers.append((str(file), _read_toml(Path(file))))
    if overrides:
        layers.append(("options", overrides))
    for origin, layer in layers:
        _check_names(layer, origin)
        for stage, values in layer.items():
            merged.setdefault(stage, {}).update(values)
    try:
        return _ADAPTER.validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place} = {first['input']!r}: {first['msg']}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not a TOML file: {error}") from error


def _check_names(layer: Mapping[str, Any], origin: str) -> None:
    stages = {f.name: f for f in fields(RestoreConfig)}
    for stage, values in layer.items():
        if stage not in stages:
            raise ConfigError(f"{origin}: unknown section [{stage}], {nearest(stage, list(stages))}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{origin}: [{stage}] must be a table of options, got {values!r}")
        default = getattr(RestoreConfig(), stage)
        assert is_dataclass(default)
        known = [f.name for f in fields(default)]
        for key in values:
            if key not in known:
                raise ConfigError(f"{origin}: unknown option {stage}.{key}, {nearest(key, known)}")
