"""Every figure that wants an otherwise idle machine, in one command: ``python benchmarks/idle.py [--minutes 12]``.

Runs the CPU benchmarks of the engine one after another, the ones that goals hang on first, each within the time
that is left; what does not fit is named. Their reports are in ``benchmarks/results/``; a table of all of them
against the goals goes to ``benchmarks/results/idle.md`` and to standard output, ready for ``docs/performance.md``.
``--only NAME``, given more than once or not, runs some of them; ``--long`` runs in their place what takes long:
memory over 20 000 frames, eight minutes. ``--table`` only makes the table anew from the reports that are there,
``--quick`` only sees whether every script runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from common import core_share, machine

HERE = Path(__file__).parent
RESULTS = HERE / "results"

RUNS: list[tuple[str, list[str], float]] = [
    ("startup", [], 200.0),
    ("kernels", ["--rounds", "5"], 120.0),
    ("determinism", [], 60.0),
    ("pipeline", ["--rounds", "3"], 240.0),
    ("end_to_end", ["--rounds", "1"], 240.0),
    ("cpu_choices", ["--rounds", "5", "--clip-rounds", "1", "--frames", "30"], 240.0),
    ("memory", ["--lines", "1080", "--frames", "150", "--network", "auto"], 90.0),
]
LONG_RUNS: list[tuple[str, list[str], float]] = [("memory", [], 600.0)]
"""Script, its arguments, and the seconds after which it is given up."""

Report: TypeAlias = dict[str, Any]
Row: TypeAlias = tuple[str, str, str, str]
"""Goal, what, measured, wanted."""


def run_all(runs: list[tuple[str, list[str], float]], minutes: float, *, quick: bool) -> None:
    """Each in turn while there is time."""
    end = time.monotonic() + 60 * minutes
    for name, arguments, limit_s in runs:
        left_s = end - time.monotonic()
        label = " ".join([name, *arguments])
        if left_s < 20:
            print(f"left out, no time: {label}", flush=True)
            continue
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments, *(["--quick", "--dry"] if quick else [])]
        begin = time.monotonic()
        print(f"--- {label} (share of a core that is free: {core_share(0.3):.2f})", flush=True)
        process = subprocess.Popen(command, start_new_session=True)  # scripts start processes too: all end together
        try:
            status = str(process.wait(min(limit_s, left_s)))
        except subprocess.TimeoutExpired:
            status = "none, given up"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        print(f"--- {label}: status {status}, {time.monotonic() - begin:.0f} s", flush=True)


def report(name: str) -> Report:
    """A report that is there."""
    loaded: Report = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return loaded


def startup_rows() -> list[Row]:
    """P13."""
    sides = {result["side"]: result for result in report("startup")["results"]}
    rows = []
    for side, what, wanted in [
        ("first_frame", "start of the process to the first restored frame", "<= 4 s"),
        ("first_frame_core", "the same as if scipy were not installed", "<= 4 s"),
        ("first_frame_uncompiled", "the same with nothing compiled", ""),
        ("version", "`vidrestore --version`", ""),
        ("probe", "`vidrestore probe`", ""),
        ("torch", "`import torch` alone", ""),
    ]:
        if side in sides:
            rows.append(("P13", what, f"{sides[side]['median_ms'] / 1e3:.2f} s", wanted))
    return rows


def pipeline_rows() -> list[Row]:
    """P4, P8, P10."""
    found = report("pipeline")
    sides = {result["side"]: result for result in found["results"]}
    ratio, processor = found["no_faces_over_transcode"], found["processor_no_faces_over_transcode"]
    rows = [
        ("P8", f"no faces, {found['clip_lines']} lines, over a plain transcode", f"{ratio} (wall)", "<= 1.25"),
        ("P8", "the same in processor time", f"{processor}", ""),
    ]
    for side, what in (("no_faces", "no faces"), ("faces", "example")):
        rows.append(("P4", f"slowest stage's share, {what}", f"{sides[side]['share_of_slowest_stage']:.0%}", ">= 90 %"))
        rows.append(("P10", f"bytes written / output, {what}", f"{sides[side]['bytes_written_over_output']}", "<= 1.1"))
    return rows


def end_to_end_rows() -> list[Row]:
    """P12."""
    rows = []
    for result in report("end_to_end")["results"]:
        ours, theirs = (result[side]["frames_per_second"] for side in ("vidrestore", "reference_order"))
        measured = f"{ours} / {theirs} frames/s = {result['times_faster']}"
        memory = result["vidrestore"]["peak_memory_mb"]
        rows.append(("P12", result["clip"], f"{measured}; {memory} MB", ">= 2"))
    return rows


def memory_rows() -> list[Row]:
    """P9, R6, P10."""
    rows = []
    for name in ("memory", "memory_1080"):
        if not (RESULTS / f"{name}.json").exists():
            continue
        done = report(name)["results"][0]
        what = f"{done['frames']} frames of {done['size']}, {done['faces']} faces"
        rows.append(("P9", f"peak memory, {what}", f"{done['peak_mb']} MB", "<= 2048 MB"))
        if name == "memory":
            rows.append(("P9", "10 000 frames over 500", f"{done['growth_500_to_10000_mb']} MB", "<= 64 MB"))
            rows.append(("R6", "slope per 10 000 frames", f"{done['slope_mb_per_10000_frames']} MB", "<= 1 MB"))
            counts = f"{done['most_descriptors']}, {done['most_threads']}"
            rows.append(("R6", "descriptors, threads: first half, second half", counts, "constant"))
            rows.append(("P10", "bytes written / output", f"{done['bytes_written_over_output']}", "<= 1.1"))
    return rows


def kernels_rows() -> list[Row]:
    """P12."""
    rows = []
    for case in report("kernels")["results"]:
        ratio = case["times_faster"].get("composite_vs_reference_paste")
        if ratio is not None:
            t = {name: values["median_ms"] for name, values in case["times"].items()}
            what = f"composite / float64 paste over the frame, face of {case['face_px']} px"
            measured = f"{t['composite']:.2f} / {t['reference_paste']:.0f} ms = {ratio}"
            rows.append(("P12", what, measured, ">= 30"))
    return rows


def determinism_rows() -> list[Row]:
    """R14."""
    rows = []
    for result in report("determinism")["results"]:
        if result["part"] == "files":
            rows.append(("R14", f"twice the same file, {result['frames']} frames", f"{result['are_equal']}", "True"))
            continue
        psnr = "equal" if result["psnr_db"] is None else f"{result['psnr_db']} dB"
        if result["part"] == "batches":
            changed = result["psnr_of_changed_samples_db"]
            psnr += f" ({'equal' if changed is None else f'{changed} dB'} over what was restored)"
        what = f"{result['part']}: batches of {result['batch']} against 1"
        rows.append(("R14", what, psnr, ">= 60 dB"))
    return rows


def cpu_choices_rows() -> list[Row]:
    """The defaults."""
    rows = []
    for result in report("cpu_choices")["results"]:
        if result["part"] == "network":
            what = f"network, {result['choice']}, batch {result['batch']}"
            rows.append(("", what, f"{result['ms_per_face']} ms a face ({result['cpu_ms_per_face']} of processor)", ""))
        else:
            what = f"{result['frames']} frames of the example, {result['choice']}"
            rows.append(("", what, f"{result['wall_s']} s ({result['cpu_s']} s of processor)", ""))
    return rows


TABLES: dict[str, Callable[[], list[Row]]] = {
    "startup": startup_rows,
    "pipeline": pipeline_rows,
    "end_to_end": end_to_end_rows,
    "memory": memory_rows,
    "kernels": kernels_rows,
    "determinism": determinism_rows,
    "cpu_choices": cpu_choices_rows,
}


def table() -> str:
    """All reports that are there, as Markdown."""
    lines = ["| goal | what | measured | wanted |", "|---|---|---|---|"]
    origins = []
    for name, rows_of in TABLES.items():
        try:
            rows = rows_of()
            found = report(name)["machine"]
        except (FileNotFoundError, KeyError) as error:
            lines.append(f"| | `{name}` | no report ({type(error).__name__}) | |")
            continue
        lines += [f"| {' | '.join(row)} |" for row in rows]
        origins.append(f"`{name}`: commit {found['commit']}, {found['date']}, load {found['load_average']}")
    info = machine()
    origins.append(f"{info['cores']} cores of {info['processor']}, Python {info['python']}, {info['packages']}")
    return "\n".join([*lines, "", *origins]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--only", action="append", choices=sorted({name for name, _, _ in RUNS}), help="these scripts")
    parser.add_argument("--long", action="store_true", help="what takes long, in place of the rest")
    parser.add_argument("--quick", action="store_true", help="smallest numbers, no report")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        runs = LONG_RUNS if arguments.long else RUNS
        runs = [run for run in runs if arguments.only is None or run[0] in arguments.only]
        run_all(runs, arguments.minutes, quick=arguments.quick)
    if arguments.quick:
        return
    text = table()
    (RESULTS / "idle.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
