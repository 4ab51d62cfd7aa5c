"""Kill `dvc repro` at random moments, and show that taken up again it ends with the right bytes.

One run is left undisturbed. The others, each in a fresh clone with an empty DVC cache, are killed again
and again: the whole process group, or DVC alone, or the stage alone; in each stage, in the middle of
training, while a result is written, while DVC itself works. At each run's end the hashes in dvc.lock must
be those of the undisturbed one. Ends with status 1 where anything is wrong.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from malaria.command import end_with, how_many
from tests.campaigns.crash import campaign
from tests.support import project

# Enough cells for worker processes, and an epoch more than a kill in the middle needs.
SMALL = {**project.SMALL, "data.sample.cells": 420, "train.epochs": 3}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.crash", description=__doc__)
    parser.add_argument("--kills", type=how_many, default=100, help="how often to kill (100)")
    parser.add_argument("--a-run", type=how_many, default=10, help="of these, in each run (10)")
    parser.add_argument("--seed", type=int, default=1, help="of stages, moments and victims")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        project.start(work / "undisturbed", SMALL)
        project.run("dvc", "repro", cwd=work / "undisturbed")
        expected = campaign.undisturbed(work / "undisturbed")
        lasts = ", ".join(f"{name} {lasts:.1f}" for name, lasts in expected.lasts.items())
        print(f"undisturbed: {len(expected.locked)} outputs; seconds: {lasts}", flush=True)
        report = campaign.campaign(expected, given.kills, given.a_run, given.seed, work)
    print(f"{in_words(report)}, in {(time.monotonic() - begun) / 60:.0f} minutes")
    return 1 if report.wrong else 0


def in_words(report: campaign.Report) -> str:
    """The campaign on a few lines."""
    found = Counter(what for kill in report.kills for what in (kill.victim, kill.moment, kill.stage))
    counts = ", ".join(f"{what}: {count}" for what, count in found.most_common())
    return (
        f"killed {len(report.kills)} times ({counts})\n"
        f"trainings taken up in the middle: {len(report.resumed)}\n"
        f"the last orphan of DVC ended {max(report.lingered, default=0):.2f} s after it\n"
        f"files of DVC's own found torn by it, and removed: {len(report.mended)}\n"
        f"{report.runs} runs to their end, {len(report.wrong)} things wrong"
    )


if __name__ == "__main__":
    end_with(main)
