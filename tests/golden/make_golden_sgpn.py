"""Makes the golden files of SGPN; the tests run the same cases and compare.

    python tests/golden/make_golden_sgpn.py                     the outputs: sgpn.npz
    python tests/golden/make_golden_sgpn.py --reference FOLDER  the key lists too: keys_sgpn*.json

As ``make_golden_networks.py``: the key lists are facts about the published file, the outputs are our own, from seeded
weights and seeded input.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.restoration.seeded import fill_seeded, seeded_values
from vidrestore.restoration.sgpn import Sgpn, SgpnDims, SgpnDiscriminator

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4  # of float32, as a share of the spread of the expected values
SMALL = SgpnDims(size=32, max_channels=32, area_channels=512, latent=16, style=32)

PUBLISHED: dict[str, Callable[[], nn.Module]] = {"sgpn": Sgpn, "sgpn_discriminator": SgpnDiscriminator}
"""Networks at their published size, by the name of their key list."""

_M = TypeVar("_M", bound=nn.Module)
Arrays = dict[str, Tensor]


def seeded(make: Callable[[], _M]) -> _M:
    """A network with seeded weights, for evaluation."""
    with torch.device("meta"):
        network = make()
    return fill_seeded(network).eval()


def picture(name: str, *shape: int) -> Tensor:
    """Squares of seeded colours in [-1, 1], an eighth of the side each, under some seeded noise."""
    patches = torch.from_numpy(seeded_values(f"{name} patches", (*shape[:2], 8, 8)))
    coarse = functional.interpolate(patches, size=shape[2:], mode="nearest")
    return 0.75 * coarse + 0.25 * torch.from_numpy(seeded_values(name, shape))


def inputs(batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Degraded and rendered pictures and coefficients."""
    coefficients = torch.from_numpy(seeded_values("coefficients", (batch, 257)))
    return picture("degraded", batch, 3, size, size), picture("rendered", batch, 3, size, size), coefficients


def run_network(dims: SgpnDims, step: int) -> Arrays:
    network = seeded(lambda: Sgpn(dims))
    degraded, rendered, coefficients = inputs(2 if dims.size <= 64 else 1, dims.size)
    seen, drawn = network.encode(degraded), network.encode(rendered)
    masks: list[Tensor] = []
    image = network.decode(seen, drawn, coefficients, masks)
    return {
        "latent": seen.latent,
        "style": network.netG.map(seen, drawn, coefficients),
        "mask": masks[-1][:, ::8, ::step, ::step],
        "image": image[..., ::step, ::step],
    }


def run_discriminator() -> Arrays:
    return {"scores": seeded(lambda: SgpnDiscriminator(SMALL))(picture("images", 4, 3, 32, 32))}


CASES: dict[str, Callable[[], Arrays]] = {
    "sgpn": lambda: run_network(SMALL, 2),
    "sgpn_full": lambda: run_network(SgpnDims(), 16),
    "discriminator": run_discriminator,
}
"""What is written down, by name."""


def run(case: str) -> dict[str, np.ndarray]:
    """The outputs of a case, computed now."""
    with torch.no_grad():
        return {name: value.numpy() for name, value in CASES[case]().items()}


def check(case: str) -> None:
    """Compares a case with its golden outputs; a failure shows how the differences are spread."""
    with np.load(FOLDER / "sgpn.npz") as golden:
        expected = {key.split("/")[1]: golden[key] for key in golden.files if key.split("/")[0] == case}
    got = run(case)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape
        difference = np.abs(got[name] - value) / value.std()
        powers, counts = np.unique(np.ceil(np.log10(np.maximum(difference, 1e-12))).astype(int), return_counts=True)
        spread = ", ".join(f"{n} below 1e{p}" for p, n in zip(powers, counts, strict=True))
        assert difference.max() <= TOLERANCE, f"{case}/{name}: {spread}"


def check_keys(name: str) -> None:
    """Compares all parameters and buffers of a network with the published list, on no memory at all."""
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in PUBLISHED[name]().state_dict().items()}
    expected: dict[str, list[int]] = json.loads((FOLDER / f"keys_{name}.json").read_text("utf-8"))
    assert own.keys() == expected.keys(), sorted(own.keys() ^ expected.keys())[:10]
    wrong = {key: (own[key], shape) for key, shape in expected.items() if own[key] != shape}
    assert not wrong, wrong


def write_keys(reference: Path) -> None:
    """One line per key, so that a change is readable."""
    for name in PUBLISHED:
        entries = json.loads((reference / f"{name}.keys.json").read_text("utf-8"))["entries"]
        lines = ",\n".join(f"{json.dumps(entry['key'])}: {json.dumps(entry['shape'])}" for entry in entries)
        (FOLDER / f"keys_{name}.json").write_text(f"{{\n{lines}\n}}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="folder of the long key lists")
    folder = parser.parse_args().reference
    if folder is not None:
        write_keys(folder)
    arrays = {f"{case}/{name}": value for case in CASES for name, value in run(case).items()}
    np.savez_compressed(FOLDER / "sgpn.npz", **arrays)


if __name__ == "__main__":
    main()
