"""Fail once an override in pyproject.toml is no longer needed."""

import importlib.metadata
import tomllib

from packaging.requirements import Requirement

from tests.conftest import ROOT


def test_gradio_does_not_admit_the_pillow_that_the_lock_files_pin():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    assert settings["override-dependencies"] == ["pillow>=13"]
    named = [Requirement(text) for text in importlib.metadata.requires("gradio") or ()]
    bound = next(one for one in named if one.name == "pillow").specifier
    assert "13.0.0" not in bound, "Gradio admits Pillow 13: remove the override from pyproject.toml"
