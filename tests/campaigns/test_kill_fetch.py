"""A fetch that is killed leaves nothing that the next run would stumble over."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_after_a_kill_the_next_run_ends_with_the_right_bytes():
    command = [sys.executable, "-m", "tests.campaigns.kill_fetch", "--kills", "3"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 runs after a kill ended with the right bytes, 27,560 files" in done.stdout
