"""Who may import whom: a stage knows the leaves and its own folder, never another stage."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"decode", "detect", "track", "restoration", "blend", "encode"}
LEAVES = {"types", "errors", "geometry", "config", "packages"}
COMMON = LEAVES | {"device", "kernels", "morphable", "picture"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "geometry": set(),
    "config": {"errors", "presets"},
    "device": {"errors"},
    "threads": {"kernels"},
    "lanes": {"errors", "kernels"},
    "kernels": {"errors", "types", "kernels"},
    "morphable": {"types", "errors", "geometry", "device", "kernels", "lanes", "morphable"},
    "picture": {"geometry", "kernels", "types"},
    "ahead": {"types"},
    "loading": set(),
    "packages": set(),
    "download": {"errors"},
    "presets": set(),
    "evaluate": COMMON | {"evaluate"},
    "train": COMMON | {"train", "restoration", "evaluate", "decode", "detect", "track"},
    "live": COMMON | STAGES | {"live", "pipeline"},
    **{stage: COMMON | {stage} for stage in STAGES},
}
TOP = {
    "bench",
    "engine",
    "pipeline",
    "inspection",
    "doctor",
    "cli",
    "commands",
    "conversion",
    "overview",
    "pictures",
    "sidecar",
    "tasks",
    "__main__",
    "__init__",
}  # these put the parts together


def modules() -> list[Path]:
    return sorted([*(ROOT / "vidrestore").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    parts = relative.parts if relative.parts[0] == "kernels" else relative.parts[1:]
    return parts[0] if len(parts) > 1 else Path(parts[0]).stem


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            words = name.split(".")
            if words[0] == "vidrestore" and len(words) > 1:
                parts.add(words[1])
    return {p for p in parts if not p.startswith("__version")}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    if part in TOP:
        return
    assert part in ALLOWED, f"say in this test what {part} may import"
    forbidden = imported_parts(path) - ALLOWED[part] - {part}
    assert not forbidden, f"{part} may not import {sorted(forbidden)}"


def test_nothing_at_run_time_imports_train() -> None:
    for path in modules():
        if part_of(path) not in {"train", "cli", "commands"}:
            assert "train" not in imported_parts(path), path


def test_importing_the_package_is_light() -> None:
    code = "import vidrestore, sys; print([m for m in ('torch', 'av', 'cv2', 'numba', 'cupy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("word", ["pickle", "marshal", "eval", "exec", "shell=True", "yaml"])
def test_run_time_code_has_no_door_for_foreign_code(word: str) -> None:
    for path in modules():
        if part_of(path) == "train":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert word not in {n.split(".")[0] for n in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != word, path
            if isinstance(node, ast.keyword) and node.arg == "shell" and word == "shell=True":
                assert getattr(node.value, "value", None) is False, path


def test_every_torch_load_is_restricted() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "torch":
                    values = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                    assert values.get("weights_only") is True, path


def test_only_the_download_of_weights_opens_connections() -> None:
    for path in modules():
        if part_of(path) in {"download", "live"}:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                reach = {"urllib.request", "http.client", "socket", "ssl", "requests", "httpx"}
                assert not names & reach, path
                if "vidrestore.download" in names:
                    assert path.parts[-2:] == ("commands", "models.py"), "a run never fetches anything"
