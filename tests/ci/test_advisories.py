"""Advisories on what the lock files pin: looked up for every lock file, or the command fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_without_a_network_nothing_is_called_sound(tmp_path):
    """The command of the Makefile, on a lock file of its own."""
    makefile = (ROOT / "Makefile").read_text()
    locks = re.search(r"^LOCKS := (.*)$", makefile, re.MULTILINE)[1].split()
    assert locks == ["requirements.lock", "orchestration/airflow/requirements.lock"]
    audit = re.search(r"^\tpip-audit (.*) \$\(LOCKS:%=-r %\)$", makefile, re.MULTILINE)[1].split()
    assert "--strict" in audit
    lock = tmp_path / "a.lock"
    lock.write_text(f"pillow==13.0.0 --hash=sha256:{'0' * 64}\n")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *audit, "-r", str(lock)],
        env=os.environ | nowhere, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No known vulnerabilities" not in done.stdout + done.stderr
