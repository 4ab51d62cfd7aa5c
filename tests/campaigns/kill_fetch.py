"""Kill the fetch at random moments, and show that the next run ends with the right bytes.

A local server gives a set of the NIH/NLM set's counts, slowly. Each time the stage is started, killed
(SIGKILL) at a random moment, and run again to its end; then every file it left is compared with those
of a run that nobody disturbed. Ends with status 1 where one differs, or where something is left over.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from benchmarks import fake_archive
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.paths import PARAMS, RAW
from tests.campaigns.crash import campaign
from tests.support.servers import Server, serving

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.kill_fetch", description=__doc__)
    parser.add_argument("--kills", type=how_many, default=50, help="how often to kill (default 50)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving() as server:
        work = Path(folder)
        prepare(work, server)
        begun = time.monotonic()
        run(work)
        lasts = time.monotonic() - begun
        expected = hashes(work)
        moments = random.Random(given.seed)
        phases = Counter[str]()
        wrong = 0
        while phases.total() < given.kills:
            for left in (work / "cache", work / RAW.parent):
                shutil.rmtree(left, ignore_errors=True)
            if not run(work, moments.uniform(0, lasts)):
                continue
            phases[phase := was_doing(work)] += 1
            run(work)
            right = hashes(work) == expected and not list(work.rglob("*.part*"))
            wrong += not right
            print(f"kill {phases.total()} {phase}: {'the right bytes' if right else 'WRONG'}", flush=True)
    total = phases.total()
    print(f"{total - wrong} of {total} runs after a kill ended with the right bytes, {len(expected):,} files")
    print("killed " + ", ".join(f"{phase}: {count}" for phase, count in phases.most_common()))
    return 1 if wrong else 0


def prepare(work: Path, server: Server) -> None:
    """Put a set on `server`, and parameters that name it into `work`."""
    published = fake_archive.published()
    server.files |= {f"/{name}": content for name, content in published.items()}
    server.pace = lambda: time.sleep(0.02)
    content = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    content["data"] |= {"source": "nlm", "nlm": fake_archive.nlm_section(server.base, published)}
    (work / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")


def run(work: Path, kill_after: float = 0) -> bool:
    """Run the stage, to its end or for so many seconds; whether it was killed."""
    stage = [sys.executable, "-m", "stages.fetch", "--cache-dir", str(work / "cache")]
    command, environment = ["timeout", "-s", "KILL", str(kill_after), *stage], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        raise UserError(f"The fetch ended with status {done.returncode}: {done.stderr.strip()}")
    return done.returncode != 0


def was_doing(work: Path) -> str:
    """What a run was doing when it was killed, by what it left."""
    if any((work / RAW).parent.glob(".raw.*")):
        return "while unpacking" if list(work.rglob("cell_images.zip")) else "while downloading"
    return "after the last step" if (work / RAW).exists() else "before the first byte"


def hashes(work: Path) -> dict[str, str]:
    """The SHA-256 of each file below data/raw."""
    provenance = json.loads((work / RAW / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["cells"] == 2 * 13_779
    return campaign.hashes(work, [str(RAW)])


if __name__ == "__main__":
    end_with(main)
