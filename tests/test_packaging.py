"""What the wheel holds."""

from __future__ import annotations

import importlib
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

import vidrestore

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def packages_in_tree() -> set[str]:
    found = set()
    for top, name in (
        ("vidrestore", "vidrestore"),
        ("kernels", "vidrestore.kernels"),
        ("presets", "vidrestore.presets"),
    ):
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / top).parts]))
    return found


def test_every_package_is_listed() -> None:
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages_in_tree()


def test_every_module_is_in_a_package() -> None:
    for top in ("vidrestore", "kernels", "presets"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_the_version_is_one() -> None:
    assert metadata.version("vidrestore") == vidrestore.__version__ == SETTINGS["project"]["version"]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("vidrestore", "py.typed"),
        ("vidrestore.kernels", "cuda/composite.cu"),
        ("vidrestore.kernels", "cuda/planes.cuh"),
        ("vidrestore.presets", "archive.toml"),
        ("vidrestore.restoration.data", "compact.safetensors"),
        ("vidrestore.restoration.data", "compact.md"),
        ("vidrestore.restoration.data", "mobile.safetensors"),
        ("vidrestore.restoration.data", "mobile.md"),
    ],
)
def test_data_files_are_found_through_the_package(package: str, name: str) -> None:
    assert (resources.files(package) / name).is_file()


def test_every_cuda_source_goes_into_the_wheel() -> None:
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["vidrestore.kernels"]
    for path in (ROOT / "kernels" / "cuda").iterdir():
        assert any(path.relative_to(ROOT / "kernels").match(pattern) for pattern in patterns), path


def test_there_are_at_most_ten_core_dependencies() -> None:
    assert len(SETTINGS["project"]["dependencies"]) <= 10


def test_every_public_name_exists() -> None:
    for name in vidrestore.__all__:
        assert getattr(vidrestore, name) is not None
    for package in sorted(packages_in_tree()):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{package}.{name}"


def test_shipped_weights_are_small() -> None:
    data = resources.files("vidrestore.restoration.data")
    assert (data / "compact.safetensors").stat().st_size <= 10_000_000
    assert (data / "mobile.safetensors").stat().st_size <= 20_000_000
