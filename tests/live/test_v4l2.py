from __future__ import annotations

import errno
import os
import struct

import numpy as np
import pytest
from stand_ins import info_of, stamped

from vidrestore.errors import EncodeError
from vidrestore.live import v4l2
from vidrestore.live.engine import LiveFrame
from vidrestore.live.sinks import LoopbackSink
from vidrestore.live.v4l2 import LoopbackCamera, SystemDevice


class FakeDevice:
    """The driver's side of the three calls, as v4l2loopback answers them."""

    def __init__(
        self,
        formats: tuple[str, ...] = ("YUYV",),
        *,
        size: tuple[int, int] | None = None,
        capabilities: int = 0x05000002,
    ) -> None:
        self.formats, self.size, self.capabilities = formats, size, capabilities
        self.lists_formats = True
        self.pictures: list[bytes] = []
        self.is_closed = False
        self.rate: tuple[int, int] | None = None
        self.takes: int | None = None

    def ioctl(self, request: int, data: bytearray) -> None:
        if request == v4l2.QUERYCAP:
            assert len(data) == 104
            struct.pack_into("=2I", data, 84, self.capabilities, 0)
        elif request == v4l2.ENUM_FMT:
            index, kind = struct.unpack_from("=2I", data, 0)
            assert kind == v4l2.VIDEO_OUTPUT
            if not self.lists_formats or index >= len(self.formats):
                raise OSError(errno.EINVAL, "Invalid argument")
            data[44:48] = self.formats[index].encode()
        elif request == v4l2.S_FMT:
            assert len(data) == 208
            width, height, code = struct.unpack_from("=3I", data, 8)
            if code.to_bytes(4, "little").decode() not in self.formats:
                raise OSError(errno.EINVAL, "Invalid argument")
            width, height = self.size or (width, height)
            line = 2 * width if code.to_bytes(4, "little") == b"YUYV" else width
            total = line * height * 3 // 2 if line == width else line * height
            struct.pack_into("=6I", data, 8, width, height, code, 1, line, total)
        elif request == v4l2.S_PARM:
            _, capability, _, numerator, denominator = struct.unpack_from("=5I", data, 0)
            assert capability == 0x1000
            self.rate = denominator, numerator
        else:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def write(self, data: bytes) -> int:
        self.pictures.append(data)
        return self.takes if self.takes is not None else len(data)

    def close(self) -> None:
        self.is_closed = True


def live(number: int) -> LiveFrame:
    frame = stamped(number)
    return LiveFrame(number, 0.0, 0.0, frame, frame, info_of(rate=30))


@pytest.mark.parametrize(
    ("formats", "chosen"), [(("YUYV",), "yuyv422"), (("YUYV", "YU12"), "yuv420p"), (("RGB3", "NV12"), "nv12")]
)
def test_the_device_chooses_the_format(formats: tuple[str, ...], chosen: str) -> None:
    device = FakeDevice(formats)
    camera = LoopbackCamera(device, "/dev/video9", 64, 48, is_hd=False)
    assert (camera.agreement.pix_fmt, camera.agreement.width, camera.agreement.height) == (chosen, 64, 48)


def test_an_old_driver_that_lists_nothing_is_tried() -> None:
    device = FakeDevice(("NV12",))
    device.lists_formats = False
    assert LoopbackCamera(device, "d", 64, 48, is_hd=True).agreement.pix_fmt == "nv12"


def test_pictures_arrive_with_the_very_samples() -> None:
    device = FakeDevice(("YU12",))
    sink = LoopbackSink("/dev/video9", lambda path: device)
    sink.write(live(77))
    assert sink.description == "160x120 yuv420p"
    assert device.rate == (30, 1)
    frame = stamped(77)
    assert device.pictures == [b"".join(plane.tobytes() for plane in frame.planes)]
    sink.close()
    assert device.is_closed


def test_a_size_that_the_device_insists_on_is_kept() -> None:
    device = FakeDevice(("YUYV",), size=(320, 240))
    sink = LoopbackSink("/dev/video9", lambda path: device)
    sink.write(live(1))
    (picture,) = device.pictures
    assert len(picture) == 320 * 240 * 2
    luma = np.frombuffer(picture, np.uint8).reshape(240, 320, 2)[..., 0]
    assert luma[60:, :].mean() == pytest.approx(stamped(1).planes[0][30:].mean(), abs=3)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (FakeDevice(capabilities=0x01000001), "real camera"),
        (FakeDevice(capabilities=0x04000002), r"write\(\)"),
        (FakeDevice(("H264",)), "takes none of"),
    ],
)
def test_what_is_no_loopback_is_refused_and_let_go(device: FakeDevice, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        LoopbackCamera(device, "/dev/video0", 64, 48, is_hd=False)
    assert device.is_closed


def test_a_half_taken_picture_is_an_error() -> None:
    device = FakeDevice()
    device.takes = 10
    sink = LoopbackSink("d", lambda path: device)
    with pytest.raises(EncodeError, match="took 10 of"):
        sink.write(live(0))


def test_a_file_that_is_no_device_is_told_apart_from_a_missing_one(tmp_path: object) -> None:
    with pytest.raises(EncodeError, match="modprobe v4l2loopback"):
        SystemDevice("/dev/video-that-is-not-there")
    device = SystemDevice(os.devnull)
    with pytest.raises(EncodeError, match="no V4L2 output device"):
        LoopbackCamera(device, os.devnull, 64, 48, is_hd=False)


def test_the_numbers_are_those_of_the_kernels_header() -> None:
    """_IOR and _IOWR as asm-generic/ioctl.h makes them, with the sizes of the structures on 64-bit systems."""

    def code(direction: int, number: int, size: int) -> int:
        return direction << 30 | size << 16 | ord("V") << 8 | number

    assert code(2, 0, 104) == v4l2.QUERYCAP
    assert code(3, 2, 64) == v4l2.ENUM_FMT
    assert code(3, 5, 208) == v4l2.S_FMT
    assert code(3, 22, 204) == v4l2.S_PARM
