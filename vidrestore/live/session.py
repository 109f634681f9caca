"""A live run as a whole: camera, engine, sinks, recording, and what the page asks for."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from vidrestore.config import RestoreConfig, RestoreOptions
from vidrestore.detect.detector import FaceFinder
from vidrestore.errors import ConfigError, EncodeError, VidrestoreError, printable
from vidrestore.live.capture import LIVE_TIME_BASE, Camera, Capture, Captured
from vidrestore.live.engine import Engine, LiveFrame
from vidrestore.live.meter import Rate
from vidrestore.live.preview import png_of
from vidrestore.live.sinks import ConsumerGoneError, Output, Sink, create_new, recording
from vidrestore.live.slate import slate
from vidrestore.live.slot import LatestSlot
from vidrestore.pipeline import load_finder
from vidrestore.restoration.restorer import Restorer, choose_network, load_restorer

__all__ = ["LiveSession", "network_names", "preset_text_of"]

log = logging.getLogger(__name__)

SMALL_NETWORK: Literal["compact"] = "compact"
"""What the ladder falls back on: the cheapest of ours, and always there."""
_POLL_S = 0.1
_STAND_IN_S = 0.5  # a held picture or a slate is sent so often: enough for players not to give up
_KEPT_FRAMES = 12  # wait for a recorder: 0.4 s of 30 frames/s, 17 MB at 720p
_SNAPSHOT_S = 0.3  # at least so far apart


def network_names() -> tuple[str, ...]:
    """The networks that can be chosen."""
    return tuple(get_args(get_type_hints(RestoreOptions)["network"]))


class LiveSession:
    """Runs camera, engine and sinks until it is told to stop; :meth:`run` is the engine's thread.

    The methods below :meth:`run` may be called from any thread: they are what the page can do. None of them takes a
    path; files are named here and go into ``folder``.

    Args:
        config: options of all stages.
        open_camera: opens the camera; given the pause that a file's pace waits with.
        sinks: where the pictures go, closed at the end. For a sink that is kept (files, pipes) a few frames may wait.
        folder: for snapshots, recordings and presets; made when the first one is.
        networks: to use in place of the configured one.
        finder: to use in place of the configured one.
        clock: seconds.

    Raises:
        DeviceError: the configured device is not there.
        WeightsError: a weight file is missing or damaged.
    """

    def __init__(
        self,
        config: RestoreConfig,
        open_camera: Callable[[Callable[[float], object]], Camera],
        sinks: Sequence[Sink],
        *,
        folder: Path | None = None,
        networks: Sequence[Restorer] | None = None,
        finder: FaceFinder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        self._folder = folder or Path("vidrestore-live")
        finder, networks = finder or load_finder(config), networks or _load_networks(config.restore)
        self._network = choose_network(config.restore, networks[0].device)
        self._engine = Engine(config, networks, finder, clock=clock)
        self._slot: LatestSlot[Captured] = LatestSlot()
        self._capture = Capture(
            lambda: open_camera(self._capture.pause),
            self._slot,
            mirror=lambda: self._engine.controls.mirror,
            clock=clock,
        )
        self._sinks = list(sinks)
        self._outputs: list[Output] = []
        self._lock = threading.RLock()
        self._recording: Output | None = None
        self._recording_name = ""
        self._rate = Rate()
        self._last: LiveFrame | None = None
        self._last_pts = -1
        self._stood_in_s = 0.0
        self._num_slates = 0
        self._snapshot_s = -_SNAPSHOT_S
        self._next_networks: tuple[str, list[Restorer]] | None = None
        self._is_loading = False
        self._message = ""
        self._num_named = 0

    def add_sink(self, sink: Sink) -> None:
        """Another place for the pictures; before :meth:`run`."""
        self._sinks.append(sink)

    def run(self, check: Callable[[], None] = lambda: None) -> None:
        """Runs until the camera ends, a consumer goes away, or ``check`` raises.

        Args:
            check: called some ten times a second; what it raises comes out here, after everything is closed.

        Raises:
            DecodeError: the camera cannot be opened at the start.
            EncodeError: a sink failed.
        """
        try:
            self._start()
            while True:
                check()
                captured = self._slot.get(_POLL_S)
                if captured is not None:
                    self._take_networks()
                    self._publish(self._engine.process(captured))
                elif self._slot.is_closed:
                    if self._capture.error is not None:
                        raise self._capture.error
                    return
                elif self._capture.state.status == "lost":
                    self._stand_in()
                if self._is_over():
                    return
        finally:
            self._close()

    # What the page can do -------------------------------------------------------------------------------------------

    def set(self, name: str, value: object) -> None:
        """Changes a control: ``strength``, ``w``, ``mirror`` or ``network``.

        Raises:
            ConfigError: an unknown name or a value out of its bounds.
        """
        if name in ("strength", "w"):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name}: expected a number from 0 to 1")
            self._control(**{name: float(value)})
        elif name == "mirror":
            if not isinstance(value, bool):
                raise ConfigError("mirror: expected true or false")
            self._control(mirror=value)
        elif name == "network":
            self._choose_network(value)
        else:
            raise ConfigError("unknown control; known are strength, w, mirror, network")

    def snapshot(self) -> str:
        """Writes the newest restored picture as a PNG; its name.

        Raises:
            EncodeError: there is none yet, the last one was just now, or the folder refuses.
        """
        with self._lock:
            frame, now_s = self._last, self._clock()
            if frame is None:
                raise EncodeError("there is no picture yet")
            if now_s - self._snapshot_s < _SNAPSHOT_S:
                raise EncodeError("the last snapshot was just now")
            self._snapshot_s = now_s
            path = self._new_path("snapshot", ".png")
        path.write_bytes(png_of(frame.frame, frame.info))
        return path.name

    def record(self, *, on: bool) -> str:
        """Begins or ends a recording beside the sinks; the file's name.

        Raises:
            EncodeError: it is on, or off, already, or the folder refuses.
        """
        with self._lock:
            if on == (self._recording is not None):
                raise EncodeError("the recording is on already" if on else "there is no recording")
            if on:
                path = self._new_path("recording", ".mkv", make=False)
                self._recording_name = path.name
                self._recording = Output(recording(path, self._config.encode), _KEPT_FRAMES, self._clock)
                return path.name
            ended, self._recording = self._recording, None
        assert ended is not None
        ended.close()
        if ended.error is not None:
            raise EncodeError(f"{self._recording_name}: {ended.error}")
        return self._recording_name

    def save_preset(self) -> str:
        """Writes the settings in force as a file for ``--config``; its name.

        Raises:
            EncodeError: the folder refuses.
        """
        with self._lock:
            path = self._new_path("preset", ".toml")
        path.write_text(preset_text_of(self.config), "utf-8")
        return path.name

    @property
    def config(self) -> RestoreConfig:
        """The settings as they are now."""
        controls = self._engine.controls
        return replace(
            self._config,
            blend=replace(self._config.blend, strength=controls.strength),
            restore=replace(self._config.restore, w=controls.w, network=self._network),
            live=replace(self._config.live, mirror=controls.mirror),
        )

    def figures(self) -> dict[str, Any]:
        """Everything that can be measured, as plain values for the page and for JSON."""
        now_s = self._clock()
        ladder, state = self._engine.ladder, self._capture.state
        last, recorder = self._last, self._recording
        return {
            "camera": asdict(state) | {"since_s": round(now_s - state.since_s, 1), "dropped": self._slot.num_dropped},
            "rates": {
                "camera": round(self._capture.rate.per_second(now_s), 2),
                "shown": round(self._rate.per_second(now_s), 2),
            },
            "stages": {
                name: {"p50": round(s.p50, 2), "p95": round(s.p95, 2), "last": round(s.last, 2)}
                for name, s in self._engine.meter.spreads().items()
            },
            "age_ms": round((now_s - last.arrived_s) * 1e3, 1) if last is not None else None,
            "budget_ms": ladder.budget_ms,
            "rung": {
                "index": ladder.index,
                "name": ladder.rung.name,
                "count": len(ladder.rungs),
                "is_at_bottom": ladder.is_at_bottom,
            },
            "faces": len(last.tracks) if last is not None else 0,
            "restored": self._engine.num_restored,
            "kept": self._engine.num_kept,
            "network": self._network,
            "is_loading": self._is_loading,
            "networks": list(network_names()),
            "device": self._engine.network_device,
            "controls": asdict(self._engine.controls),
            "recording": {
                "is_on": recorder is not None,
                "name": self._recording_name if recorder is not None else "",
                "written": recorder.num_written if recorder is not None else 0,
                "dropped": recorder.num_dropped if recorder is not None else 0,
            },
            "sinks": [
                {
                    "name": printable(output.sink.name),
                    "written": output.num_written,
                    "dropped": output.num_dropped,
                    "write_ms": round(output.write_ms, 1),
                    "age_ms": round(output.age_ms, 1),
                }
                for output in self._outputs
            ],
            "message": self._message,
        }

    # The engine's thread --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._engine.warm_up(self._capture.open())
        for sink in self._sinks:
            size = 1 if sink.name.startswith(("browser", "v4l2", "virtualcam")) else _KEPT_FRAMES
            self._outputs.append(Output(sink, size, self._clock))
        self._capture.start()

    def _publish(self, frame: LiveFrame) -> None:
        if frame.frame.pts <= self._last_pts:  # a picture that stood in for a lost camera was later than this one
            frame = replace(frame, frame=replace(frame.frame, pts=self._last_pts + 1))
        self._last_pts = frame.frame.pts
        self._last = frame
        self._rate.tick(self._clock())
        for output in self._outputs:
            output.put(frame)
        with self._lock:
            if self._recording is not None:
                self._recording.put(frame)

    def _stand_in(self) -> None:
        """Holds the last picture, then shows a slate, so that players and meeting programs stay with us."""
        now_s, state, last = self._clock(), self._capture.state, self._last
        if last is None or now_s - self._stood_in_s < _STAND_IN_S:
            return
        self._stood_in_s = now_s
        pts = max(self._capture.pts_at(now_s), self._last_pts + 1)
        if now_s - state.since_s < self._config.live.hold_s:
            held = replace(last.frame, pts=pts, time_base=LIVE_TIME_BASE)
            self._publish(replace(last, frame=held, kind="held", done_s=now_s))
            return
        self._num_slates += 1
        lines = ("no camera", state.message, "it is being opened again and again")
        picture, info = slate(last.info, lines, self._num_slates % 6)
        picture = replace(picture, pts=pts, time_base=LIVE_TIME_BASE, duration=None)
        kind: Literal["slate"] = "slate"
        self._publish(
            LiveFrame(last.sequence, now_s, now_s, picture, picture, info, (), kind, self._engine.ladder.index)
        )

    def _is_over(self) -> bool:
        """Whether a sink's consumer has gone; raises what else ended a sink."""
        for output in self._outputs:
            if isinstance(output.error, ConsumerGoneError):
                log.info("%s", output.error)
                return True
            if output.error is not None:
                raise output.error
        with self._lock:
            if self._recording is not None and self._recording.error is not None:
                self._message = f"recording stopped: {printable(self._recording.error)}"
                self._recording = None
        return False

    def _take_networks(self) -> None:
        with self._lock:
            chosen, self._next_networks = self._next_networks, None
        if chosen is not None:
            self._network, networks = chosen[0], chosen[1]  # type: ignore[assignment]
            self._engine.use_networks(networks)
            self._engine.meter.reset()

    def _close(self) -> None:
        self._capture.stop()
        with self._lock:
            outputs = [*self._outputs, *([self._recording] if self._recording is not None else [])]
            self._recording = None
        for output in outputs:
            output.close()
        started = {id(output.sink) for output in self._outputs}
        for sink in self._sinks:
            if id(sink) not in started:
                sink.close()
        self._engine.close()

    def _control(self, **changes: Any) -> None:
        with self._lock:
            self._engine.controls = replace(self._engine.controls, **changes)

    def _choose_network(self, value: object) -> None:
        if value not in network_names():
            raise ConfigError(f"network: expected one of {', '.join(network_names())}")
        with self._lock:
            if self._is_loading:
                raise ConfigError("a network is being loaded already")
            if value == self._network:
                return
            self._is_loading = True
            self._message = ""
        threading.Thread(target=self._load, args=(value,), name="vidrestore-load", daemon=True).start()

    def _load(self, name: Any) -> None:
        try:
            networks = _load_networks(replace(self._config.restore, network=name))
            with self._lock:
                self._next_networks = name, networks
        except VidrestoreError as error:
            self._message = f"{name}: {printable(error)}"
        finally:
            self._is_loading = False

    def _new_path(self, word: str, suffix: str, *, make: bool = True) -> Path:
        """A name in the folder that nothing has yet; the file is made, empty, unless told otherwise."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EncodeError(f"{printable(self._folder)}: cannot be made ({error.strerror})") from error
        self._num_named += 1
        name = f"{word}-{datetime.now():%Y%m%d-%H%M%S}-{self._num_named}{suffix}"
        if make:
            create_new(self._folder / name)
        return self._folder / name


def preset_text_of(config: RestoreConfig) -> str:
    """TOML that leads to these settings: what differs from the defaults."""
    lines = ["# Saved from a live session."]
    default = RestoreConfig()
    for stage in fields(config):
        values, usual = getattr(config, stage.name), getattr(default, stage.name)
        changed = [f.name for f in fields(values) if getattr(values, f.name) != getattr(usual, f.name)]
        if changed:
            lines += ["", f"[{stage.name}]"]
            lines += [f"{name} = {_toml(getattr(values, name))}" for name in changed]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)  # words, numbers, true and false are written alike in both


def _load_networks(options: RestoreOptions) -> list[Restorer]:
    """The chosen network and, unless it is that already, the small one."""
    networks = [load_restorer(options)]
    if choose_network(options, networks[0].device) != SMALL_NETWORK:
        networks.append(load_restorer(replace(options, network=SMALL_NETWORK)))
    return networks
