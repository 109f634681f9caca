"""Which of the machine's video decoders may be tried: NVDEC, Quick Sync, VA-API, VideoToolbox, all through PyAV.

A codec's decoders all give the same samples (H.264, HEVC, VP9 and AV1 fix them bit by bit), so which one ran changes
the speed and nothing else. FFmpeg lists what it was built with, not what works: only opening a file tells, so the
reader tries and falls back.
"""

from __future__ import annotations

from av.codec.hwaccel import HWAccel, hwdevices_available

__all__ = ["KINDS", "accelerator", "kinds_to_try"]

KINDS = ("cuda", "qsv", "vaapi", "videotoolbox")
"""In the order in which ``auto`` tries them."""


def kinds_to_try(wanted: str) -> tuple[str, ...]:
    """``none`` tries nothing, ``auto`` what this FFmpeg was built with, a name that one alone."""
    if wanted == "none":
        return ()
    built = hwdevices_available()
    return tuple(kind for kind in KINDS if kind in built) if wanted == "auto" else (wanted,)


def accelerator(kind: str) -> HWAccel:
    """The device for ``av.open``; frames are handed back in the host's memory."""
    return HWAccel(device_type=kind, allow_software_fallback=True)
