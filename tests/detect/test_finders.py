"""Which detector a configuration names, with weights out of the store."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vidrestore.config import RestoreConfig, load_config
from vidrestore.conversion import layout
from vidrestore.detect.retinaface import RetinaFaceFinder
from vidrestore.detect.yunet import YuNet
from vidrestore.errors import ConfigError, WeightsError
from vidrestore.pipeline import load_finder
from vidrestore.restoration.seeded import seeded_state
from vidrestore.restoration.weights import Receipt, WeightStore, sha256_of

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def config(detector: str, score_threshold: float = 0.6) -> RestoreConfig:
    return load_config(
        overrides={"detect": {"detector": detector, "score_threshold": score_threshold}, "restore": {"device": "cpu"}}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with seeded weights of the small RetinaFace."""
    store = WeightStore(tmp_path_factory.mktemp("store"))
    path = store.path("retinaface_mobile")
    save_file(seeded_state(layout("retinaface_mobile")), path)
    store.keep(Receipt("retinaface_mobile", "file.pth", "0" * 64, sha256_of(path), licence_accepted=True))
    return store.folder


def test_yunet_needs_no_file() -> None:
    assert isinstance(load_finder(config("yunet")), YuNet)


def test_retinaface_comes_out_of_the_store_with_the_configured_threshold(folder: Path) -> None:
    finder = load_finder(config("retinaface_mobile", 0.0), folder)
    assert isinstance(finder, RetinaFaceFinder)
    found = finder.detect(PICTURE)
    assert len(found) > 0
    assert np.isfinite(found.landmarks).all()
    assert (np.diff(found.scores) <= 0).all(), "best first"
    strict = load_finder(config("retinaface_mobile", 1.0), folder)
    assert len(strict.detect(PICTURE)) == 0


def test_without_its_weights_a_detector_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"models pull retinaface, or get detection_Resnet50_Final.pth from https"):
        load_finder(config("retinaface"), tmp_path)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"detect\.detector = 'mtcnn'"):
        config("mtcnn")


class _PackagesNetwork:
    """What facexlib's class does, as far as it is used: (N, 15) rows of box, score, points."""

    def __init__(self, network_name: str) -> None:
        assert network_name == "resnet50"

    def load_state_dict(self, state: dict[str, torch.Tensor], strict: bool) -> None:
        assert strict
        assert "body.conv1.weight" in state

    def eval(self) -> None:
        """Nothing to switch."""

    def detect_faces(self, picture: np.ndarray, conf_threshold: float) -> np.ndarray:  # type: ignore[type-arg]
        rows = np.arange(30, dtype=np.float64).reshape(2, 15)
        return rows if picture.mean() > 1 else rows[:0]


def test_facexlib_s_rows_are_read_and_its_own_files_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("facexlib.detection.retinaface")
    module.RetinaFace = _PackagesNetwork  # type: ignore[attr-defined]
    for name in ("facexlib", "facexlib.detection"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "facexlib.detection.retinaface", module)
    monkeypatch.setattr(WeightStore, "load", lambda self, name: {"body.conv1.weight": torch.zeros(1)})
    finder = load_finder(config("facexlib"), tmp_path)
    found = finder.detect(PICTURE)
    np.testing.assert_array_equal(found.boxes[1], [15, 16, 17, 18])
    np.testing.assert_array_equal(found.scores, [4, 19])
    np.testing.assert_array_equal(found.landmarks[0], [[5, 6], [7, 8], [9, 10], [11, 12], [13, 14]])
    assert len(finder.detect(np.zeros_like(PICTURE))) == 0


def test_facexlib_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facexlib", None)
    monkeypatch.setattr(WeightStore, "load", lambda self, name: {})
    with pytest.raises(ConfigError, match=r"wants the packages facexlib and torchvision.*'retinaface' is the same"):
        load_finder(config("facexlib"), tmp_path)


def test_the_configuration_is_a_value() -> None:
    assert replace(config("retinaface")) == config("retinaface")
