"""Security advisories on pinned packages are looked up for every lock file, or the command fails."""

import os
import subprocess

from tests.conftest import ROOT


def test_without_a_network_nothing_is_called_sound_and_a_sentence_says_so(tmp_path):
    lock = tmp_path / "a.lock"
    lock.write_text(f"pillow==13.0.0 --hash=sha256:{'0' * 64}\n")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    command = ["make", "--silent", "--old-file=env", "advisories", f"LOCKS={lock}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "The packages did not pass" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
