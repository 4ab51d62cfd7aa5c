"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def no_repository(tmp_path, monkeypatch):
    """A current folder outside any repository: DVCLive would open it, and keep git's packs open."""
    monkeypatch.chdir(tmp_path)
