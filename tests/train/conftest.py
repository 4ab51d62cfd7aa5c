"""Fixture for all tests of training."""

import pytest


@pytest.fixture(autouse=True)
def no_repository(tmp_path, monkeypatch):
    """Run outside any repository, because DVCLive would open it and leave git's pack files open."""
    monkeypatch.chdir(tmp_path)
