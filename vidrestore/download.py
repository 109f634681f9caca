"""Fetches one published file over HTTP, and nothing else: the only module that opens a connection to the outside.

``models pull`` is its one caller; a run never comes here. A transfer that breaks off goes on where it stopped (range
requests, tied to the server's own mark of the file), proxies come from the environment as everywhere
(``https_proxy``, ``no_proxy``), redirects stay within the scheme, and there is no way to any other: no ``file:``, no
``ftp:``. What arrives is only trusted by its SHA-256; opening it safely is the business of ``restoration/convert.py``.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from vidrestore import __version__
from vidrestore.errors import WeightsError

__all__ = ["download"]

TIMEOUT_S = 30.0
"""Longest silence of a server."""
ATTEMPTS = 4
"""A transfer that breaks off is taken up again so many times less one."""
PAUSE_S = 1.0
"""Before the second attempt; each further pause is twice as long."""
LARGEST_BYTES = 2 * 2**30
"""No published file is larger than a fifth of it; a server that sends more is not the one that was meant."""
_PIECE_BYTES = 2**20
_MARKS = ("ETag", "Last-Modified")  # what a server calls one state of a file, the surer first

Report = Callable[[int, int | None], None]
"""Told (bytes here, bytes in all or None) after each piece."""


def download(
    address: str,
    target: Path,
    *,
    sha256: str | None,
    num_bytes: int | None = None,
    progress: Report | None = None,
    check: Callable[[], None] | None = None,
) -> str:
    """Fetches a file; a part of it that an earlier call left is gone on with.

    Args:
        address: https, or http where ``sha256`` is known.
        target: where it goes; it appears under that name only when it is whole. Its folder must be there.
        sha256: what it must be, None if not known.
        num_bytes: its size, None if not known.
        progress: told after each piece.
        check: called before each piece; what it raises ends the transfer, and what is here stays for the next call.

    Returns:
        Its SHA-256.

    Raises:
        WeightsError: an address of another kind, a server that refuses, that sends something else, or that cannot be
            reached; the message says whether calling again goes on.
        OSError: the disk is full or not writable.
    """
    scheme = urlsplit(address).scheme
    if scheme not in ("http", "https"):
        raise WeightsError(f"{address}: only https addresses are fetched")
    if scheme == "http" and sha256 is None:
        raise WeightsError(f"{address}: http is fetched only where the file's SHA-256 is known; use https")
    part = _Part(target)
    opener = _opener()
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            if _fetch(opener, address, part, num_bytes, progress, check):
                break
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.num_bytes:  # what is here does not fit the server's file
                part.discard()
            elif error.code < 500 or attempt == ATTEMPTS - 1:
                raise WeightsError(f"{address}: the server answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.URLError) and not isinstance(
                error.reason, ConnectionError | TimeoutError
            ):
                raise WeightsError(f"{address}: cannot be reached ({error.reason})") from error
            if attempt == ATTEMPTS - 1:
                raise WeightsError(f"{address}: {_broke_off(part.num_bytes, num_bytes)}") from error
    else:
        raise WeightsError(f"{address}: {_broke_off(part.num_bytes, num_bytes)}")
    found = part.sha256()
    if sha256 is not None and found != sha256:
        part.discard()
        raise WeightsError(f"{address}: its SHA-256 is {found}, expected {sha256}; it was thrown away")
    part.finish()
    return found


def _broke_off(here: int, whole: int | None) -> str:
    return (
        f"the connection broke off after {here} {f'of {whole} ' if whole else ''}bytes; run again to go on from there"
    )


class _Part:
    """What is here of a file, and the server's mark of the state that it belongs to."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")

    @property
    def num_bytes(self) -> int:
        return self._path.stat().st_size if self._path.is_file() else 0

    @property
    def mark(self) -> str | None:
        """None where the server gave none: then a part is of no use."""
        try:
            mark = json.loads(self._note.read_text("utf-8"))["mark"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return mark if isinstance(mark, str) and mark.isprintable() else None

    def open(self, *, goes_on: bool, mark: str | None) -> IO[bytes]:
        if not goes_on:
            self._note.write_text(json.dumps({"mark": mark}), "utf-8")
        return self._path.open("ab" if goes_on else "wb")

    def sha256(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def finish(self) -> None:
        os.replace(self._path, self._target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _fetch(
    opener: urllib.request.OpenerDirector,
    address: str,
    part: _Part,
    num_bytes: int | None,
    progress: Report | None,
    check: Callable[[], None] | None,
) -> bool:
    """One request; whether the file is whole after it."""
    here, mark = part.num_bytes, part.mark
    request = urllib.request.Request(address, headers={"User-Agent": f"vidrestore/{__version__}"})
    if here and mark is not None:
        request.add_header("Range", f"bytes={here}-")
        request.add_header("If-Range", mark)  # a file that has changed since is sent from its beginning
    with opener.open(request, timeout=TIMEOUT_S) as response:
        goes_on = response.status == 206 and _starts_at(response.headers.get("Content-Range"), here)
        if response.status != 200 and not goes_on:
            raise WeightsError(f"{address}: the server answers {response.status}, which was not asked for")
        here = here if goes_on else 0
        whole = _whole(response.headers.get("Content-Length"), here)
        if num_bytes is not None and whole is not None and whole != num_bytes:
            raise WeightsError(f"{address}: the server's file has {whole} bytes, expected {num_bytes}")
        if whole is not None and whole > LARGEST_BYTES:
            raise WeightsError(f"{address}: the server's file has {whole} bytes, which no published file has")
        with part.open(goes_on=goes_on, mark=_mark(response.headers)) as file:
            while True:
                if check is not None:
                    check()
                piece = response.read1(_PIECE_BYTES)
                if not piece:
                    break
                file.write(piece)
                here += len(piece)
                if here > LARGEST_BYTES:
                    raise WeightsError(f"{address}: the server sends without an end")
                if progress is not None:
                    progress(here, whole)
    return here == (whole if whole is not None else num_bytes or here)


def _mark(headers: Any) -> str | None:
    for name in _MARKS:
        value = headers.get(name)
        if value and not value.startswith("W/"):  # a weak mark does not promise equal bytes
            return str(value)
    return None


def _starts_at(content_range: str | None, here: int) -> bool:
    return content_range is not None and content_range.replace(" ", "").startswith(f"bytes{here}-")


def _whole(content_length: str | None, here: int) -> int | None:
    return here + int(content_length) if content_length is not None and content_length.isdecimal() else None


class _SameScheme(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Follows within the scheme alone, so that https cannot be led to anything less."""
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise WeightsError(f"{req.full_url}: is redirected to another kind of address ({newurl}); not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https alone; ``urllib``'s own default would speak file, ftp and data too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _SameScheme(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
