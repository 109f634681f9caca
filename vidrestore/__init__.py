"""Video face restoration: decode -> detect -> track -> restore -> blend -> encode.

    import vidrestore

    result = vidrestore.restore("old.mp4", "restored.mp4")     # a file into a file

    with vidrestore.RestoredVideo("old.mp4") as video:         # frame by frame
        for restored in video:
            picture = vidrestore.rgb_from_frame(restored.frame)  # (H, W, 3) uint8

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vidrestore.loading import without_collecting

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vidrestore.config import RestoreConfig, load_config, preset_names
    from vidrestore.errors import (
        ConfigError,
        DecodeError,
        DeviceError,
        EncodeError,
        KernelError,
        MediaError,
        VidrestoreError,
        WeightsError,
    )
    from vidrestore.inspection import ProbeReport, probe
    from vidrestore.overview import Overview, look_over
    from vidrestore.picture import frame_from_rgb, info_of_frames, rgb_from_frame
    from vidrestore.pipeline import (
        Progress,
        RestoredFrame,
        RestoredVideo,
        RestoreResult,
        restore,
        restore_frames,
        track_frames,
    )
    from vidrestore.sidecar import Sidecar
    from vidrestore.types import Frame, StreamInfo, Track

__all__ = [
    "ConfigError",
    "DecodeError",
    "DeviceError",
    "EncodeError",
    "Frame",
    "KernelError",
    "MediaError",
    "Overview",
    "ProbeReport",
    "Progress",
    "RestoreConfig",
    "RestoreResult",
    "RestoredFrame",
    "RestoredVideo",
    "Sidecar",
    "StreamInfo",
    "Track",
    "VidrestoreError",
    "WeightsError",
    "frame_from_rgb",
    "info_of_frames",
    "load_config",
    "look_over",
    "preset_names",
    "probe",
    "restore",
    "restore_frames",
    "rgb_from_frame",
    "track_frames",
]

_HOMES = {
    "vidrestore.config": ("RestoreConfig", "load_config", "preset_names"),
    "vidrestore.errors": (
        "ConfigError",
        "DecodeError",
        "DeviceError",
        "EncodeError",
        "KernelError",
        "MediaError",
        "VidrestoreError",
        "WeightsError",
    ),
    "vidrestore.picture": ("frame_from_rgb", "info_of_frames", "rgb_from_frame"),
    "vidrestore.pipeline": (
        "Progress",
        "RestoreResult",
        "RestoredFrame",
        "RestoredVideo",
        "restore",
        "restore_frames",
        "track_frames",
    ),
    "vidrestore.inspection": ("ProbeReport", "probe"),
    "vidrestore.overview": ("Overview", "look_over"),
    "vidrestore.sidecar": ("Sidecar",),
    "vidrestore.types": ("Frame", "StreamInfo", "Track"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'vidrestore' has no attribute {name!r}")
    with without_collecting():
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
