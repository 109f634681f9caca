"""Writing pictures into a V4L2 loopback device: the virtual camera of Linux, which meeting programs list as a webcam.

FFmpeg has a muxer for it, but that one does not ask the device which formats it takes. Here the device is asked, set
and checked, in the order of ``FORMATS``; then each frame is one ``write``. Constants and structures are those of
``linux/videodev2.h`` for 64-bit systems.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from vidrestore.errors import EncodeError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # no such thing on Windows, and no V4L2 either
    fcntl = None

__all__ = ["FORMATS", "Device", "LoopbackCamera", "SystemDevice"]

QUERYCAP, ENUM_FMT, S_FMT, S_PARM = 0x80685600, 0xC0405602, 0xC0D05605, 0xC0CC5616
VIDEO_OUTPUT = 2  # V4L2_BUF_TYPE_VIDEO_OUTPUT
_CAP_OUTPUT, _CAP_READWRITE, _CAP_DEVICE_CAPS = 0x2, 0x0100_0000, 0x8000_0000
_CAP_TIMEPERFRAME = 0x1000
_FIELD_NONE, _COLORSPACE_REC709, _COLORSPACE_SMPTE170M = 1, 3, 1
_PIX = struct.Struct("=12I")  # width, height, pixelformat, field, bytesperline, sizeimage, colorspace, priv, ...
_FORMAT_SIZE, _PIX_OFFSET = 208, 8
_MAX_FORMATS = 64

FORMATS = {"YU12": "yuv420p", "YUYV": "yuyv422", "NV12": "nv12", "BGR3": "bgr24", "RGB3": "rgb24"}
"""V4L2's four letters -> FFmpeg's name, the best first; programs read them all."""


class Device(Protocol):
    """The three calls that a device answers; tests put a made-up one in its place."""

    def ioctl(self, request: int, data: bytearray) -> None:
        """Exchanges a structure with the driver. Raises OSError where it refuses."""
        ...

    def write(self, data: bytes) -> int:
        """Gives it one picture; the number of bytes taken."""
        ...

    def close(self) -> None:
        """Lets go of it."""
        ...


class SystemDevice:
    """A device file.

    Raises:
        EncodeError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        if fcntl is None:
            raise EncodeError(f"{path}: V4L2 devices exist on Linux only; use --sink virtualcam", path=path)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            advice = "; load it first: modprobe v4l2loopback" if error.errno == errno.ENOENT else ""
            raise EncodeError(f"{path}: cannot be opened ({error.strerror}){advice}", path=path) from error

    def ioctl(self, request: int, data: bytearray) -> None:
        """See :class:`Device`."""
        assert fcntl is not None
        fcntl.ioctl(self._descriptor, request, data, True)

    def write(self, data: bytes) -> int:
        """See :class:`Device`."""
        return os.write(self._descriptor, data)

    def close(self) -> None:
        """See :class:`Device`."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the device takes."""

    width: int
    height: int
    pix_fmt: str
    """FFmpeg's name."""
    bytes_per_line: int
    """Of the first plane."""
    num_bytes: int
    """Of a picture."""


class LoopbackCamera:
    """A device that takes pictures of one size and format, agreed on when it is opened.

    Args:
        device: the open device.
        name: for messages.
        width: columns wanted.
        height: rows wanted.
        is_hd: colours are BT.709, not BT.601.

    Attributes:
        agreement: what came of it; the device may insist on another size.

    Raises:
        EncodeError: it is no output, or takes none of our formats.
    """

    def __init__(self, device: Device, name: str, width: int, height: int, *, is_hd: bool) -> None:
        self._device, self._name = device, name
        try:
            self._check_is_output()
            self.agreement = self._agree(width, height, _COLORSPACE_REC709 if is_hd else _COLORSPACE_SMPTE170M)
        except OSError as error:
            device.close()
            raise EncodeError(f"{name}: is no V4L2 output device ({error.strerror})", path=name) from error
        except BaseException:
            device.close()
            raise

    def set_rate(self, numerator: int, denominator: int) -> None:
        """Tells readers how many frames to expect; a driver that has no use for it may refuse."""
        data = bytearray(204)
        struct.pack_into("=5I", data, 0, VIDEO_OUTPUT, _CAP_TIMEPERFRAME, 0, denominator, numerator)
        try:
            self._device.ioctl(S_PARM, data)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY, errno.EBUSY):
                raise EncodeError(f"{self._name}: {error.strerror}", path=self._name) from error

    def write(self, picture: bytes) -> None:
        """Shows a picture.

        Args:
            picture: ``agreement.num_bytes`` bytes.

        Raises:
            EncodeError: the device is gone.
        """
        try:
            written = self._device.write(picture)
        except OSError as error:
            raise EncodeError(f"{self._name}: {error.strerror}", path=self._name) from error
        if written != len(picture):
            raise EncodeError(f"{self._name}: took {written} of a picture's {len(picture)} bytes", path=self._name)

    def close(self) -> None:
        """Lets go of the device; its readers see the last picture or the driver's own slate."""
        self._device.close()

    def _check_is_output(self) -> None:
        data = bytearray(104)
        self._device.ioctl(QUERYCAP, data)
        capabilities, device_capabilities = struct.unpack_from("=2I", data, 84)
        if capabilities & _CAP_DEVICE_CAPS:
            capabilities = device_capabilities
        if not capabilities & _CAP_OUTPUT:
            raise EncodeError(
                f"{self._name}: pictures cannot be sent there, it is a real camera; use a v4l2loopback device",
                path=self._name,
            )
        if not capabilities & _CAP_READWRITE:
            raise EncodeError(f"{self._name}: does not take pictures by write()", path=self._name)

    def _agree(self, width: int, height: int, colorspace: int) -> Agreement:
        offered = self._offered()
        # a loopback device tells what it takes; an old one tells nothing and is tried
        wanted = [name for name in FORMATS if name in offered] or list(FORMATS)
        for name in wanted:
            data = bytearray(_FORMAT_SIZE)
            struct.pack_into("=I", data, 0, VIDEO_OUTPUT)
            code = int.from_bytes(name.encode("ascii"), "little")
            line = _line_bytes(FORMATS[name], width)
            size = _num_bytes(FORMATS[name], line, width, height)
            _PIX.pack_into(data, _PIX_OFFSET, width, height, code, _FIELD_NONE, line, size, colorspace, 0, 0, 0, 0, 0)
            try:
                self._device.ioctl(S_FMT, data)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                continue
            w, h, found, _, line, size, *_ = _PIX.unpack_from(data, _PIX_OFFSET)
            letters = found.to_bytes(4, "little").decode("ascii", "replace")
            if letters in FORMATS:
                pix_fmt = FORMATS[letters]
                line = line or _line_bytes(pix_fmt, w)
                return Agreement(w, h, pix_fmt, line, size or _num_bytes(pix_fmt, line, w, h))
        raise EncodeError(f"{self._name}: takes none of {', '.join(FORMATS)} at {width}x{height}", path=self._name)

    def _offered(self) -> list[str]:
        names = []
        for index in range(_MAX_FORMATS):
            data = bytearray(64)
            struct.pack_into("=2I", data, 0, index, VIDEO_OUTPUT)
            try:
                self._device.ioctl(ENUM_FMT, data)
            except OSError:
                break
            names.append(bytes(data[44:48]).decode("ascii", "replace"))
        return names


def _line_bytes(pix_fmt: str, width: int) -> int:
    return {"yuyv422": 2, "bgr24": 3, "rgb24": 3}.get(pix_fmt, 1) * width


def _num_bytes(pix_fmt: str, line: int, width: int, height: int) -> int:
    if pix_fmt in ("yuv420p", "nv12"):
        chroma_line = 2 * -(-line // 2) if pix_fmt == "nv12" else -(-line // 2)
        return line * height + chroma_line * -(-height // 2) * (1 if pix_fmt == "nv12" else 2)
    return line * height
