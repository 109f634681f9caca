"""Makes the golden files of the published networks; the tests run the same cases and compare.

    python tests/golden/make_golden_networks.py                     the outputs: networks.npz
    python tests/golden/make_golden_networks.py --reference FOLDER  the key lists too: keys_*.json

The key lists are facts about the published files: {parameter or buffer name: shape}. FOLDER holds them in long form,
as ``NAME.keys.json`` with a list ``entries`` of {key, shape}. The outputs are our own: seeded weights and seeded
input give the same numbers everywhere, up to the rounding of float32.
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

from vidrestore.detect.retinaface import MOBILENET, RESNET50, RetinaFace, RetinaFaceDims
from vidrestore.restoration.codeformer import COLORIZATION, INPAINTING, RESTORATION, CodeFormer, CodeFormerDims
from vidrestore.restoration.parsenet import ParseNet, ParseNetDims
from vidrestore.restoration.seeded import fill_seeded, seeded_values
from vidrestore.restoration.vqgan import DiscriminatorDims, PatchDiscriminator, VQAutoencoder, VqganDims

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4  # of float32, as a share of the spread of the expected values

# All parts of the published layout at a size that a test can afford: three levels, attention on 16 pixels, 256 codes.
SMALL_VQGAN = VqganDims(image_size=64, base_channels=32, multipliers=(1, 2, 2), codebook_size=128, code_channels=32)
SMALL_CODEFORMER = CodeFormerDims(SMALL_VQGAN, width=64, num_heads=4, num_layers=3, fusion_sizes=(32, 64))
SMALL_DISCRIMINATOR = DiscriminatorDims(channels=8, num_layers=2)
SMALL_PARSENET = ParseNetDims(base_channels=16, max_channels=32, halvings=2, body_blocks=2)

PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "codeformer": lambda: CodeFormer(RESTORATION.dims),
    "codeformer_colorization": lambda: CodeFormer(COLORIZATION.dims),
    "codeformer_inpainting": lambda: CodeFormer(INPAINTING.dims),
    "vqautoencoder": VQAutoencoder,
    "vqgan_discriminator": PatchDiscriminator,
    "parsenet": ParseNet,
    "retinaface_resnet50": lambda: RetinaFace(RESNET50),
    "retinaface_mobile0.25": lambda: RetinaFace(MOBILENET),
}
"""Networks at their published size, by the name of their key list."""

_M = TypeVar("_M", bound=nn.Module)
Arrays = dict[str, Tensor]


def seeded(make: Callable[[], _M], *, seed: int = 0) -> _M:
    """A network with seeded weights, for evaluation."""
    with torch.device("meta"):
        network = make()
    return fill_seeded(network, seed=seed).eval()


def picture(*shape: int) -> Tensor:
    """Squares of seeded colours in [-1, 1], an eighth of the side each, under some seeded noise."""
    patches = torch.from_numpy(seeded_values("patches", (*shape[:2], 8, 8)))
    coarse = functional.interpolate(patches, size=shape[2:], mode="nearest")
    return 0.75 * coarse + 0.25 * torch.from_numpy(seeded_values("picture", shape))


def run_vqgan() -> Arrays:
    reconstruction = seeded(lambda: VQAutoencoder(SMALL_VQGAN))(picture(1, 3, 64, 64))
    quantised = reconstruction.quantised
    return {
        "codes": quantised.codes,
        "image": reconstruction.image[..., ::4, ::4],
        "scalars": torch.stack([quantised.loss, quantised.perplexity]),
    }


def run_discriminator() -> Arrays:
    return {"scores": seeded(lambda: PatchDiscriminator(SMALL_DISCRIMINATOR))(picture(2, 3, 48, 48))}


def run_codeformer() -> Arrays:
    network = seeded(lambda: CodeFormer(SMALL_CODEFORMER))
    latent, skips = network.encode(picture(1, 3, 64, 64))
    codes = network.predict_codes(latent)
    images = {f"image_w{w}": network.decode(codes, skips, w, latent=latent)[..., ::4, ::4] for w in (0.0, 0.5, 1.0)}
    plain = network.decode(codes, skips, 1.0)[..., ::4, ::4]
    logits = network.predict_logits(latent)[:, ::16, ::8]
    return {"latent": latent[..., ::4, ::4], "logits": logits, "codes": codes, **images, "image_no_adain": plain}


def run_codeformer_full() -> Arrays:
    """The published size, about 15 s on one core."""
    network = seeded(CodeFormer)
    latent, skips = network.encode(picture(1, 3, 512, 512))
    codes = network.predict_codes(latent)
    image = network.decode(codes, skips, 0.5, latent=latent)
    return {"latent": latent[:, ::8, ::4, ::4], "codes": codes, "image": image[..., ::16, ::16]}


def run_parsenet() -> Arrays:
    logits, image = seeded(lambda: ParseNet(SMALL_PARSENET))(picture(1, 3, 32, 32))
    return {"logits": logits[..., ::4, ::4], "image": image[..., ::4, ::4]}


def run_retinaface(dims: RetinaFaceDims) -> Arrays:
    logits, boxes, landmarks = seeded(lambda: RetinaFace(dims))(100.0 * picture(1, 3, 64, 80))
    return {"logits": logits, "boxes": boxes, "landmarks": landmarks}


CASES: dict[str, Callable[[], Arrays]] = {
    "vqgan": run_vqgan,
    "discriminator": run_discriminator,
    "codeformer": run_codeformer,
    "codeformer_full": run_codeformer_full,
    "parsenet": run_parsenet,
    "retinaface_resnet50": lambda: run_retinaface(RESNET50),
    "retinaface_mobile0.25": lambda: run_retinaface(MOBILENET),
}
"""What is written down, by name."""


def run(case: str) -> dict[str, np.ndarray]:
    """The outputs of a case, computed now."""
    with torch.no_grad():
        return {name: value.numpy() for name, value in CASES[case]().items()}


def check(case: str) -> None:
    """Compares a case with its golden outputs; a failure shows how the differences are spread."""
    with np.load(FOLDER / "networks.npz") as golden:
        expected = {key.split("/")[1]: golden[key] for key in golden.files if key.split("/")[0] == case}
    got = run(case)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        if value.dtype.kind == "i":
            wrong = np.flatnonzero(value != got[name])
            assert wrong.size == 0, f"{case}/{name}: {wrong.size} of {value.size} differ, first at {wrong[:5]}"
        else:
            assert got[name].shape == value.shape
            difference = np.abs(got[name] - value) / value.std()
            assert difference.max() <= TOLERANCE, f"{case}/{name}:\n{histogram(difference)}"


def histogram(difference: np.ndarray) -> str:
    """How many differences lie in each power of ten."""
    powers, counts = np.unique(np.floor(np.log10(np.maximum(difference, 1e-12))).astype(int), return_counts=True)
    return "\n".join(f"{count:8d} below 1e{power + 1}" for power, count in zip(powers, counts, strict=True))


def published_keys(name: str) -> dict[str, list[int]]:
    """{key: shape} of a published file."""
    keys: dict[str, list[int]] = json.loads((FOLDER / f"keys_{name}.json").read_text("utf-8"))
    return keys


def check_keys(name: str) -> None:
    """Compares all parameters and buffers of a network with the published list, on no memory at all."""
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in PUBLISHED[name]().state_dict().items()}
    expected = published_keys(name)
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
    arrays = {key: value.astype(np.int16) if value.dtype.kind == "i" else value for key, value in arrays.items()}
    np.savez_compressed(FOLDER / "networks.npz", **arrays)


if __name__ == "__main__":
    main()
