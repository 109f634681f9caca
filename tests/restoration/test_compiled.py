from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidrestore.cli import ExitStatus, main
from vidrestore.config import load_config
from vidrestore.errors import ConfigError, DeviceError
from vidrestore.restoration import compiled as module
from vidrestore.restoration.compiled import CompiledNetwork, missing_compiler
from vidrestore.restoration.restorer import CompactRestorer, load_restorer

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "clip.mp4"


class Recorder:
    """Stands for ``torch.compile``: notes every shape that its network meets."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            self.shapes.append(tuple(images.shape))
            return network(images)

        return run


@pytest.mark.parametrize(
    ("count", "passes"), [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (16, [16]), (21, [16, 8]), (64, [16] * 4)]
)
def test_batches_are_filled_up_to_few_sizes(count: int, passes: list[int]) -> None:
    recorder = Recorder()
    network = CompiledNetwork(lambda images: 2.0 * images, CPU, compiler=recorder)
    images = torch.arange(count * 3 * 4, dtype=torch.float32).reshape(count, 3, 2, 2)
    torch.testing.assert_close(network(images), 2.0 * images, rtol=0.0, atol=0.0)
    assert recorder.shapes == [(size, 3, 2, 2) for size in passes]


def test_all_counts_of_a_run_meet_five_shapes_at_most() -> None:
    recorder = Recorder()
    network = CompiledNetwork(lambda images: images, CPU, compiler=recorder)
    for count in range(1, 65):
        network(torch.zeros(count, 3, 2, 2))
    assert len(set(recorder.shapes)) == 5


def test_no_faces_run_nothing() -> None:
    recorder = Recorder()
    assert CompiledNetwork(lambda images: images, CPU, compiler=recorder)(torch.zeros(0, 3, 2, 2)).shape == (0, 3, 2, 2)
    assert recorder.shapes == []


def test_a_network_that_cannot_be_compiled_is_an_error() -> None:
    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("no header\nand more lines")

    network = CompiledNetwork(broken, CPU, compiler=lambda run: run)
    with pytest.raises(DeviceError, match=r"could not be compiled: RuntimeError: no header; set restore.compile"):
        network(torch.zeros(1, 3, 2, 2))


def test_what_fails_after_it_was_compiled_comes_out_as_it_is() -> None:
    calls = 0

    def fails_later(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("later")
        return images

    network = CompiledNetwork(fails_later, CPU, compiler=lambda run: run)
    network(torch.zeros(1, 3, 2, 2))
    with pytest.raises(RuntimeError, match=r"^later$"):
        network(torch.zeros(1, 3, 2, 2))


def test_memory_that_ran_out_is_told_as_such() -> None:
    def full(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        CompiledNetwork(full, CPU, compiler=lambda run: run)(torch.zeros(1, 3, 2, 2))


def test_without_a_compiler_the_run_ends_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    output = tmp_path / "out.mp4"
    command = ["restore", str(EXAMPLE), "-o", str(output), "--set", "restore.compile=on", "--device", "cpu", "--json"]
    assert main(command) == ExitStatus.RESOURCE
    told = json.loads(capsys.readouterr().out)
    assert "wants a C++ compiler (" in told["error"]
    assert "restore.compile = 'off'" in told["error"]
    assert not output.exists()


def test_a_gpu_wants_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert missing_compiler(torch.device("cuda")) == "the package triton"


def test_other_networks_refuse_it() -> None:
    options = load_config(overrides={"restore": {"compile": "on", "network": "codeformer", "device": "cpu"}}).restore
    with pytest.raises(ConfigError, match="for the network compact, not for codeformer"):
        load_restorer(options)


def test_compact_gives_the_same_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compile", Recorder())
    monkeypatch.setattr(module, "missing_compiler", lambda device: None)
    options = load_config(overrides={"restore": {"compile": "on", "device": "cpu"}}).restore
    images = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = CompactRestorer(CPU, torch.float32).restore(images)
        torch.testing.assert_close(load_restorer(options).restore(images), expected, rtol=0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch has deprecated
def test_torch_compiles_a_small_network() -> None:
    missing = missing_compiler(CPU)
    if missing is not None:
        pytest.skip(f"{missing} is not there")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    network = CompiledNetwork(plain, CPU)
    with torch.inference_mode():
        for count in (1, 3):
            images = torch.rand(count, 3, 16, 16)
            torch.testing.assert_close(network(images), plain(images), rtol=0.0, atol=1e-5)
