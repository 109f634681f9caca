"""Files that installed packages carry and that are wanted without the packages' code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["packaged_file"]


def packaged_file(package: str, relative: str) -> Path | None:
    """A file inside an installed package, found without running any of the package's code.

    Args:
        package: its import name, without dots.
        relative: path below the package's folder, with slashes.

    Returns:
        None where the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / relative
        if path.is_file():
            return path
    return None
