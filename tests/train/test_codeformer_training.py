"""CodeFormer's stages on a tiny network: each learns, image losses go where they should, runs resume exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.codeformer import CodeFormer
from vidrestore.restoration.vqgan import VQAutoencoder
from vidrestore.train.codeformer import (
    AutoencoderTraining,
    CodesTraining,
    CodeUse,
    JointTraining,
    load_config,
    load_network,
    load_weights,
    make_training,
    psnr,
    train,
)
from vidrestore.train.codeformer_data import CodeFaces, as_pictures
from vidrestore.train.codeformer_options import CodeFormerConfig, Part
from vidrestore.train.data import FaceCache, list_images
from vidrestore.train.run import Clock, rng_at, shipped_config

Make = Callable[..., CodeFormerConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of coarse coloured blobs."""
    folder = tmp_path_factory.mktemp("faces")
    for i in range(10):
        coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:05d}.png"), cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def smoke(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The shipped smoke configuration with settings over it."""
    cache = tmp_path_factory.mktemp("cache") / "faces.npy"

    def make(*settings: str) -> CodeFormerConfig:
        data = [f"data.faces={folder}", f"data.cache={cache}"]
        return load_config(shipped_config("codeformer_smoke"), [*data, *settings])

    return make


@pytest.fixture(scope="module")
def first_stage(smoke: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder that was trained for long enough to tell the blobs apart."""
    folder = tmp_path_factory.mktemp("stage1")
    config = smoke("run.max_steps=100", "revive_every=20", "loss.adversarial=0.0", "optimiser.learning_rate=4e-3")
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def second_stage(smoke: Make, first_stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage2")
    train(smoke("stage=codes", start(first_stage), "run.max_steps=80", "run.log_every=8"), folder)
    return folder


def start(folder: Path) -> str:
    return f"start.autoencoder={folder / 'autoencoder.safetensors'}"


def joint(first_stage: Path, second_stage: Path) -> list[str]:
    codes = f"start.codeformer={second_stage / 'codeformer.safetensors'}"
    return [
        "stage=joint",
        start(first_stage),
        codes,
        f"start.discriminator={first_stage / 'discriminator.safetensors'}",
    ]


def lines(folder: Path, key: str) -> list[float]:
    text = (folder / "log.jsonl").read_text("utf-8")
    return [line[key] for line in map(json.loads, text.splitlines()) if key in line]


def parameters(folder: Path) -> list[torch.Tensor]:
    raw = torch.load(folder / "checkpoint.pt", weights_only=True)
    parts = ("network", "average", "discriminator")
    return [value for part in parts if part in raw for value in raw[part].values()]


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """Top-level parts whose parameters differ."""
    pairs = zip(before.named_parameters(), after.named_parameters(), strict=True)
    return {name.split(".")[0] for (name, a), (_, b) in pairs if not torch.equal(a, b)}


def test_stage_one_learns_to_repeat_pictures(first_stage: Path) -> None:
    pixel = lines(first_stage, "pixel")
    assert np.mean(pixel[-5:]) < 0.6 * np.mean(pixel[:2])
    assert lines(first_stage, "codes_used")[-1] >= 6
    load_weights(VQAutoencoder(make_dims()), first_stage / "autoencoder.safetensors")
    assert (first_stage / "sheets" / "0000100.png").is_file()


def make_dims() -> object:
    return load_config(shipped_config("codeformer_smoke")).network.autoencoder


def test_stage_two_names_far_more_codes_than_chance(second_stage: Path, first_stage: Path, smoke: Make) -> None:
    """Chance is the share of the most frequent code, not one in sixteen: a network that always says it is no better."""
    accuracy = lines(second_stage, "accuracy_large")[-1]
    assert (second_stage / "sheets" / "0000080.png").is_file()
    training = CodesTraining(smoke("stage=codes", start(first_stage)))
    targets = training.targets(training.faces.validation.clean)
    most_frequent = float(torch.bincount(targets.flatten()).max()) / targets.numel()
    assert accuracy > 1.5 * most_frequent
    assert accuracy > 4 / 16
    losses = lines(second_stage, "cross_entropy")
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


def test_stage_two_begins_with_stage_one_and_keeps_its_codebook(
    smoke: Make, first_stage: Path, second_stage: Path
) -> None:
    config = smoke("stage=codes", start(first_stage))
    own, given = CodeFormer(config.network), VQAutoencoder(config.network.autoencoder)
    load_weights(own, second_stage / "codeformer.safetensors")
    load_weights(given, first_stage / "autoencoder.safetensors")
    for part in ("quantize", "generator"):
        pairs = zip(own.get_submodule(part).parameters(), given.get_submodule(part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert moved(own.encoder, given.encoder) == {"blocks"}


def test_targets_are_those_of_the_stage_one_network(smoke: Make, first_stage: Path) -> None:
    training = CodesTraining(smoke("stage=codes", start(first_stage)))
    teacher = VQAutoencoder(training.config.network.autoencoder)
    load_weights(teacher, first_stage / "autoencoder.safetensors")
    clean = training.faces.validation.clean
    with torch.no_grad():
        expected = teacher.quantize.nearest(teacher.encode(clean))
    assert torch.equal(training.targets(clean), expected)
    assert len(expected.unique()) > 3  # a random network would name one or two


def test_stage_three_learns_and_its_picture_changes_with_w(
    smoke: Make, first_stage: Path, second_stage: Path, tmp_path: Path
) -> None:
    settings = ["run.max_steps=60", "run.log_every=1", "loss.adversarial=0.1", "optimiser.learning_rate=5e-3"]
    config = smoke(*joint(first_stage, second_stage), *settings)
    train(config, tmp_path)
    pixel = lines(tmp_path, "pixel")
    assert np.mean(pixel[-10:]) < 0.9 * np.mean(pixel[:10])
    assert lines(tmp_path, "psnr_small_w1")[-1] > lines(tmp_path, "psnr_small_w0")[-1] + 0.3
    network = CodeFormer(config.network).eval()
    load_weights(network, tmp_path / "codeformer.safetensors")
    degraded = JointTraining(config).faces.validation.views["small"]
    with torch.inference_mode():
        zero, half, one = (network(degraded, w, adain=False) for w in (0.0, 0.5, 1.0))
    assert float((one - zero).abs().mean()) > float((half - zero).abs().mean()) > 1e-3
    assert psnr(one, degraded) > psnr(zero, degraded)  # closer to the input


@pytest.mark.parametrize(("reach", "expected"), [("fusion", set()), ("encoder", {"encoder"})])
def test_image_losses_reach_the_fusion_blocks_only(
    smoke: Make, first_stage: Path, second_stage: Path, reach: str, expected: set[str]
) -> None:
    settings = ["loss.feature=0.0", "loss.cross_entropy=0.0", f"image_loss_reach={reach}", "loss.adversarial_after=0"]
    training = JointTraining(smoke(*joint(first_stage, second_stage), *settings))
    before = CodeFormer(training.config.network)
    before.load_state_dict(training.network.state_dict())
    values = training.step(Clock(training.config.run))
    assert {"pixel", "adversarial", "critic"} <= values.keys()
    assert moved(before, training.network) == {"fuse_convs_dict"} | expected


def test_code_losses_reach_encoder_and_transformer_only(smoke: Make, first_stage: Path, second_stage: Path) -> None:
    settings = smoke(*joint(first_stage, second_stage))
    training = JointTraining(replace(settings, part=(Part(image_every=0),)))
    before = CodeFormer(training.config.network)
    before.load_state_dict(training.network.state_dict())
    assert "pixel" not in training.step(Clock(training.config.run))
    changed = moved(before, training.network)
    assert changed == {"encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}


@pytest.mark.parametrize("stage", ["autoencoder", "codes", "colorization", "joint", "inpainting"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    smoke: Make, first_stage: Path, second_stage: Path, tmp_path: Path, stage: str
) -> None:
    settings = ["run.max_steps=6", "loss.adversarial_after=2", "revive_every=2"]
    if stage != "autoencoder":
        settings += joint(first_stage, second_stage)[1 : 3 if stage == "joint" else 2]
    config = smoke(*settings, f"stage={stage}")
    train(config, tmp_path / "whole")
    asked = iter(range(10))
    assert train(config, tmp_path / "parts", stop=lambda: next(asked) == 3).steps == 3
    assert train(config, tmp_path / "parts").steps == 6
    pairs = list(zip(parameters(tmp_path / "whole"), parameters(tmp_path / "parts"), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)


def test_inpainting_sees_holes_and_colorization_colour_faults(smoke: Make, first_stage: Path) -> None:
    holes = make_training(smoke("stage=inpainting", start(first_stage))).faces.validation
    degraded = holes.views["holes"]
    is_hole = (degraded == 1.0).all(1, keepdim=True).expand_as(degraded)
    assert 0.0 < is_hole.float().mean() < 0.9
    assert torch.equal(degraded[~is_hole], holes.clean[~is_hole])
    colour = make_training(
        smoke(
            "stage=colorization",
            start(first_stage),
            "degradation.colour.grey_share=1.0",
            "degradation.colour.jitter_share=0",
        )
    )
    grey = colour.faces.validation.views["colour"]
    assert float((grey.amax(1) - grey.amin(1)).max()) == 0.0


def test_the_average_follows_named_parameters(smoke: Make) -> None:
    training = AutoencoderTraining(smoke("optimiser.ema=0.75"))
    before = [p.clone() for p in training.average.parameters()]
    training.step(Clock(training.config.run))
    triples = zip(before, training.network.parameters(), training.average.parameters(), strict=True)
    assert all(torch.allclose(mean, 0.75 * old + 0.25 * new, atol=1e-7) for old, new, mean in triples)


def test_samples_depend_on_their_number_alone_and_mirrors_agree(smoke: Make, folder: Path, tmp_path: Path) -> None:
    config = smoke()
    cache = FaceCache(list_images(folder), 16, tmp_path / "faces.npy")
    data = CodeFaces(cache, ("small", "large"), config.degradation, 3)
    assert torch.equal(data[17], CodeFaces(cache, ("small", "large"), config.degradation, 3)[17])
    mirrored = 0
    for i in range(40):
        sample = data[i]
        assert sample.shape == (3, 3, 16, 16)
        errors = [(sample[1].float() - clean.float()).abs().mean() for clean in (sample[0], sample[0].flip(-1))]
        assert errors[0] < errors[1]  # the views are mirrored with the clean face
        face = np.asarray(cache.pictures[rng_at(3, 1, i // len(cache)).permutation(len(cache))[i % len(cache)]])
        mirrored += not np.array_equal(sample[0].numpy().transpose(1, 2, 0), face)
    assert 10 <= mirrored <= 30


def test_pictures_are_floats_of_one_sample_each() -> None:
    samples = torch.randint(0, 256, (2, 3, 3, 4, 4), dtype=torch.uint8)
    clean, small, _ = as_pictures(samples, "cpu")
    assert clean.shape == (2, 3, 4, 4)
    assert torch.allclose((small + 1) * 127.5, samples[:, 1].float(), atol=1e-4)


def test_unused_entries_come_back_as_latents_of_the_batch() -> None:
    use, book = CodeUse(4), torch.zeros(4, 2)
    other = book.clone()
    use.note(torch.tensor([[0, 0, 2]]))
    latent = torch.arange(16.0).reshape(2, 2, 2, 2) + 1
    assert use.revive([book, other], latent, np.random.default_rng(0)) == 2
    vectors = {tuple(v) for v in latent.permute(0, 2, 3, 1).reshape(-1, 2).tolist()}
    assert {tuple(book[i].tolist()) for i in (1, 3)} <= vectors
    assert book[[0, 2]].abs().max() == 0.0
    assert torch.equal(book, other)
    assert int(use.counts.sum()) == 0


def test_without_the_perceptual_package_training_goes_on_without_it(
    smoke: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(net: str) -> None:
        raise WeightsError("ST-LPIPS needs its parameters")

    monkeypatch.setattr("vidrestore.train.codeformer.ShiftTolerantLpips", absent)
    training = AutoencoderTraining(smoke("loss.perceptual=1.0"))
    assert "perceptual" not in training.step(Clock(training.config.run))
    assert "training without the perceptual loss" in caplog.text


def test_the_perceptual_loss_sees_its_window(smoke: Make) -> None:
    larger = ("network.autoencoder.image_size=48", "network.autoencoder.attention_sizes=[24]", "loss.window=32")
    fusion = "network.fusion_sizes=[48]"
    training = AutoencoderTraining(smoke("loss.perceptual=2.0", 'loss.backbone="alex"', *larger, fusion))
    if training.images.metric is None:
        pytest.skip("the package stlpips-pytorch is not installed")
    assert training.step(Clock(training.config.run))["perceptual"] > 0.0


def test_a_file_says_its_own_layout(smoke: Make, first_stage: Path, second_stage: Path) -> None:
    autoencoder, network = (
        load_network(path)
        for path in (first_stage / "autoencoder.safetensors", second_stage / "codeformer.safetensors")
    )
    assert isinstance(autoencoder, VQAutoencoder)
    assert autoencoder.dims == smoke().network.autoencoder
    assert isinstance(network, CodeFormer)
    assert network.dims == smoke().network
    with pytest.raises(WeightsError, match="expected a VQAutoencoder or a CodeFormer, got 'PatchDiscriminator'"):
        load_network(first_stage / "discriminator.safetensors")
    with pytest.raises(WeightsError, match="no safetensors file that says its layout"):
        load_network(first_stage / "log.jsonl")


def test_a_damaged_or_foreign_start_is_an_error(smoke: Make, first_stage: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        make_training(smoke("stage=codes", f"start.autoencoder={bad}"))
    state = load_file(first_stage / "autoencoder.safetensors")
    state.pop("quantize.embedding.weight")
    save_file(state, bad)
    with pytest.raises(WeightsError, match=r"quantize\.embedding\.weight is missing"):
        make_training(smoke("stage=codes", f"start.autoencoder={bad}"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=codes"], "code targets come from stage I"),
        (["stage=joint", "start.autoencoder=a"], "goes on from stage II"),
        (["stage=four"], "stage must be Stage"),
        (["loss.window=64"], "within 32 and the picture's 16 pixels"),
        (["loss.windo=16"], "did you mean 'window'"),
        (["degradation.large.blur=[3, 2]"], "blur must be"),
    ],
)
def test_wrong_settings_are_errors(smoke: Make, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        smoke(*settings)


NAMES = [
    f"codeformer_{stage}_{kind}"
    for stage in ("stage1", "stage2", "stage3", "inpainting", "colorization")
    for kind in ("paper", "released")
]


@pytest.mark.parametrize("name", [*NAMES, *(f"codeformer_small_stage{i}" for i in (1, 2, 3))])
def test_shipped_configurations_load(name: str) -> None:
    config = load_config(shipped_config(name))
    assert config.part[-1].until == 1.0


@pytest.mark.parametrize(
    ("name", "batch", "steps", "rate", "ema"),
    [
        ("codeformer_stage1_released", 32, 1_600_000, 7e-5, 0.995),
        ("codeformer_stage2_released", 32, 500_000, 1e-4, 0.995),
        ("codeformer_stage3_released", 24, 150_000, 5e-5, 0.997),
        ("codeformer_inpainting_released", 12, 300_000, 7e-5, 0.997),
        ("codeformer_colorization_released", 32, 500_000, 1e-4, 0.995),
        ("codeformer_stage1_paper", 16, 1_500_000, 8e-5, 0.995),
        ("codeformer_stage2_paper", 16, 200_000, 8e-5, 0.995),
        ("codeformer_stage3_paper", 16, 20_000, 2e-5, 0.997),
    ],
)
def test_the_published_numbers(name: str, batch: int, steps: int, rate: float, ema: float) -> None:
    config = load_config(shipped_config(name))
    found = (config.data.batch, config.run.max_steps, config.optimiser.learning_rate, config.optimiser.ema)
    assert found == (batch, steps, rate, ema)


def test_the_released_third_stage_changes_at_the_published_steps() -> None:
    config = load_config(shipped_config("codeformer_stage3_released"))
    clock = Clock(config.run)

    def part_at(step: int) -> Part:
        clock.step = step
        return next(p for p in config.part if clock.share < p.until)

    found = [
        config.part.index(part_at(step)) for step in (0, 39_999, 40_000, 79_999, 80_000, 119_999, 120_000, 149_999)
    ]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [(p.w, p.image_every) for p in config.part if p.image_every] == [(1.0, 1), (1.3, 1), (1.3, 15)]
