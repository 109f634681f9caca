"""How long a person waits for the first sign of life: ``python benchmarks/startup.py [--quick]``.

Every sample is a process of its own, timed from before it is started:

- ``version``, ``probe``: ``vidrestore --version`` and ``vidrestore probe CLIP``, whole.
- ``first_frame``: ``vidrestore restore`` on the committed example until the first frame with a restored face is
  written (goal P13: 4 s), with when the command line was loaded, when the rest was, and when files and weights were
  open.
- ``first_frame_core``: the same as if scipy were not installed: vidrestore does not ask for it, numba loads it where it
  is there.
- ``first_frame_uncompiled``: the same with an empty folder for numba's cache, as after an installation.
- ``torch``: ``import torch`` alone, the floor of all that uses it.

Told are wall time and the processor time of the process; the sides run in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import machine, summary, write_report

EXAMPLE = Path(__file__).parent.parent / "examples" / "clip.mp4"
COMMANDS = {
    "version": ["-m", "vidrestore", "--version"],
    "probe": ["-m", "vidrestore", "probe", str(EXAMPLE), "--json"],
    "torch": ["-c", "import torch"],
    "first_frame": [__file__, "--one"],
    "first_frame_core": [__file__, "--one", "--without-scipy"],
    "first_frame_uncompiled": [__file__, "--one"],
}
GOAL_S = 4.0


class EnoughError(BaseException):
    """The first restored frame is written; no ``Exception``, so that the command does not report it as a defect."""


def first_frame(*, has_scipy: bool) -> dict[str, float]:
    """Moments of the command ``vidrestore restore`` in this process, on the system's monotonic clock."""
    if not has_scipy:
        sys.modules["scipy"] = None  # type: ignore[assignment]  # its import fails, as if it were not there
    from vidrestore import cli

    moments = {"command": time.monotonic()}

    def note(progress: Any) -> None:
        if progress.num_faces > 0:
            moments["first_frame"] = time.monotonic()
            raise EnoughError

    @contextmanager
    def noting(source: Path, *, show: bool) -> Iterator[Callable[[Any], None]]:
        from vidrestore import pipeline

        moments["imported"] = time.monotonic()

        class Noted(pipeline.RestoredVideo):
            """Tells when files and weights are open."""

            def __init__(self, *values: Any, **options: Any) -> None:
                super().__init__(*values, **options)
                moments["opened"] = time.monotonic()

        pipeline.RestoredVideo = Noted  # type: ignore[misc]
        yield note

    cli.progress_bar = noting  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["vidrestore", "restore", str(EXAMPLE), "-o", str(Path(folder) / "out.mp4")]
        try:
            cli.main()
        except EnoughError:
            return moments
    raise SystemExit("no face was restored in the example")


def sample(side: str) -> dict[str, float]:
    """One process: seconds of wall and processor time, and the moments that it told of, since before its start."""
    with tempfile.TemporaryDirectory() as empty:
        environment = dict(os.environ)
        if side == "first_frame_uncompiled":
            environment["NUMBA_CACHE_DIR"] = empty
        begin = time.monotonic()
        done = subprocess.run([sys.executable, *COMMANDS[side]], env=environment, capture_output=True, check=False)
        wall_s = time.monotonic() - begin
    if done.returncode != 0:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stderr.decode()}")
    taken = {"wall_s": wall_s}
    if side.startswith("first_frame"):
        told = json.loads(done.stdout.splitlines()[-1])
        taken |= {f"{name}_s": moment - begin for name, moment in told["moments"].items()}
        taken["processor_s"] = told["processor_s"]
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds, no empty cache")
    parser.add_argument("--one", action="store_true", help="the first frame in this process, used by the script itself")
    parser.add_argument("--without-scipy", action="store_true", help="with --one: as if it were not installed")
    parser.add_argument("--dry", action="store_true", help="write no report")
    arguments = parser.parse_args()
    if arguments.one:
        moments = first_frame(has_scipy=not arguments.without_scipy)
        print(json.dumps({"moments": moments, "processor_s": time.process_time()}))
        return
    before = machine()
    sides = [side for side in COMMANDS if not (arguments.quick and side == "first_frame_uncompiled")]
    for side in sides:
        if side != "first_frame_uncompiled":
            sample(side)  # files come into the system's cache, kernels into numba's
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    rounds = 2 if arguments.quick else arguments.rounds
    for index in range(rounds):
        for side in sides:
            if side != "first_frame_uncompiled" or index < 2:  # twenty seconds each, and steady
                samples[side].append(sample(side))
    results: list[dict[str, Any]] = []
    for side, taken in samples.items():
        key = "first_frame_s" if side.startswith("first_frame") else "wall_s"
        others = [name for name in taken[0] if name != key]
        results.append({"side": side, **summary([1e3 * one[key] for one in taken])})
        results[-1] |= {name: round(sorted(one[name] for one in taken)[len(taken) // 2], 3) for name in others}
        goal = f" (goal {GOAL_S} s)" if side in ("first_frame", "first_frame_core") else ""
        print(f"{side:24} {results[-1]['median_ms'] / 1e3:6.2f} s{goal}", flush=True)
    if not arguments.dry:
        print(write_report("startup", __doc__ or "", results, machine_before=before))


if __name__ == "__main__":
    main()
