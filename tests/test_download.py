"""Fetching weights, against a server of our own on the loopback."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from vidrestore import cli, download
from vidrestore.detect.retinaface import MOBILENET, RetinaFace
from vidrestore.errors import WeightsError
from vidrestore.restoration import weights
from vidrestore.restoration.seeded import seeded_state

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` under every path and notes what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.mark: str | None = '"first"'
        self.has_ranges = True
        self.cuts: list[int] = []  # so many bytes are sent, then the connection ends; one entry per answer
        self.statuses: list[int] = []  # answers that come before the file
        self.location = ""
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/release/file.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            if server.location:
                self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = 0
        if wanted and server.has_ranges and self.headers.get("If-Range") == server.mark:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.mark:
            self.send_header("ETag", server.mark)
        self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        body = server.content[begin:]
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.pth"


def test_a_file_arrives_whole_and_leaves_nothing_else(server: Server, target: Path) -> None:
    told: list[tuple[int, int | None]] = []
    found = download.download(
        server.address, target, sha256=SHA256, num_bytes=len(CONTENT), progress=lambda *now: told.append(now)
    )
    assert found == SHA256
    assert target.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, target: Path) -> None:
    server.cuts = [1000, 500]
    download.download(server.address, target, sha256=SHA256)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert target.read_bytes() == CONTENT


def test_a_later_call_goes_on_too(server: Server, target: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(WeightsError, match="broke off after 1000 of 1280000 bytes; run again to go on"):
        download.download(server.address, target, sha256=SHA256, num_bytes=len(CONTENT))
    assert not target.exists()
    server.asked.clear()
    download.download(server.address, target, sha256=SHA256, num_bytes=len(CONTENT))
    assert server.asked == [("/release/file.pth", "bytes=1000-")]
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_fetched_from_its_beginning(server: Server, target: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(WeightsError, match="broke off"):
        download.download(server.address, target, sha256=SHA256)
    server.content, server.mark = CONTENT[::-1], '"second"'
    download.download(server.address, target, sha256=hashlib.sha256(server.content).hexdigest())
    assert target.read_bytes() == server.content


@pytest.mark.parametrize(("mark", "has_ranges"), [(None, True), ('W/"weak"', True), ('"first"', False)])
def test_a_server_that_cannot_go_on_is_asked_for_all_again(
    mark: str | None, has_ranges: bool, server: Server, target: Path
) -> None:
    server.mark, server.has_ranges, server.cuts = mark, has_ranges, [1000]
    download.download(server.address, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, target: Path) -> None:
    target.with_name("file.pth.part").write_bytes(CONTENT + b"more")
    target.with_name("file.pth.part.json").write_text(json.dumps({"mark": server.mark}))
    download.download(server.address, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_thrown_away(server: Server, target: Path) -> None:
    with pytest.raises(WeightsError, match=f"its SHA-256 is {SHA256}, expected 00"):
        download.download(server.address, target, sha256="0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_wrong_size_is_refused_before_anything_is_written(server: Server, target: Path) -> None:
    with pytest.raises(WeightsError, match="has 1280000 bytes, expected 5"):
        download.download(server.address, target, sha256=SHA256, num_bytes=5)
    assert list(target.parent.iterdir()) == []


def test_an_absent_file_is_told_at_once_and_a_tired_server_asked_again(server: Server, target: Path) -> None:
    server.statuses = [404]
    with pytest.raises(WeightsError, match="the server answers 404 Not Found"):
        download.download(server.address, target, sha256=SHA256)
    assert len(server.asked) == 1
    server.statuses = [503, 503]
    download.download(server.address, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_redirects_are_followed_within_the_scheme_alone(server: Server, target: Path) -> None:
    server.statuses, server.location = [302], "/elsewhere"
    download.download(server.address, target, sha256=SHA256)
    assert server.asked[-1][0] == "/elsewhere"
    for location in ("https://127.0.0.1:1/file", "file:///etc/passwd", "ftp://127.0.0.1/file"):
        server.statuses, server.location = [302], location
        with pytest.raises(
            WeightsError, match=r"is redirected to another kind of address|Redirection to url .* is not allowed"
        ):
            download.download(server.address, target, sha256=SHA256)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://localhost/f", "data:,x", "weights.pth"])
def test_only_the_web_is_spoken(address: str, target: Path) -> None:
    with pytest.raises(WeightsError, match="only https"):
        download.download(address, target, sha256=None)


def test_http_wants_a_known_hash(server: Server, target: Path) -> None:
    with pytest.raises(WeightsError, match="http is fetched only where the file's SHA-256 is known"):
        download.download(server.address, target, sha256=None)
    assert server.asked == []


def test_nobody_there_is_told(target: Path, server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/file"
        with pytest.raises(WeightsError, match=r"broke off after 0 bytes|cannot be reached"):
            download.download(address, target, sha256=SHA256)


def test_the_environment_s_proxy_is_used(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download.download("http://weights.invalid/file.pth", target, sha256=SHA256)
    assert urlsplit(server.asked[0][0]).netloc == "weights.invalid"


def test_an_interruption_leaves_the_part_for_the_next_call(server: Server, target: Path) -> None:
    class EnoughError(Exception):
        pass

    def check() -> None:
        if target.with_name("file.pth.part").stat().st_size:
            raise EnoughError

    server.content = CONTENT * 4  # more than a piece
    with pytest.raises(EnoughError):
        download.download(server.address, target, sha256=SHA256, check=check)
    assert target.with_name("file.pth.part").stat().st_size > 0
    download.download(server.address, target, sha256=hashlib.sha256(server.content).hexdigest())
    assert server.asked[-1][1] is not None


def test_every_published_address_is_https() -> None:
    assert all(entry.address.startswith("https://github.com/") for entry in weights.MODELS.values())
    assert all(entry.address.endswith("/" + entry.file) for entry in weights.MODELS.values() if entry.can_be_pulled)


def test_what_has_no_address_of_its_own_is_not_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert cli.main(["models", "pull", "sgpn", "--accept-licence"]) == 1
    assert "get sgpn.pth through https://github.com/" in capfd.readouterr().err


@pytest.fixture
def official(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server holds a file laid out as RetinaFace's small one; the user's data folder is empty."""
    with torch.device("meta"):
        network = RetinaFace(MOBILENET)
    path = tmp_path / "official.pth"
    torch.save({f"module.{key}": value for key, value in seeded_state(network).items()}, path)
    server.content = path.read_bytes()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return server


def entry_of(server: Server, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    import dataclasses

    entry = dataclasses.replace(
        weights.MODELS["retinaface_mobile"],
        num_bytes=len(server.content),
        sha256=hashlib.sha256(server.content).hexdigest(),
        **changes,
    )
    monkeypatch.setitem(weights.MODELS, "retinaface_mobile", entry)


def test_pull_fetches_converts_and_records(
    official: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry_of(official, monkeypatch, allows_commercial_use=False, licence="Only on Sundays")
    pull = ["models", "pull", "retinaface_mobile", "--from", official.address]
    assert cli.main(pull) == 1
    shown = capfd.readouterr().err
    assert "Only on Sundays" in shown
    assert "add --accept-licence" in shown
    assert official.asked == []
    assert cli.main([*pull, "--accept-licence", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["source_file"] == "detection_mobilenet0.25_Final.pth"
    assert told["source_sha256"] == hashlib.sha256(official.content).hexdigest()
    assert Path(told["path"]).is_file()
    assert list((Path(told["path"]).parent / "downloads").iterdir()) == []
    assert cli.main(pull) == 0, "it is here, and nothing is asked or fetched again"
    assert len(official.asked) == 1
    assert weights.WeightStore().has_accepted(weights.MODELS["retinaface_mobile"]), "nobody is asked again"
    assert cli.main(["models", "verify"]) == 0
    assert "retinaface_mobile: unchanged" in capfd.readouterr().err


def test_pull_offline_opens_no_connection(
    official: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry_of(official, monkeypatch)
    pull = ["models", "pull", "retinaface_mobile", "--from", official.address]
    assert cli.main([*pull, "--offline"]) == 4
    assert "--offline forbids" in capfd.readouterr().err
    monkeypatch.setenv("VIDRESTORE_OFFLINE", "1")
    assert cli.main(pull) == 4
    assert official.asked == []


def test_pull_refuses_a_hostile_file_like_convert_does(
    official: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    official.content = b"\x80\x04cos\nmkdir\n(S'/tmp/it_ran'\ntR."
    entry_of(official, monkeypatch)
    assert cli.main(["models", "pull", "retinaface_mobile", "--from", official.address]) == 4
    assert "can be opened safely" in capfd.readouterr().err
    store = weights.WeightStore()
    assert store.receipt("retinaface_mobile") is None
    assert not Path("/tmp/it_ran").exists()
