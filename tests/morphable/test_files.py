"""Models on disk."""

from __future__ import annotations

import runpy
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from vidrestore.errors import WeightsError
from vidrestore.morphable import files
from vidrestore.morphable.files import load_vr468, read_bfm, read_metadata, read_model, save_model
from vidrestore.morphable.mat import STORED, read_mat
from vidrestore.morphable.synthetic import synthetic_model

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = runpy.run_path(str(FOLDER / "make_golden_d3dfr.py"))
TINY = FOLDER / "bfm_tiny.mat"


def test_a_model_comes_back(tmp_path: Path) -> None:
    model, path = synthetic_model(4, 5), tmp_path / "egg.safetensors"
    save_model(model, path, {"name": "egg", "licence": "Apache-2.0"}, half=False)
    for (name, values), (other, read) in zip(
        model.state_dict().items(), read_model(path).state_dict().items(), strict=True
    ):
        assert name == other
        assert values.dtype == read.dtype
        assert torch.equal(values, read), name
    assert read_metadata(path) == {"format": files.FORMAT, "name": "egg", "licence": "Apache-2.0"}


def test_half_precision_halves_the_file_and_hardly_moves_a_vertex(tmp_path: Path) -> None:
    model = synthetic_model(12, 12)
    sizes, faces = [], []
    coefficients = torch.randn(2, 257, generator=torch.Generator().manual_seed(0))
    for half in (False, True):
        path = tmp_path / f"{half}.safetensors"
        save_model(model, path, {}, half=half)
        sizes.append(path.stat().st_size)
        faces.append(read_model(path)(coefficients))
    assert sizes[1] < 0.55 * sizes[0]
    torch.testing.assert_close(faces[0].vertices, faces[1].vertices, atol=1e-4, rtol=0)  # 0.01 mm, in decimetres
    torch.testing.assert_close(faces[0].colours, faces[1].colours, atol=0.5, rtol=0)  # half a level


def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = synthetic_model(3, 3)
    model.texture_basis[0, 0] = 1e6
    with pytest.raises(WeightsError, match="texture_basis holds values that are not finite in float16"):
        save_model(model, tmp_path / "x.safetensors", {})
    assert not (tmp_path / "x.safetensors").exists()


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match="no readable safetensors"):
        read_model(path)
    path.write_bytes(b"\x05\0\0\0\0\0\0\0hello")
    with pytest.raises(WeightsError, match="no readable safetensors"):
        read_model(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="is no morphable model, its format is None"):
        read_model(path)
    save_model(synthetic_model(3, 3), path, {})
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "landmarks"}, path, {"format": files.FORMAT})
    with pytest.raises(WeightsError, match=r"lacks \['landmarks'\]"):
        read_model(path)
    save_file(tensors | {"landmarks": tensors["landmarks"] + 900}, path, {"format": files.FORMAT})
    with pytest.raises(WeightsError, match="landmarks must be indices of 0 to 8"):
        read_model(path)


def test_the_package_s_model_is_read_from_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"vr468\.safetensors is not in this installation"):
        load_vr468()
    save_model(synthetic_model(26, 18), tmp_path / "vr468.safetensors", {"name": "stand-in"})
    assert load_vr468().num_vertices == 468


def test_a_converted_basel_model_is_read() -> None:
    """A file that scipy wrote; the numbers in it tell where each belongs."""
    model = read_bfm(TINY)
    cube = torch.tensor([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    torch.testing.assert_close(model.mean_shape, cube)  # its mean, 3, is gone
    assert model.identity_basis[5, 7] == 5 * 80 + 7
    assert model.expression_basis[23, 63] == 10_000 + 23 * 64 + 63
    assert model.texture_basis[2, 79] == 20_000 + 2 * 80 + 79
    assert model.mean_texture[7].tolist() == [21.0, 22.0, 23.0]
    assert model.triangles[:3].tolist() == [[0, 1, 3], [0, 3, 2], [4, 7, 5]]
    assert model.landmarks[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert model.skin is not None
    assert model.skin.tolist() == [False, True] * 4
    assert model.incident.shape == (8, 8)
    assert model.incident.max() == 10  # stands for no triangle
    ours = files.MorphableModel(**{k: v for k, v in model.state_dict().items() if k != "incident"})
    torch.testing.assert_close(model.normals(model.mean_shape[None]), ours.normals(model.mean_shape[None]))


def test_every_array_that_scipy_wrote_is_read_as_it_was() -> None:
    arrays = read_mat(TINY)
    expected: dict[str, NDArray[np.generic]] = GOLDEN["bfm_arrays"]()
    assert arrays.keys() == expected.keys()  # neither the text nor the cell beside them
    for name, values in expected.items():
        assert arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(arrays[name], values)


def element(order: str, kind: int, body: bytes) -> bytes:
    """An element of a MATLAB file, in its small form where that is possible."""
    if 0 < len(body) <= 4:
        return struct.pack(order + "I", len(body) << 16 | kind) + body.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(order: str, name: str, values: NDArray[np.generic], stored: int, array_class: int) -> bytes:
    """A numeric array as the format's description lays it out."""
    body = element(order, 6, struct.pack(order + "II", array_class, 0))
    body += element(order, 5, struct.pack(f"{order}{values.ndim}i", *values.shape))
    body += element(order, 1, name.encode())
    body += element(order, stored, values.astype(np.dtype(order + STORED[stored])).tobytes(order="F"))
    return struct.pack(order + "II", 14, len(body)) + body


def header(order: str) -> bytes:
    return (
        b"MATLAB 5.0 MAT-file, a test".ljust(124)
        + struct.pack(order + "H", 0x0100)
        + (b"IM" if order == "<" else b"MI")
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("stored", "array_class"), [(9, 6), (2, 6), (7, 7), (4, 11), (3, 12), (12, 14)])
def test_numbers_of_every_type_and_both_byte_orders_are_read(
    tmp_path: Path, order: str, stored: int, array_class: int
) -> None:
    values = np.arange(12).reshape(3, 4)
    one = matrix(order, "a", values, stored, array_class)
    packed = zlib.compress(matrix(order, "longer_name", values.T[:1, :2], stored, array_class))
    path = tmp_path / "x.mat"
    path.write_bytes(header(order) + one + struct.pack(order + "II", 15, len(packed)) + packed)
    arrays = read_mat(path)
    np.testing.assert_array_equal(arrays["a"], values)
    np.testing.assert_array_equal(arrays["longer_name"], values.T[:1, :2])


def test_a_basel_file_that_lacks_something_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(header("<") + matrix("<", "meanshape", np.zeros((1, 9)), 9, 6))
    with pytest.raises(WeightsError, match="lacks the arrays exBase, idBase, keypoints"):
        read_bfm(path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("keypoints", np.full((1, 68), 9), "landmarks must be indices of 0 to 7"),
        ("tri", np.full((10, 3), 1.5), "tri holds numbers that are no indices"),
        ("meanshape", np.zeros((1, 25)), "meanshape has 25 numbers"),
        ("idBase", np.zeros((24, 79)), r"identity_basis must be \(24, 80\)"),
        ("skinmask", np.zeros((1, 7)), r"skin must be \(8,\)"),
    ],
)
def test_a_basel_file_that_does_not_fit_is_named(
    tmp_path: Path, name: str, values: NDArray[np.generic], message: str
) -> None:
    arrays = GOLDEN["bfm_arrays"]() | {name: values}
    path = tmp_path / "x.mat"
    path.write_bytes(header("<") + b"".join(matrix("<", key, value, 9, 6) for key, value in arrays.items()))
    with pytest.raises(WeightsError, match=message):
        read_bfm(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no MATLAB file"),
        (b"\x80\x04pickle".ljust(200), "no MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(200), "save it again with -v7"),
        (header("<") + struct.pack("<II", 14, 1 << 30), "an element of 1073741824 bytes"),
        (header("<") + struct.pack("<I", 5 << 16 | 1) + b"12345", "does not fit"),
        (header("<") + struct.pack("<II", 15, 8) + b"no zlib!", "is damaged"),
        (header("<") + struct.pack("<II", 15, 9) + zlib.compress(bytes(5000))[:9], "cut short"),
        (header("<") + b"\0\0\0", "is damaged"),
        (header("<") + matrix("<", "a", np.zeros((2, 2)), 9, 6)[:-8], "does not fit"),
        (header("<") + matrix("<", "a", np.zeros(4), 9, 6), "its shape is"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_mat(path)


def test_every_cut_of_a_file_is_an_error_or_fewer_arrays(tmp_path: Path) -> None:
    data, path = TINY.read_bytes(), tmp_path / "cut.mat"
    whole = read_mat(TINY)
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        try:
            arrays = read_mat(path)
        except WeightsError:
            continue
        assert arrays.keys() < whole.keys()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.mat: cannot be read"):
        read_mat(tmp_path / "nothing.mat")
