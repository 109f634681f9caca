"""The maker of training faces: the same face for the same number, resumable, clear errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidrestore.errors import ConfigError
from vidrestore.train import faces
from vidrestore.train.faces import find_generator, make_faces

HAS_GENERATOR = all(importlib.util.find_spec(name) is not None for name in ("random_face", "openvino"))
needs_generator = pytest.mark.skipif(not HAS_GENERATOR, reason="random-face and openvino are not installed")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps random-face"):
        find_generator()


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, -1), (999_999, 2)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, start: int, count: int) -> None:
    with pytest.raises(ValueError, match="faces have numbers from 0"):
        make_faces(tmp_path, start, count)


@needs_generator
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_faces_are_made_once_and_look_like_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "MEAN_COUNT", 20)  # a rougher mean, to save time
    heard: list[tuple[int, int]] = []
    assert make_faces(tmp_path, 3, 2, threads=1, progress=lambda done, count: heard.append((done, count))) == 2
    assert heard == [(1, 2), (2, 2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00003.jpg", "00004.jpg"]
    picture = cv2.imread(str(tmp_path / "00003.jpg"))
    assert picture is not None
    assert picture.shape == (512, 512, 3)
    # a lit face in the middle: skin has more red than blue, and the picture is no flat field
    middle = picture[150:400, 150:350].reshape(-1, 3).mean(0)
    assert middle[2] > middle[0]
    assert picture.std() > 20
    stamp = (tmp_path / "00003.jpg").stat().st_mtime_ns
    (tmp_path / "00004.jpg").unlink()
    assert make_faces(tmp_path, 3, 2, threads=1) == 1
    assert (tmp_path / "00003.jpg").stat().st_mtime_ns == stamp


@needs_generator
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_number_gives_the_same_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "MEAN_COUNT", 20)
    for name in ("a", "b"):
        make_faces(tmp_path / name, 7, 1, threads=1)
    first, second = (cv2.imread(str(tmp_path / name / "00007.jpg")).astype(int) for name in ("a", "b"))
    assert np.abs(first - second).max() <= 2  # the same machine; another one may round otherwise
