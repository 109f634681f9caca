"""Frames into an external ffmpeg, for encoders and filters that PyAV's build lacks: through ffmpeg-python, an extra.

The frames go through a pipe as raw planes, as they are; ffmpeg converts and encodes. A pipe of raw video has no times:
only a constant rate can be written. The program is named by the one who calls, never by a preset or a sidecar file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import ffmpeg  # type: ignore[import-untyped,unused-ignore]

from vidrestore.encode.codecs import EXTENSIONS
from vidrestore.errors import EncodeError, printable
from vidrestore.types import Frame, StreamInfo

__all__ = ["ExternalWriter"]

_RANGES = {False: "tv", True: "pc"}
_MATRICES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc", "smpte240m": "smpte240m", "fcc": "fcc"}
_END_S = 600.0  # an encoder with a long look-ahead may work on for minutes


class ExternalWriter:
    """Encodes with an external ffmpeg into a hidden file beside the target, and moves it there when it is whole.

    Args:
        path: the file to be made; its extension names the container.
        info: of the stream that the frames come from; its rate is the output's.
        encoder: ffmpeg's name, such as ``libaom-av1`` or ``libvvenc``.
        options: ffmpeg's options of the output by name, such as ``{"crf": 30, "vf": "format=yuv420p10le"}``.
        program: the ffmpeg to run.
        source: the file whose audio is copied; None copies nothing.
        overwrite: replace a file that is there.

    Raises:
        EncodeError: no such program, the target exists, or the rate is unknown.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: StreamInfo,
        encoder: str,
        *,
        options: Mapping[str, Any] | None = None,
        program: str = "ffmpeg",
        source: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.info = Path(path), info
        self._encoder, self._options = encoder, dict(options or {})
        self._source = source
        found = shutil.which(program)
        name = printable(self.path)
        if found is None:
            raise EncodeError(f"{name}: there is no program {printable(program)!r}, install ffmpeg", path=path)
        if self.path.suffix.lower() not in EXTENSIONS:
            raise EncodeError(f"{name}: unknown kind of file {self.path.suffix!r}", path=path)
        if os.path.lexists(self.path) and not overwrite:
            raise EncodeError(f"{name}: exists already, choose another name or allow overwriting", path=path)
        if info.average_rate is None:
            raise EncodeError(f"{name}: the input does not tell its rate, a pipe needs one", path=path)
        self._program = found
        self._rate = Fraction(info.average_rate)
        self._part = self.path.with_name(f".{self.path.stem}.part-{secrets.token_hex(4)}{self.path.suffix}")
        self._process: subprocess.Popen[bytes] | None = None
        self._first_time: Fraction | None = None
        self._num_frames = 0
        self._is_closed = False
        # ffmpeg's messages go to a file: a pipe that nobody reads would fill up and stop it
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115, closed by abort

    def __enter__(self) -> ExternalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abort()

    def write(self, frame: Frame) -> None:
        """Hands one frame to ffmpeg.

        Raises:
            EncodeError: ffmpeg ended, or the frame is out of step with a constant rate.
            ValueError: after the end.
        """
        if self._is_closed:
            raise ValueError("the writer is closed, nothing more can be written")
        self._check_time(frame)
        if self._process is None:
            self._process = self._start(frame)
        assert self._process.stdin is not None
        try:
            for plane in frame.planes:
                self._process.stdin.write(plane.tobytes())
        except OSError as error:
            self._process.wait(_END_S)
            raise self._failed("ended early", frame) from error
        self._num_frames += 1

    def finish(self) -> int:
        """Waits for ffmpeg, moves the file to its place and gives its size in bytes.

        Raises:
            EncodeError: no frame was written, or ffmpeg failed.
        """
        if self._is_closed:
            raise ValueError("the writer is closed")
        try:
            if self._process is None:
                raise EncodeError(f"{printable(self.path)}: not one frame came to be written", path=self.path)
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            if self._process.wait(_END_S) != 0:
                raise self._failed(f"ended with status {self._process.returncode}", None)
            os.replace(self._part, self.path)
            return self.path.stat().st_size
        finally:
            self.abort()

    def abort(self) -> None:
        """Ends ffmpeg and drops what it wrote; a second call, or one after the end, does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
        self._messages.close()
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()

    def _start(self, frame: Frame) -> subprocess.Popen[bytes]:
        fmt = frame.format
        tags = {"color_range": _RANGES[fmt.full_range]}
        if fmt.colour == "yuv" and fmt.matrix in _MATRICES:
            tags["colorspace"] = _MATRICES[fmt.matrix]
        rate = f"{self._rate.numerator}/{self._rate.denominator}"
        size = f"{frame.width}x{frame.height}"
        streams = [ffmpeg.input("pipe:0", format="rawvideo", pix_fmt=fmt.name, s=size, framerate=rate, **tags).video]
        settings: dict[str, Any] = {"c:v": self._encoder, **tags, **self._options}
        if self._source is not None and self.info.has_audio:
            streams.append(ffmpeg.input(f"file:{Path(self._source).absolute()}", protocol_whitelist="file").audio)
            settings["c:a"] = "copy"
        if self.info.sample_aspect_ratio != 1:
            settings["aspect"] = f"{self.info.width}/{self.info.height}"
        target = ffmpeg.output(*streams, f"file:{self._part.absolute()}", **settings)
        target = target.global_args("-hide_banner", "-loglevel", "error", "-nostats")
        command = ffmpeg.compile(target, self._program, overwrite_output=True)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages)

    def _check_time(self, frame: Frame) -> None:
        time = frame.pts * frame.time_base
        if self._first_time is None:
            self._first_time = time
        late = abs(time - self._first_time - self._num_frames / self._rate)
        if late > max(1 / self._rate / 2, 2 * frame.time_base):
            raise EncodeError(
                f"{printable(self.path)}: frame {frame.index} is out of step with {self._rate} frames/s, and a pipe "
                "holds a constant rate only; use one of the encoders that are built in",
                path=self.path,
                frame_index=frame.index,
                pts=frame.pts,
            )

    def _failed(self, what: str, frame: Frame | None) -> EncodeError:
        self._messages.seek(0)
        lines = printable(self._messages.read().decode("utf-8", "replace").strip().replace("\n", "; "))
        index = None if frame is None else frame.index
        return EncodeError(f"{printable(self.path)}: ffmpeg {what}: {lines[-400:]}", path=self.path, frame_index=index)
