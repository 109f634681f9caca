"""The published generator in torch, against OpenVINO; its parts against their definitions."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.restoration.mobilestyle import GeneratorDims, StyleGenerator, inverse_haar
from vidrestore.train.faces import find_generator, latent_of
from vidrestore.train.generator import load_generator, load_mapping, read_constants

needs_generator = pytest.mark.skipif(
    importlib.util.find_spec("random_face") is None or importlib.util.find_spec("openvino") is None,
    reason="wants random-face and openvino",
)


def test_the_inverse_haar_transform_undoes_the_forward_one() -> None:
    picture = torch.randn(2, 3, 8, 6)
    tl, tr, bl, br = picture[..., ::2, ::2], picture[..., ::2, 1::2], picture[..., 1::2, ::2], picture[..., 1::2, 1::2]
    low, along_y = (tl + tr + bl + br) / 2, (tl + tr - bl - br) / 2
    along_x, both = (tl - tr + bl - br) / 2, (tl - tr - bl + br) / 2
    bands = torch.cat([low, torch.stack([along_y, along_x, both], 2).flatten(1, 2)], 1)
    torch.testing.assert_close(inverse_haar(bands), picture)


def test_a_style_for_each_level_is_the_same_as_one_for_all() -> None:
    torch.manual_seed(0)
    network = StyleGenerator(GeneratorDims(style=8, base=16, channels=(16, 8))).eval()
    style = torch.randn(2, 8)
    with torch.inference_mode():
        one, each = network(style), network(style[:, None].repeat(1, 3, 1))
    assert one.shape == (2, 3, 32, 32)
    assert torch.equal(one, each)


def test_a_network_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        '<net><layers><layer id="0" name="x" type="Const"><data element_type="f32" shape="4" offset="0" size="16"/>'
        "</layer></layers></net>"
    )
    (tmp_path / "a.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    [(name, value)] = read_constants(tmp_path / "a.xml")
    assert name == "x"
    assert value.tolist() == [0, 1, 2, 3]
    (tmp_path / "a.bin").write_bytes(b"\0" * 15)
    with pytest.raises(WeightsError, match=r"a\.bin: is cut short: 15 bytes, 16 expected"):
        read_constants(tmp_path / "a.xml")


def test_a_foreign_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SynthesisNetwork.xml").write_text("<net><layers/></net>")
    (tmp_path / "SynthesisNetwork.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="is not the synthesis network that is expected"):
        load_generator(tmp_path)


@needs_generator
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_equals_openvino_in_float32() -> None:
    import openvino

    folder, core = find_generator(), openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    z, _ = latent_of(5)
    theirs = core.compile_model(str(folder / "MappingNetwork.xml"), "CPU", options)(z)[0]
    with torch.inference_mode():
        w = load_mapping()(torch.from_numpy(z))
        assert np.abs(w.numpy() - theirs).max() < 1e-4
        picture = load_generator()(w)[0].numpy()
    theirs = core.compile_model(str(folder / "SynthesisNetwork.xml"), "CPU", options)(w.numpy())[0][0]
    assert picture.shape == (3, 1024, 1024)
    assert np.abs(picture - theirs).max() < 1e-4
