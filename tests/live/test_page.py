"""The page in a real browser: what a person does with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from chromium import Page, find_browser, open_page
from stand_ins import FakeClock, OneFace, TimedRestorer, live_config
from test_session import EnoughError, Paced

from vidrestore.live.server import LiveServer
from vidrestore.live.session import LiveSession

pytestmark = [
    pytest.mark.needs_browser,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium; on Debian: apt-get install chromium"),
]

# Mean difference of the picture's halves beside each other: of original and restored, that is
DIFFERENCE = """(() => {
  const pen = document.getElementById("view").getContext("2d"), w = pen.canvas.width / 2, h = pen.canvas.height;
  const a = pen.getImageData(0, 0, w, h).data, b = pen.getImageData(w, 0, w, h).data;
  let sum = 0;
  for (let i = 0; i < a.length; i += 4) sum += Math.abs(a[i] - b[i]);
  return sum / (a.length / 4);
})()"""
VALUE = "Number(document.getElementById('wipe').getAttribute('aria-valuenow'))"


def watch(tmp_path: Path, act: Callable[[Page], Awaitable[None]], *, phone: bool = False) -> LiveSession:
    """Runs a session on a made-up camera and lets a browser act on its page."""
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise EnoughError

    session = LiveSession(
        live_config(adapts=False),
        lambda pause: Paced(FakeClock(), 0, 60_000),
        [],
        folder=tmp_path / "kept",
        networks=[TimedRestorer()],
        finder=OneFace(),
    )
    server = LiveServer(session, session.config.live, port=0)
    session.add_sink(server.preview)

    def run() -> None:
        with pytest.raises(EnoughError):
            session.run(check)

    thread = threading.Thread(target=run)
    thread.start()

    async def open_and_act() -> None:
        size = {"width": 390, "height": 844} if phone else {}
        async with open_page(server.address, mobile=phone, **size) as page:
            await page.until("Number(document.getElementById('view').dataset.sequence) > 0")
            await act(page)
            assert page.console == []  # nothing was forbidden, missing or thrown

    try:
        asyncio.run(open_and_act())
    finally:
        stop.set()
        thread.join(20)
        server.close()
    return session


def test_a_person_drags_the_wipe_moves_the_slider_and_keeps_a_snapshot(tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        box = await page.box("#view")
        middle = box["top"] + box["height"] / 2
        await page.mouse("mousePressed", box["left"] + 0.5 * box["width"], middle)
        await page.mouse("mouseMoved", box["left"] + 0.35 * box["width"], middle)
        await page.mouse("mouseMoved", box["left"] + 0.2 * box["width"], middle)
        await page.mouse("mouseReleased", box["left"] + 0.2 * box["width"], middle)
        assert await page.evaluate(VALUE) == pytest.approx(20, abs=1)
        await page.mouse("mouseMoved", box["left"] + 0.9 * box["width"], middle)  # let go of: it stays
        assert await page.evaluate(VALUE) == pytest.approx(20, abs=1)
        await page.key("ArrowRight")
        assert await page.evaluate(VALUE) == pytest.approx(22, abs=1)
        await page.key("2", "2")
        await page.until("document.getElementById('view').width > 300")
        assert await page.until(f"{DIFFERENCE} > 1.5")
        slider = await page.box("#strength")
        height = slider["top"] + slider["height"] / 2
        await page.mouse("mousePressed", slider["left"] + slider["width"] - 8, height)
        await page.mouse("mouseMoved", slider["left"] + 4, height)
        await page.mouse("mouseReleased", slider["left"] + 4, height)
        assert await page.evaluate("document.getElementById('strength-value').textContent") == "0 %"
        await page.until(f"{DIFFERENCE} < 0.2")  # the picture changed: restored and original are one
        await page.key("s", "s")
        await page.until("document.getElementById('log').textContent.startsWith('saved snapshot')")
        await page.until("document.getElementById('age').textContent.endsWith(' ms')")
        await page.until("document.querySelectorAll('#stages tr').length >= 6")
        await page.evaluate("document.getElementById('overlay').click()")
        first = await page.evaluate("Number(document.getElementById('view').dataset.sequence)")
        await page.until(f"Number(document.getElementById('view').dataset.sequence) > {first}")

    session = watch(tmp_path, act)
    assert session.config.blend.strength == 0.0
    assert len(list((tmp_path / "kept").glob("snapshot-*.png"))) == 1


def test_on_a_phone_a_finger_drags_the_wipe_and_nothing_is_wider_than_the_screen(tmp_path: Path) -> None:
    async def act(page: Page) -> None:
        box = await page.box("#view")
        middle = box["top"] + box["height"] / 2
        await page.touch("touchStart", box["left"] + 0.5 * box["width"], middle)
        await page.touch("touchMove", box["left"] + 0.6 * box["width"], middle)
        await page.touch("touchMove", box["left"] + 0.8 * box["width"], middle)
        await page.touch("touchEnd")
        assert await page.evaluate(VALUE) == pytest.approx(80, abs=2)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        small = "[...document.querySelectorAll('button.act')].filter(b => b.getBoundingClientRect().height < 34).length"
        assert await page.evaluate(small) == 0

    watch(tmp_path, act, phone=True)
