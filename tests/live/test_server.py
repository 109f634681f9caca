from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from stamps import number_in
from stand_ins import info_of, stamped

from vidrestore.config import LiveOptions
from vidrestore.errors import ConfigError, EncodeError
from vidrestore.live import server as server_module
from vidrestore.live.access import PROTOCOL, TOKEN_PREFIX, Gate
from vidrestore.live.engine import LiveFrame
from vidrestore.live.preview import PreviewSink
from vidrestore.live.server import LiveServer, make_app

OPTIONS = LiveOptions(max_clients=2, preview_quality=90)


class FakeDesk:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def set(self, name: str, value: object) -> None:
        if name == "network":
            raise ConfigError("network: expected one of compact")
        self.asked.append((name, value))

    def snapshot(self) -> str:
        self.asked.append("snapshot")
        return "snapshot-1.png"

    def record(self, *, on: bool) -> str:
        self.asked.append(("record", on))
        if not on:
            raise EncodeError("there is no recording")
        return "recording-1.mkv"

    def save_preset(self) -> str:
        return "preset-1.toml"

    def figures(self) -> dict[str, Any]:
        return {"age_ms": 12.0}


def live(number: int) -> LiveFrame:
    frame = stamped(number)
    return LiveFrame(number, float(number), float(number), frame, frame, info_of())


Test = Callable[[TestClient[Any, Any], PreviewSink, FakeDesk], Awaitable[None]]


def run(test: Test, gate: Gate | None = None, options: LiveOptions = OPTIONS) -> None:
    """Serves the application for one test."""

    async def serve() -> None:
        desk = FakeDesk()
        app, preview = make_app(desk, gate or Gate("127.0.0.1"), options)
        async with TestClient(TestServer(app)) as client:
            await asyncio.wait_for(test(client, preview, desk), 30)

    asyncio.run(serve())


async def picture(socket: aiohttp.ClientWebSocketResponse) -> tuple[dict[str, Any], bytes, bytes]:
    """The next picture: its head and both JPEGs."""
    while True:
        message = await socket.receive(timeout=10)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type is aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "little")
            head = json.loads(message.data[4 : 4 + length])
            body = message.data[4 + length :]
            return head, body[: head["restored"]], body[head["restored"] :]


async def reply(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next answer that is no figures."""
    while True:
        message = await socket.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.TEXT and "figures" not in json.loads(message.data):
            return json.loads(message.data)


def test_the_page_is_served_with_a_policy_that_forbids_everything_from_outside() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        answer = await client.get("/")
        text = await answer.text()
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert not [word for word in ("http://", "https://", "@import", "src=") if word in text.split("<script>")[0]]

    run(test)


def test_there_is_nothing_else_and_nothing_takes_a_parameter() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        for path in ("/etc/passwd", "/..%2f..%2fetc/passwd", "/static/x", "/snapshot"):
            assert (await client.get(path)).status == 404
        assert (await client.get("/stream.mjpg?file=/etc/passwd")).status == 400
        assert (await client.post("/")).status == 405

    run(test)


@pytest.mark.parametrize("path", ["/stream.mjpg", "/ws"])
def test_refusals_reach_every_address(path: str) -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        assert (await client.get(path, headers={"Origin": "http://evil.example"})).status == 403
        assert (await client.get(path, headers={"Host": "evil.example"})).status == 421
        assert (await client.get(path)).status == 401

    run(test, Gate("127.0.0.1", "s3cret"))


def test_a_picture_and_its_original_arrive_in_order_each_when_the_last_was_shown() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        headers = {"Origin": f"http://127.0.0.1:{client.port}"}
        async with client.ws_connect("/ws", protocols=(PROTOCOL,), headers=headers) as socket:
            assert socket.protocol == PROTOCOL
            await asyncio.to_thread(preview.write, live(1))
            head, restored, original = await picture(socket)
            assert head["sequence"] == 1
            for jpeg in (restored, original):
                grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
                assert grey.shape == (120, 160)
                assert number_in(grey) == 1
            for number in range(2, 6):  # not yet shown the first: these are passed over but for the last
                await asyncio.to_thread(preview.write, live(number))
            await socket.send_json({"do": "shown"})
            head, _, _ = await picture(socket)
            assert head["sequence"] == 5
            await socket.send_json({"do": "want", "original": False})
            await socket.send_json({"do": "shown"})
            await asyncio.sleep(0.05)
            await asyncio.to_thread(preview.write, live(6))
            head, _, original = await picture(socket)
            assert (head["sequence"], head["original"], original) == (6, 0, b"")

    run(test)


def test_the_token_opens_the_socket_as_a_subprotocol() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        protocols = (PROTOCOL, TOKEN_PREFIX + "s3cret")
        async with client.ws_connect("/ws", protocols=protocols) as socket:
            assert socket.protocol == PROTOCOL  # the token is not sent back
            assert json.loads((await socket.receive(timeout=10)).data)["figures"]["age_ms"] == 12.0
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await client.ws_connect("/ws", protocols=(PROTOCOL, TOKEN_PREFIX + "guess"))

    run(test, Gate("127.0.0.1", "s3cret"))


def test_controls_reach_the_desk_and_errors_come_back() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        async with client.ws_connect("/ws", protocols=(PROTOCOL,)) as socket:
            await socket.send_json({"do": "set", "name": "strength", "value": 0.25})
            await socket.send_json({"do": "set", "name": "network", "value": "/etc/passwd"})
            assert (await reply(socket))["failed"].startswith("network: expected")
            await socket.send_json({"do": "snapshot", "path": "/etc/passwd"})
            assert await reply(socket) == {"done": "saved snapshot-1.png"}
            await socket.send_json({"do": "record", "on": True})
            assert await reply(socket) == {"done": "recording recording-1.mkv"}
            await socket.send_json({"do": "record", "on": False})
            assert await reply(socket) == {"failed": "there is no recording"}
            await socket.send_json({"do": "preset"})
            assert await reply(socket) == {"done": "saved preset-1.toml"}
            for nonsense in ("{", "[]", '{"do": "shutdown"}', '{"do": 5}'):
                await socket.send_str(nonsense)
                assert await reply(socket) == {"failed": "unknown request"}
        assert desk.asked == [("strength", 0.25), "snapshot", ("record", True), ("record", False)]

    run(test)


def test_clients_are_counted_and_their_places_given_back() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        first = await client.ws_connect("/ws", protocols=(PROTOCOL,))
        second = await client.get("/stream.mjpg")
        assert (await client.get("/stream.mjpg")).status == 503
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await client.ws_connect("/ws", protocols=(PROTOCOL,))
        await first.close()
        second.close()
        for number in range(200):  # that a player has gone is noticed when the next picture is written
            await asyncio.to_thread(preview.write, live(number))
            await asyncio.sleep(0.01)
            if preview._num_viewers == 0:
                break
        assert (preview._num_viewers, preview._num_of_originals) == (0, 0)
        async with client.ws_connect("/ws", protocols=(PROTOCOL,)):
            pass

    run(test)


def test_players_get_motion_jpeg() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        async with client.get("/stream.mjpg") as answer:
            assert answer.content_type == "multipart/x-mixed-replace"
            for number in (3, 9):
                await asyncio.to_thread(preview.write, live(number))
                assert await answer.content.readline() == b"--vidrestore-frame\r\n"
                assert await answer.content.readline() == b"Content-Type: image/jpeg\r\n"
                length = int((await answer.content.readline()).split(b":")[1])
                await answer.content.readline()
                jpeg = await answer.content.readexactly(length + 2)
                grey = cv2.imdecode(np.frombuffer(jpeg[:-2], np.uint8), cv2.IMREAD_GRAYSCALE)
                assert number_in(grey) == number

    run(test)


def test_a_client_that_shows_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_SLOW_S", 0.3)

    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        async with client.ws_connect("/ws", protocols=(PROTOCOL,), autoping=True) as socket:
            await asyncio.to_thread(preview.write, live(1))
            await picture(socket)
            while not socket.closed:  # never says that it was shown
                await socket.receive(timeout=5)
        for _ in range(100):
            if preview._num_viewers == 0:
                break
            await asyncio.sleep(0.02)
        assert (preview._num_viewers, preview._num_of_originals) == (0, 0)

    run(test)


def test_a_flood_and_a_giant_message_end_the_connection() -> None:
    async def test(client: TestClient[Any, Any], preview: PreviewSink, desk: FakeDesk) -> None:
        async with client.ws_connect("/ws", protocols=(PROTOCOL,)) as socket:
            await socket.send_str("x" * 10_000)
            while not socket.closed:
                await socket.receive(timeout=5)
        async with client.ws_connect("/ws", protocols=(PROTOCOL,)) as socket:
            for _ in range(400):
                if socket.closed:
                    break
                await socket.send_json({"do": "shown"})
            while not socket.closed:
                await socket.receive(timeout=5)

    run(test)


def test_nothing_is_encoded_while_nobody_looks() -> None:
    told: list[int] = []
    preview = PreviewSink(OPTIONS, lambda: told.append(1))
    preview.write(live(1))
    assert preview.latest is None
    preview.watch(1, 0)
    preview.write(live(2))
    assert preview.latest is not None
    assert (preview.latest.original, told) == (b"", [1])


class TestLiveServer:
    def test_it_serves_this_machine_alone_without_a_token_and_ends(self) -> None:
        server = LiveServer(FakeDesk(), OPTIONS, port=0)
        try:
            assert server.token is None
            assert server.address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(server.address, timeout=5) as answer:
                assert b"vidrestore live" in answer.read()
        finally:
            server.close()
        with (
            pytest.raises(OSError, match="refused"),
            socket.create_connection(("127.0.0.1", int(server.address.split(":")[2].strip("/"))), 1),
        ):
            pass
        assert not server._thread.is_alive()

    def test_any_other_host_has_a_token_in_the_fragment(self) -> None:
        server = LiveServer(FakeDesk(), OPTIONS, host="0.0.0.0", port=0)
        try:
            address, _, fragment = server.address.partition("#")
            assert fragment == f"token={server.token}"
            request = urllib.request.Request(address + "stream.mjpg")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(request, timeout=5)
        finally:
            server.close()

    def test_a_port_in_use_is_an_error_with_a_way_out(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(EncodeError, match="another --port"),
        ):
            LiveServer(FakeDesk(), OPTIONS, port=taken.getsockname()[1])
