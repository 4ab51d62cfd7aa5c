"""Advisories on what the lock files pin: nothing is called sound that could not be looked up."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT


def test_make_advisories_looks_up_both_locks_and_fails_without_a_network(tmp_path):
    recipe = (ROOT / "Makefile").read_text().partition("\nadvisories:")[2].partition("\n\n")[0]
    options = re.sub(r"\\\n", "", recipe.partition("python ")[2]).split()
    assert options[-4:] == ["-r", "requirements.lock", "-r", "orchestration/airflow/requirements.lock"]
    lock = tmp_path / "a.lock"
    lock.write_text(f"pillow==13.0.0 --hash=sha256:{'0' * 64}\n")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, *options[:-4], "-r", str(lock)]
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No known vulnerabilities" not in done.stdout + done.stderr
