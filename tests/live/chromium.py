"""A real Chromium, driven through its DevTools protocol: what the tests of the page need, and no more."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.console: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its answer."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), 30)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            entry = message.get("params", {}).get("entry", {})
            is_told = message.get("method") == "Runtime.exceptionThrown" or "text" in entry
            if is_told and entry.get("source") != "rendering":  # advice on speed, for what only the tests do
                self.console.append(str(message["params"]))

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 40.0) -> Any:
        """Waits until an expression is true; its value."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            value = await self.evaluate(expression)
            if value:
                return value
            assert asyncio.get_running_loop().time() < end, f"never became true: {expression}"
            await asyncio.sleep(0.1)

    async def mouse(self, kind: str, x: float, y: float) -> None:
        """mousePressed, mouseMoved or mouseReleased at a place of the page."""
        buttons = 0 if kind == "mouseReleased" else 1
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    async def touch(self, kind: str, x: float = 0.0, y: float = 0.0) -> None:
        """touchStart, touchMove or touchEnd."""
        points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    async def key(self, name: str, text: str = "") -> None:
        """Presses and releases a key."""
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=name, text=text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=name)

    async def box(self, selector: str) -> dict[str, float]:
        """left, top, width and height of an element."""
        return await self.evaluate(
            f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
            "return {left: b.left, top: b.top, width: b.width, height: b.height}; })()"
        )

    async def screenshot(self, path: Path, *, quality: int = 82) -> None:
        """What the page looks like, as a JPEG or PNG by the file's name."""
        is_jpeg = path.suffix == ".jpg"
        options: dict[str, Any] = {"format": "jpeg", "quality": quality} if is_jpeg else {"format": "png"}
        answer = await self.call("Page.captureScreenshot", **options)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def open_page(address: str, *, width: int = 1280, height: int = 860, dark: bool = False, mobile: bool = False):
    """A tab of a fresh headless Chromium on an address; nothing of it stays."""
    browser = find_browser()
    assert browser is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port_file = Path(folder) / "DevToolsActivePort"
            for _ in range(300):
                if port_file.exists() and len(port_file.read_text().split()) == 2:
                    break
                await asyncio.sleep(0.1)
            port = port_file.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = await answer.json()
                tab = next(tab for tab in tabs if tab["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    await page.call("Runtime.enable")
                    await page.call("Log.enable")
                    await page.call("Page.enable")
                    await page.call(
                        "Emulation.setDeviceMetricsOverride",
                        width=width,
                        height=height,
                        deviceScaleFactor=2 if mobile else 1,
                        mobile=mobile,
                    )
                    if mobile:
                        await page.call("Emulation.setTouchEmulationEnabled", enabled=True)
                    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                    await page.call("Emulation.setEmulatedMedia", features=[scheme])
                    await page.call("Page.navigate", url=address)
                    await page.until("document.readyState === 'complete' && location.protocol === 'http:'", 60)
                    yield page
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
