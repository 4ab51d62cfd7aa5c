"""Kill the fetch at random moments, and show that the next run ends with the right bytes.

A local server gives a set of the NIH/NLM set's counts, slowly. Each time the stage is started, killed
(SIGKILL) at a random moment, and run again to its end; then every file it left is compared with those
of a run that nobody disturbed. Ends with status 1 where one differs, or where something is left over.
"""

import argparse
import hashlib
import json
import random
import shutil
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
        run_to_the_end(work)
        lasts = time.monotonic() - begun
        expected = hashes(work)
        moments = random.Random(given.seed)
        found: Counter[str] = Counter()
        wrong = 0
        while sum(found.values()) < given.kills:
            clear(work)
            phase = kill(work, moments.uniform(0, lasts))
            if phase is None:
                continue
            found[phase] += 1
            run_to_the_end(work)
            right = hashes(work) == expected and not left_over(work)
            wrong += not right
            print(
                f"kill {sum(found.values())} {phase}: {'the right bytes' if right else 'WRONG'}", flush=True
            )
    total = sum(found.values())
    print(f"{total - wrong} of {total} runs after a kill ended with the right bytes, {len(expected):,} files")
    print("killed " + ", ".join(f"{phase}: {count}" for phase, count in found.most_common()))
    return 1 if wrong else 0


def prepare(work: Path, server: Server) -> None:
    """Put a set on `server`, and parameters that name it into `work`."""
    published = fake_archive.published()
    server.files |= {f"/{name}": content for name, content in published.items()}
    server.pace = lambda: time.sleep(0.02)
    content = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    content["data"] |= {"source": "nlm", "nlm": fake_archive.nlm_section(server.base, published)}
    (work / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")


def start(work: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.fetch", "--cache-dir", str(work / "cache")]
    return subprocess.Popen(
        command,
        cwd=work,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_to_the_end(work: Path) -> None:
    with start(work) as process:
        said = process.communicate()[0]
    if process.returncode:
        raise UserError(f"The fetch ended with status {process.returncode}: {said.strip()}")


def kill(work: Path, after: float) -> str | None:
    """Kill a run `after` so many seconds; what it was doing then, None where it had ended before."""
    with start(work) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            return None
    if any((work / RAW).parent.glob(".raw.*")):
        kept = list(work.rglob("cell_images.zip"))
        return "while unpacking" if kept else "while downloading"
    return "after the last step" if (work / RAW).exists() else "before the first byte"


def clear(work: Path) -> None:
    for folder in (work / "cache", (work / RAW).parent):
        shutil.rmtree(folder, ignore_errors=True)


def hashes(work: Path) -> dict[str, str]:
    """The SHA-256 of each file below data/raw."""
    provenance = json.loads((work / RAW / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["cells"] == 2 * 13_779
    return {
        str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (work / RAW).rglob("*")
        if path.is_file()
    }


def left_over(work: Path) -> list[Path]:
    """What only a killed run would leave, hidden or half."""
    return list(work.rglob("*.part*"))


if __name__ == "__main__":
    end_with(main)
