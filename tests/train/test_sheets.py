"""Sheets of samples: every picture is where its column and row say, and the file holds the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vidrestore.train.sheets import lay_sheet, write_sheet


def test_each_picture_stands_in_its_place() -> None:
    values = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 3.0]).view(3, 2, 1, 1, 1).expand(3, 2, 3, 16, 16)
    sheet = lay_sheet({"light": values[0], "restored": values[1], "clean": values[2]})
    assert sheet.shape == (24 + 2 * 20, 3 * 20 - 4, 3)
    middles = [[int(sheet[24 + row * 20 + 8, column * 20 + 8, 0]) for column in range(3)] for row in range(2)]
    assert middles == [[0, 128, 255], [64, 191, 255]]


def test_large_pictures_are_shrunk() -> None:
    assert lay_sheet({"clean": torch.zeros(1, 3, 512, 512)}).shape == (24 + 260, 256, 3)


def test_columns_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="columns of one shape"):
        lay_sheet({"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(2, 3, 8, 8)})


def test_the_file_holds_the_sheet(tmp_path: Path) -> None:
    sheet = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    write_sheet(tmp_path / "sheets" / "0000001.png", sheet)
    assert (cv2.imread(str(tmp_path / "sheets" / "0000001.png"))[..., ::-1] == sheet).all()
    assert [p.name for p in (tmp_path / "sheets").iterdir()] == ["0000001.png"]
