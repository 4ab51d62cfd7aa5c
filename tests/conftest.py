"""What several tests share: a small synthetic sample on disk, and the real cells where they are."""

import os
from pathlib import Path

import pytest

from malaria import params, sources

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_cells() -> Path:
    """The folder of real cells beside the project; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "cells"
    if not folder.is_dir():
        if os.environ.get("MALARIA_REQUIRE_SHARED"):
            pytest.fail("MALARIA_REQUIRE_SHARED is set, but ../shared/cells is not here")
        pytest.skip("needs the real cells in ../shared/cells")
    return folder


@pytest.fixture(scope="session")
def data() -> params.Data:
    """The `data` section of params.yaml for a small sample: 8 patients, 160 cells."""
    sample = params.SampleData(patients=8, cells=160, seed=1)
    return params.load_params(ROOT / "params.yaml").data.model_copy(update={"sample": sample})


@pytest.fixture(scope="session")
def raw(data, tmp_path_factory) -> Path:
    """A folder as `fetch` leaves it, with a small synthetic sample. Shared: read it, never change it."""
    folder = tmp_path_factory.mktemp("data") / "raw"
    sources.write(data, folder)
    return folder
