"""The page and its server: pictures and figures out, controls in.

Three addresses, and no parameter in any of them: ``/`` the page, ``/ws`` a WebSocket for pictures, figures and
controls, ``/stream.mjpg`` the restored picture for players. Pictures go to a client when it has shown the one before
(it says so), so a slow one sees fewer, and one that does not answer is dropped; nobody is waited for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from vidrestore.config import LiveOptions
from vidrestore.errors import ConfigError, EncodeError, VidrestoreError, printable
from vidrestore.live.access import PROTOCOL, Gate, is_loopback, new_token
from vidrestore.live.preview import Picture, PreviewSink

__all__ = ["Desk", "LiveServer", "make_app", "page_text"]

log = logging.getLogger(__name__)

DEFAULT_PORT = 8747
"""Free of well-known services; the next free one is taken where it is in use and none was asked for."""
_FIGURES_S = 0.25
_SLOW_S = 5.0  # a client that neither takes nor acknowledges a picture for so long is dropped
_MAX_MESSAGE = 4096  # bytes of a control message
_MESSAGES_PER_S = 60  # a slider that is dragged sends some thirty


class Desk(Protocol):
    """What the page can ask for; a :class:`vidrestore.live.session.LiveSession`."""

    def set(self, name: str, value: object) -> None:
        """Changes a control. Raises ConfigError."""
        ...

    def snapshot(self) -> str:
        """Writes a picture; its name. Raises EncodeError."""
        ...

    def record(self, *, on: bool) -> str:
        """Begins or ends a recording; its name. Raises EncodeError."""
        ...

    def save_preset(self) -> str:
        """Writes the settings; the file's name. Raises EncodeError."""
        ...

    def figures(self) -> dict[str, Any]:
        """All figures as plain values."""
        ...


class _Hub:
    """The clients, and how they learn of a new picture."""

    def __init__(self, desk: Desk, gate: Gate, options: LiveOptions) -> None:
        self.desk, self.gate, self.options = desk, gate, options
        self.preview = PreviewSink(options, self._on_picture)
        self.num_clients = 0
        self.num_dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="vidrestore-page")  # files are written one at a time
        self.is_closing = False

    def begin(self) -> None:
        """In the server's loop."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Wakes all who wait for a picture and lets go of the thread for files."""
        self.is_closing = True
        self._wake()
        self._jobs.shutdown(wait=False)

    async def picture_after(self, sequence: int, kind_s: float) -> Picture | None:
        """The newest picture once it differs from the one that a client has; None when the server closes."""
        while not self.is_closing:
            latest = self.preview.latest
            if latest is not None and (latest.sequence, latest.arrived_s) != (sequence, kind_s):
                return latest
            assert self._changed is not None
            await self._changed.wait()
        return None

    async def aside(self, job: Callable[[], str]) -> str:
        """Does something that writes files, without holding the pictures up."""
        assert self._loop is not None
        return await self._loop.run_in_executor(self._jobs, job)

    def _on_picture(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed between the question and the call
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()


def page_text() -> str:
    """The page: one file with its script and style in it."""
    return (resources.files("vidrestore.live") / "page.html").read_text("utf-8")


def make_app(desk: Desk, gate: Gate, options: LiveOptions) -> tuple[web.Application, PreviewSink]:
    """The server as an aiohttp application, and the sink that feeds it."""
    hub = _Hub(desk, gate, options)
    app = web.Application(middlewares=[_guarded(hub)], client_max_size=_MAX_MESSAGE)
    page = page_text()
    policy = _content_policy(page)

    async def show_page(request: web.Request) -> web.StreamResponse:
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def stream(request: web.Request) -> web.StreamResponse:
        return await _serve_motion_jpeg(request, hub)

    async def socket(request: web.Request) -> web.StreamResponse:
        return await _serve_socket(request, hub)

    async def run(_: web.Application) -> AsyncIterator[None]:
        hub.begin()
        yield
        hub.end()

    app.router.add_get("/", show_page)
    app.router.add_get("/stream.mjpg", stream)
    app.router.add_get("/ws", socket)
    app.cleanup_ctx.append(run)
    return app, hub.preview


class LiveServer:
    """Runs the page's server in a thread of its own.

    Args:
        desk: what the page can ask for.
        options: of pictures and clients.
        host: to bind to; any but a loopback address asks for a token.
        port: None takes the usual one, or a free one where that is in use; 0 takes a free one.

    Attributes:
        address: to open; with a token it stands in the fragment, which browsers keep to themselves.
        preview: the sink that feeds it.

    Raises:
        EncodeError: the host or port cannot be had.
    """

    def __init__(self, desk: Desk, options: LiveOptions, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.token = None if is_loopback(host) else new_token()
        app, self.preview = make_app(desk, Gate(host, self.token), options)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vidrestore-server", daemon=True)
        self._thread.start()
        try:
            bound = self._call(self._begin(host, port))
        except OSError as error:
            self.close()
            where = f"{host}:{port or DEFAULT_PORT}"
            raise EncodeError(
                f"the page cannot be served at {where} ({error.strerror}); try another --port or --host"
            ) from error
        name = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
        self.address = f"http://{name}:{bound}/" + (f"#token={self.token}" if self.token else "")

    def close(self) -> None:
        """Drops all clients and ends the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                self._call(self._runner.cleanup())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        if not self._loop.is_running():
            self._loop.close()

    async def _begin(self, host: str, port: int | None) -> int:
        await self._runner.setup()
        wanted = [DEFAULT_PORT, 0] if port is None else [port]
        for number in wanted:
            try:
                await web.TCPSite(self._runner, host, number).start()
                break
            except OSError:
                if number == wanted[-1]:
                    raise
        return int(self._runner.addresses[0][1])

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)


def _guarded(hub: _Hub) -> Any:
    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        refused = hub.gate.refusal(request.headers, is_page=request.path == "/")
        if refused is not None:
            return web.Response(status=refused[0], text=refused[1] + "\n")
        if request.query_string:
            return web.Response(status=400, text="no parameters are known here\n")
        return await handler(request)

    @web.middleware
    async def harden(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await guard(request, handler)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    return harden


_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _content_policy(page: str) -> str:
    """The page's own script and style by their hashes, pictures made in memory, connections to this server alone."""
    parts = {kind: _hash_of(page, kind) for kind in ("script", "style")}
    return (
        f"default-src 'none'; script-src {parts['script']}; style-src {parts['style']}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash_of(page: str, kind: str) -> str:
    found = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


async def _serve_motion_jpeg(request: web.Request, hub: _Hub) -> web.StreamResponse:
    if hub.num_clients >= hub.options.max_clients:
        return web.Response(status=503, text="as many clients as are allowed are connected already\n")
    boundary = "vidrestore-frame"
    response = web.StreamResponse(
        headers={**_HEADERS, "Content-Type": f"multipart/x-mixed-replace; boundary={boundary}"}
    )
    hub.num_clients += 1
    hub.preview.watch(1, 0)
    try:
        await response.prepare(request)
        sequence, at_s = -1, 0.0
        while True:
            picture = await hub.picture_after(sequence, at_s)
            if picture is None:
                return response
            sequence, at_s = picture.sequence, picture.arrived_s
            head = f"--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture.restored)}\r\n\r\n"
            await asyncio.wait_for(response.write(head.encode("ascii") + picture.restored + b"\r\n"), _SLOW_S)
    except (TimeoutError, ConnectionError) as error:
        hub.num_dropped += isinstance(error, TimeoutError)
        return response
    finally:
        hub.num_clients -= 1
        hub.preview.watch(-1, 0)


async def _serve_socket(request: web.Request, hub: _Hub) -> web.StreamResponse:
    if hub.num_clients >= hub.options.max_clients:
        return web.Response(status=503, text="as many clients as are allowed are connected already\n")
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=_MAX_MESSAGE, heartbeat=_SLOW_S, compress=False)
    hub.num_clients += 1
    hub.preview.watch(1, 1)
    client = _Client(hub, socket)
    try:
        await socket.prepare(request)
        await client.serve()
    finally:
        hub.num_clients -= 1
        hub.preview.watch(-1, -1 if client.wants_original else 0)
    return socket


class _Client:
    """One browser."""

    def __init__(self, hub: _Hub, socket: web.WebSocketResponse) -> None:
        self._hub, self._socket = hub, socket
        self.wants_original = True
        self._is_ready = asyncio.Event()
        self._is_ready.set()
        self._messages: list[float] = []

    async def serve(self) -> None:
        """Until it goes away, is too slow, or the server closes."""
        senders = [asyncio.create_task(self._send_pictures()), asyncio.create_task(self._send_figures())]
        listener = asyncio.create_task(self._listen())
        try:
            await asyncio.wait([*senders, listener], return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [*senders, listener]
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, TimeoutError):
                    self._hub.num_dropped += 1
                elif isinstance(result, Exception) and not isinstance(result, ConnectionError):
                    log.warning("a browser was dropped: %s: %s", type(result).__name__, printable(result))
            if not self._socket.closed:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    await asyncio.wait_for(self._socket.close(code=WSCloseCode.GOING_AWAY), 1.0)

    async def _send_pictures(self) -> None:
        sequence, at_s = -1, 0.0
        while True:
            await asyncio.wait_for(self._is_ready.wait(), _SLOW_S)
            picture = await self._hub.picture_after(sequence, at_s)
            if picture is None:
                return
            sequence, at_s = picture.sequence, picture.arrived_s
            self._is_ready.clear()
            await asyncio.wait_for(self._socket.send_bytes(_packed(picture, self.wants_original)), _SLOW_S)

    async def _send_figures(self) -> None:
        while not self._hub.is_closing:
            values = self._hub.desk.figures() | {
                "clients": self._hub.num_clients,
                "dropped_clients": self._hub.num_dropped,
            }
            await asyncio.wait_for(self._socket.send_str(json.dumps({"figures": values})), _SLOW_S)
            await asyncio.sleep(_FIGURES_S)

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT or self._is_flooding():
                return
            await self._answer(message.data)

    async def _answer(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        reply = await self._obey(message if isinstance(message, dict) else {})
        if reply is not None:
            await asyncio.wait_for(self._socket.send_str(json.dumps(reply)), _SLOW_S)

    async def _obey(self, message: dict[str, Any]) -> dict[str, Any] | None:
        desk, verb = self._hub.desk, message.get("do")
        try:
            if verb == "shown":
                self._is_ready.set()
                return None
            if verb == "want":
                self._want(message.get("original") is True)
                return None
            if verb == "set":
                desk.set(str(message.get("name")), message.get("value"))
                return None
            if verb == "snapshot":
                return {"done": f"saved {await self._hub.aside(desk.snapshot)}"}
            if verb == "record":
                on = message.get("on") is True
                name = await self._hub.aside(lambda: desk.record(on=on))
                return {"done": f"recording {name}" if on else f"saved {name}"}
            if verb == "preset":
                return {"done": f"saved {await self._hub.aside(desk.save_preset)}"}
        except (ConfigError, EncodeError) as error:
            return {"failed": printable(error)}
        except (VidrestoreError, OSError) as error:
            return {"failed": printable(f"{type(error).__name__}: {error}")}
        return {"failed": "unknown request"}

    def _want(self, original: bool) -> None:
        if original != self.wants_original:
            self.wants_original = original
            self._hub.preview.watch(0, 1 if original else -1)

    def _is_flooding(self) -> bool:
        now_s = time.monotonic()
        self._messages = [at_s for at_s in self._messages if at_s > now_s - 1.0]
        self._messages.append(now_s)
        return len(self._messages) > _MESSAGES_PER_S + 2 * 60  # acknowledgements of up to 120 pictures a second


def _packed(picture: Picture, with_original: bool) -> bytes:
    """Four bytes with the length of a JSON head (little-endian), the head, the restored JPEG, the original's."""
    original = picture.original if with_original else b""
    head = json.dumps(
        {
            "sequence": picture.sequence,
            "age_ms": round((time.monotonic() - picture.arrived_s) * 1e3, 1),
            "restored": len(picture.restored),
            "original": len(original),
            **picture.meta,
        }
    ).encode("utf-8")
    return len(head).to_bytes(4, "little") + head + picture.restored + original
