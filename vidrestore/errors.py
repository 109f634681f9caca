"""What can go wrong, as a tree of exceptions.

    VidrestoreError
    ├── ConfigError (also a ValueError)   a preset, a file or a flag is wrong
    ├── MediaError                        a file could not be read or written
    │   ├── DecodeError
    │   └── EncodeError
    ├── WeightsError                      a weight file is missing, damaged or of the wrong network
    ├── DeviceError                       the wanted device is missing or out of memory
    └── KernelError                       a kernel was handed arrays that it cannot take

A class exists where a caller would act on it. Messages name the value, what was expected and the way out.
"""

from __future__ import annotations

import os

__all__ = [
    "ConfigError",
    "DecodeError",
    "DeviceError",
    "EncodeError",
    "KernelError",
    "MediaError",
    "VidrestoreError",
    "WeightsError",
    "printable",
]


class VidrestoreError(Exception):
    """Root of every error that vidrestore raises on purpose."""


class ConfigError(VidrestoreError, ValueError):
    """A preset, a configuration file or an option has a wrong name or value."""


class MediaError(VidrestoreError):
    """A media file cannot be read or written.

    Attributes:
        path: the file, or None where the error is not about one file.
        frame_index: zero-based frame, or None.
        pts: presentation time stamp in the stream's ticks, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        frame_index: int | None = None,
        pts: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = None if path is None else os.fspath(path)
        self.frame_index = frame_index
        self.pts = pts


class DecodeError(MediaError):
    """The input is missing, is no video, or is damaged."""


class EncodeError(MediaError):
    """The output cannot be written: codec, container, folder or disk."""


class WeightsError(VidrestoreError):
    """A weight file is missing, damaged, or belongs to another network."""


class DeviceError(VidrestoreError):
    """The wanted device is missing, lost or out of memory."""


class KernelError(VidrestoreError, ValueError):
    """A kernel was handed arrays of a wrong shape, type or layout."""


def printable(text: object) -> str:
    """Text, or a file's name, that is safe to print: control and undecodable characters are escaped.

    A name or a tag out of a file must not drive a terminal or break a log's lines.
    """
    plain = os.fsdecode(text) if isinstance(text, (bytes, os.PathLike)) else str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in plain)
