"""Merging and checking of options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrestore.config import RestoreConfig, load_config, load_preset, preset_names, preset_text
from vidrestore.errors import ConfigError


def test_flags_win_over_file_over_preset_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[encode]\ncrf = 5\ncodec = "hevc"\n', "utf-8")
    config = load_config(preset="archive", file=file, overrides={"encode": {"crf": 7}})
    assert config.encode.crf == 7
    assert config.encode.codec == "hevc"
    assert config.encode.speed == "slow"
    assert config.blend == RestoreConfig().blend


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_whom_it_is_for(name: str) -> None:
    assert load_config(preset=name) != RestoreConfig()
    assert preset_text(name).startswith("# For ")


def test_a_preset_sets_only_what_differs_from_the_defaults() -> None:
    default = RestoreConfig().as_dict()
    for name in preset_names():
        for stage, values in load_preset(name).items():
            for key, value in values.items():
                assert default[stage][key] != value, f"{name}: {stage}.{key} is the default"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"encode": {"codek": "h264"}}, "unknown option encode.codek, did you mean 'codec'"),
        ({"encod": {}}, r"unknown section \[encod\], did you mean 'encode'"),
        ({"encode": 3}, r"\[encode\] must be a table"),
        ({"encode": {"crf": 64}}, "encode.crf = 64"),
        ({"encode": {"codec": "h265"}}, "encode.codec = 'h265'"),
        ({"blend": {"strength": 1.5}}, "blend.strength = 1.5"),
        ({"track": {"lookahead": "many"}}, "track.lookahead = 'many'"),
    ],
)
def test_a_wrong_name_or_value_says_which(overrides: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=overrides)


def test_an_unknown_preset_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'archiv', did you mean 'archive'"):
        load_config(preset="archiv")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[encode\n", "utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml: is not a TOML file"):
        load_config(file=file)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_config(file=tmp_path / "none.toml")


@given(st.floats(0, 1), st.integers(0, 120), st.sampled_from(["h264", "ffv1"]))
def test_a_configuration_survives_write_and_read(strength: float, lookahead: int, codec: str) -> None:
    config = load_config(
        overrides={"blend": {"strength": strength}, "track": {"lookahead": lookahead}, "encode": {"codec": codec}}
    )
    assert load_config(overrides=json.loads(json.dumps(config.as_dict()))) == config
