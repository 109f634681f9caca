"""Weights that do not come with the package: conversion in a child process, the store, and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vidrestore import cli
from vidrestore.config import RestoreOptions
from vidrestore.conversion import LAYOUTS, MESHES, layout
from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.codeformer import RESTORATION, CodeFormer
from vidrestore.restoration.convert import convert_weights
from vidrestore.restoration.restorer import load_restorer
from vidrestore.restoration.seeded import seeded_state
from vidrestore.restoration.weights import MODELS, WeightStore, find_model

ENTRY = find_model("codeformer")


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "store")


def refused(path: Path, store: WeightStore) -> str:
    with pytest.raises(WeightsError) as caught:
        convert_weights(path, ENTRY, store, accepts_licence=True)
    assert "\n" not in str(caught.value)
    left = {path.name for path in store.folder.iterdir()} if store.folder.exists() else set()
    assert left <= {"licences.json"}, "nothing but the acceptance is left in the store"
    return str(caught.value)


def test_a_licence_has_to_be_accepted(tmp_path: Path, store: WeightStore) -> None:
    with pytest.raises(ConfigError, match=r"non-commercial.*--accept-licence"):
        convert_weights(tmp_path / "codeformer.pth", ENTRY, store, accepts_licence=False)


def test_a_missing_file_is_named(tmp_path: Path, store: WeightStore) -> None:
    assert "codeformer.pth: there is no such file" in refused(tmp_path / "codeformer.pth", store)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", os.urandom(4096)])
def test_damage_is_refused(content: bytes, tmp_path: Path, store: WeightStore) -> None:
    path = tmp_path / "codeformer.pth"
    path.write_bytes(content)
    assert "codeformer.pth" in refused(path, store)


class _Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, store: WeightStore) -> None:
    path, trace = tmp_path / "codeformer.pth", tmp_path / "it_ran"
    with path.open("wb") as file:
        pickle.dump({"params_ema": _Bomb(trace)}, file)
    refused(path, store)
    torch.save({"params_ema": _Bomb(trace)}, path)
    refused(path, store)
    assert not trace.exists()


def test_another_network_s_file_is_refused_by_its_first_key(tmp_path: Path, store: WeightStore) -> None:
    path = tmp_path / "codeformer.pth"
    torch.save({"params_ema": {"conv.weight": torch.zeros(3)}}, path)
    assert "is missing; is the file of another network" in refused(path, store)
    torch.save([1, 2, 3], path)
    assert "expected a dictionary of tensors, got list" in refused(path, store)


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    """A file's worth of the smallest published network."""
    return seeded_state(layout("retinaface_mobile"))


@pytest.mark.parametrize("harm", ["shape", "nan", "cut", "other body"])
def test_a_file_that_does_not_fit_is_refused_with_one_line(
    harm: str, small_state: dict[str, torch.Tensor], tmp_path: Path, store: WeightStore
) -> None:
    path, state = tmp_path / "small.pth", dict(small_state)
    first = next(iter(state))
    entry = find_model("retinaface" if harm == "other body" else "retinaface_mobile")
    if harm == "shape":
        state[first] = torch.zeros(1, 2, 3)
    if harm == "nan":
        state[first] = state[first] * float("nan")
    torch.save(state, path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    told = {
        "shape": rf"{first} has shape \(1, 2, 3\), expected \(8, 3, 3, 3\)",
        "nan": f"{first} holds NaN or infinity",
        "cut": "is no weight file that can be opened safely",
        "other body": "is missing; is the file of another network or variant",
    }
    with pytest.raises(WeightsError, match=rf"small\.pth: .*{told[harm]}") as caught:
        convert_weights(path, entry, store, accepts_licence=False)
    assert "\n" not in str(caught.value)
    assert store.receipt(entry.name) is None


def test_every_model_has_a_layout_and_every_layout_a_model() -> None:
    assert LAYOUTS.keys() | MESHES.keys() == MODELS.keys()
    assert not LAYOUTS.keys() & MESHES.keys()
    counts = {name: sum(p.numel() for p in layout(name).parameters()) for name in ("codeformer", "retinaface_mobile")}
    assert counts == {"codeformer": 94_112_707, "retinaface_mobile": 426_608}


def test_an_acceptance_is_remembered_until_the_licence_s_words_change(store: WeightStore) -> None:
    assert not store.has_accepted(ENTRY)
    store.accept(ENTRY)
    assert WeightStore(store.folder).has_accepted(ENTRY)
    assert not store.has_accepted(replace(ENTRY, licence="other words"))
    assert not store.has_accepted(find_model("codeformer_inpainting"))


def test_the_child_cannot_reach_out(tmp_path: Path) -> None:
    script = (
        "import sys, os, socket, pathlib; from vidrestore.restoration.convert import shut_the_door;"
        f"shut_the_door(pathlib.Path({str(tmp_path / 'target')!r})); {{}}"
    )
    import subprocess
    import sys

    def status(action: str) -> int:
        return subprocess.run([sys.executable, "-c", script.format(action)], check=False).returncode

    assert status(f"open({str(tmp_path / 'target')!r}, 'w').close()") == 0
    assert status(f"open({str(tmp_path / 'other')!r}, 'w')") == 13
    assert status("socket.create_connection(('127.0.0.1', 9))") == 13
    assert status("os.system('true')") == 13


def test_a_network_without_its_weights_says_how_to_get_them(store: WeightStore) -> None:
    with pytest.raises(
        WeightsError, match=r"models pull codeformer, or get codeformer\.pth from https.* models convert codeformer"
    ):
        load_restorer(RestoreOptions(network="codeformer", device="cpu"), store.folder)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds seeded weights, converted from a file laid out as the official one."""
    folder = tmp_path_factory.mktemp("models")
    with torch.device("meta"):
        network = CodeFormer(RESTORATION.dims)
    path = folder / "codeformer.pth"
    torch.save({"params_ema": seeded_state(network)}, path)
    receipt = convert_weights(path, ENTRY, WeightStore(folder / "store"), accepts_licence=True)
    assert receipt.source_file == "codeformer.pth"
    path.unlink()
    return folder / "store"


@pytest.mark.slow
def test_converted_weights_restore_a_face_and_w_matters(converted: Path) -> None:
    images = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for w in (0.0, 1.0):
        restorer = load_restorer(RestoreOptions(network="codeformer", device="cpu", w=w), converted)
        with torch.inference_mode():
            results.append(restorer.restore(images))
    assert all(torch.isfinite(r).all() and r.abs().max() <= 1 for r in results)
    assert (results[0] - results[1]).abs().mean() > 1e-3


@pytest.mark.slow
def test_a_changed_file_is_noticed(converted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = WeightStore(converted)
    store.verify("codeformer")
    with store.path("codeformer").open("r+b") as file:
        file.seek(10**6)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(WeightsError, match="has changed since it was converted"):
        store.verify("codeformer")


def test_models_are_listed_with_their_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert cli.main(["models", "list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert ("codeformer", False, False) in [(m["name"], m["is_here"], m["allows_commercial_use"]) for m in listed]
    assert cli.main(["models", "list"]) == 0
    assert "non-commercial" in capfd.readouterr().out
    assert cli.main(["models", "card", "codeformer"]) == 0
    assert "S-Lab License 1.0" in capfd.readouterr().out
    assert cli.main(["models", "card", "codeforma"]) == 1
    assert "did you mean 'codeformer'" in capfd.readouterr().err
