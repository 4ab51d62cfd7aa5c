"""Advisories on what the lock files pin: told, or said that they cannot be looked up."""

from pathlib import Path

import pytest

from ci import advisories
from malaria.errors import UserError


def test_each_advisory_is_a_sentence_that_names_what_mends_it():
    package = {
        "name": "pillow",
        "version": "12.3.0",
        "vulns": [{"id": "GHSA-1", "fix_versions": ["13.0.0"]}, {"id": "GHSA-2", "fix_versions": []}],
    }
    assert advisories.known_against(package, Path("a.lock")) == [
        "a.lock: pillow 12.3.0: GHSA-1, fixed in 13.0.0",
        "a.lock: pillow 12.3.0: GHSA-2, fixed in no version yet",
    ]


def test_without_a_network_nothing_is_called_sound(tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    lock = tmp_path / "a.lock"
    lock.write_text(f"pillow==13.0.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(UserError, match="cannot be looked up"):
        advisories.looked_up(lock)
