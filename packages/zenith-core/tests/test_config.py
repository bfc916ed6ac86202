"""Every option of `zenith.compile` is really checked, with the allowed values in the message."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import zenith
from zenith.config import CompileConfig
from zenith.errors import ConfigurationError

WRONG: list[tuple[str, Any, str]] = [
    ("target", "", "a list of names"),
    ("target", [], "a list of names"),
    ("target", 3, "a list of names"),
    ("target", ["cpu", None], "a list of names"),
    ("target", ["cpu", "cpu"], "once"),
    ("target", ["auto", "cpu"], "stands alone"),
    ("precision", "fp64", "'fp32', 'bf16', 'fp16', 'int8', 'int4-weight', 'auto'"),
    ("precision", None, "'fp32'"),
    ("opt_level", 4, "0, 1, 2, 3"),
    ("opt_level", -1, "0, 1, 2, 3"),
    ("opt_level", True, "0, 1, 2, 3"),
    ("opt_level", "2", "0, 1, 2, 3"),
    ("mode", "fast", "'default', 'reduce-overhead', 'max-autotune'"),
    ("fallback", "never", "'warn', 'error', 'allow'"),
    ("fallback", True, "'warn', 'error', 'allow'"),
    ("tolerance", 0, "a number above 0"),
    ("tolerance", -1e-3, "a number above 0"),
    ("tolerance", float("nan"), "a number above 0"),
    ("tolerance", float("inf"), "a number above 0"),
    ("tolerance", "1e-3", "a number above 0"),
    ("threads", 0, "a whole number from 1"),
    ("threads", 1.5, "a whole number from 1"),
    ("threads", True, "a whole number from 1"),
    ("cache", 1, "True, False"),
    ("dynamic", ["x"], "{input name or position: {axis: name}}"),
    ("dynamic", {"x": [0]}, "{axis: name}"),
    ("dynamic", {"x": {"0": "n"}}, "{axis: name}"),
    ("dynamic", {"x": {0: "not a name"}}, "{axis: name}"),
    ("dynamic", {1.5: {0: "n"}}, "{axis: name}"),
    ("backend_options", ["cpu"], "{backend name: {option: value}}"),
    ("backend_options", {"cpu": 3}, "{backend name: {option: value}}"),
    ("calibration_data", [1], "precision='int8'"),
]


@pytest.mark.parametrize(("option", "value", "said"), WRONG)
def test_wrong_value_names_the_option_and_what_is_allowed(
    option: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CompileConfig(**{option: value})
    assert option in str(caught.value)
    assert said in str(caught.value)


def test_good_values_are_kept_and_normalised() -> None:
    config = CompileConfig(
        target=["npu", "cpu"],
        opt_level=3,
        tolerance=1,
        dynamic={"x": {0: "n"}, 1: {1: "m"}},
        threads=2,
        backend_options={"cpu": {"isa": "avx2"}},
    )
    assert config.target == ("npu", "cpu")
    assert config.tolerance == 1.0 and isinstance(config.tolerance, float)
    assert config.dynamic == {"x": {0: "n"}, 1: {1: "m"}}
    assert CompileConfig().target == ("auto",)
    assert CompileConfig().backend_options == {}


def test_config_is_frozen_and_apart_from_its_source() -> None:
    source = {"x": {0: "n"}}
    config = CompileConfig(dynamic=source)
    source["x"][0] = "changed"
    assert config.dynamic == {"x": {0: "n"}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threads = 3  # type: ignore[misc]


def test_compile_has_every_option_with_the_same_default() -> None:
    options = dict(inspect.signature(zenith.compile).parameters)
    del options["model"], options["sample_input"]
    fields = {f.name: f for f in dataclasses.fields(CompileConfig)}
    assert list(options) == [
        "target",
        "precision",
        "opt_level",
        "mode",
        "tolerance",
        "dynamic",
        "fallback",
        "threads",
        "calibration_data",
        "cache",
        "backend_options",
    ]
    assert set(options) == set(fields)
    for name, parameter in options.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default == fields[name].default
