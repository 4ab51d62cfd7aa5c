"""Kill the stage fetch, and check that the next run ends with the right files: `make kill-fetch`.

A local server slowly sends a set with as many cells as the NIH/NLM set. In each round the test starts the
stage, kills it (SIGKILL) at a random moment, and runs it again to its end. Then it compares every file with
those of an undisturbed run. The environment variables KILLS and KILLS_SEED set the number of kills and the
seed of their moments.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import fake_archive
from malaria.paths import PARAMS, RAW
from tests.campaigns import repro_check
from tests.support.project import ROOT, change
from tests.support.servers import Server, serving

pytestmark = pytest.mark.long

KILLS, SEED = int(os.environ.get("KILLS", "3")), int(os.environ.get("KILLS_SEED", "1"))


def test_after_a_kill_the_next_run_ends_with_the_right_bytes(tmp_path):
    rng, phases, wrong = random.Random(SEED), Counter[str](), []
    with serving() as server:
        prepare(tmp_path, server)
        started = time.monotonic()
        run(tmp_path)
        duration, expected = time.monotonic() - started, hashes(tmp_path)
        assert len(expected) == 27_560
        while phases.total() < KILLS:
            for folder in (tmp_path / "cache", tmp_path / RAW.parent):
                shutil.rmtree(folder, ignore_errors=True)
            if not run(tmp_path, rng.uniform(0, duration)):
                continue
            phases[phase := was_doing(tmp_path)] += 1
            run(tmp_path)
            same = hashes(tmp_path) == expected and not list(tmp_path.rglob("*.part*"))
            wrong += [] if same else [phase]
            print(f"kill {phases.total()} {phase}: {'the right bytes' if same else 'WRONG'}", flush=True)
    assert wrong == []
    print("killed " + ", ".join(f"{phase}: {count}" for phase, count in phases.most_common()))


def prepare(work: Path, server: Server) -> None:
    """Put a set on `server`, and parameters that name it into `work`."""
    published = fake_archive.published()
    server.files |= {f"/{name}": content for name, content in published.items()}
    server.pace = lambda: time.sleep(0.02)
    shutil.copy(ROOT / PARAMS, work)
    change(work, {"data.source": "nlm", "data.nlm": fake_archive.nlm_section(server.base, published)})


def run(work: Path, kill_after: float | None = None) -> bool:
    """Run the stage to its end, or kill it after `kill_after` seconds; return whether it was killed."""
    command = [sys.executable, "-m", "stages.fetch", "--cache-dir", str(work / "cache")]
    options = {"cwd": work, "env": {"PYTHONPATH": str(ROOT)}, "capture_output": True, "check": False}
    try:
        stage = subprocess.run(command, timeout=kill_after, **options)
    except subprocess.TimeoutExpired:
        return True
    assert stage.returncode == 0, stage.stderr
    return False


def was_doing(work: Path) -> str:
    """What a run was doing when it was killed, judged by the files that it left."""
    if any((work / RAW).parent.glob(".raw.*")):
        return "while unpacking" if list(work.rglob("cell_images.zip")) else "while downloading"
    return "after the last step" if (work / RAW).exists() else "before the first byte"


def hashes(work: Path) -> dict[str, str]:
    """The SHA-256 of each file below data/raw."""
    provenance = json.loads((work / RAW / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["cells"] == 2 * 13_779
    return repro_check.hashes(work, [str(RAW)])
