"""Run the tests twenty times in random order, to find tests that fail by chance: `make test-repeat`.

Ten runs have the machine to themselves if you leave it alone, six share it with four busy processes, and four
run on one core. The folder --log gets the output of each run, and runs.txt with a line for each: commit,
number, status, seed of the order, seconds, condition. If you start the command again, it continues with the
missing runs of this commit. The exit status is 1 if a run failed.
"""

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from malaria import programs
from malaria.command import new_parser, run_and_exit

RUNS = ("alone",) * 10 + ("busy",) * 6 + ("one core",) * 4
# A busy process, which ends when its parent does.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def main() -> int:
    parser = new_parser("tests.campaigns.repeat", __doc__)
    parser.add_argument("--log", type=Path, default=Path("reports/repeat"), help="folder (reports/repeat)")
    parser.add_argument("command", nargs="*", default=["make", "test"], help="what to run (make test)")
    arguments = parser.parse_args()
    arguments.log.mkdir(parents=True, exist_ok=True)
    commit = programs.git("describe", "--always", "--dirty")
    with (arguments.log / "runs.txt").open("a+", encoding="utf-8") as log:
        log.seek(0)
        rows = [row.split() for row in log]
        statuses = {int(row[1]): int(row[2]) for row in rows if row[0] == commit}
        for number, condition in enumerate(RUNS, start=1):
            if number not in statuses:
                statuses[number], *rest = once(arguments.command, condition, arguments.log / f"{number}.txt")
                for out in (log, sys.stdout):
                    print(commit, number, statuses[number], *rest, condition, file=out, flush=True)
    failed = sum(status != 0 for status in statuses.values())
    print(f"{failed} of {len(statuses)} runs of {commit} failed")
    return 1 if failed else 0


def once(command: list[str], condition: str, out: Path) -> tuple[int, int, int]:
    """Run the tests under a condition; return exit status, seed of the order, and seconds."""
    seed, started = random.SystemRandom().randrange(2**31), time.monotonic()
    taskset = ["taskset", "-c", "0"] if condition == "one core" else []
    environment = {**os.environ, "PYTEST_ADDOPTS": f"--randomly-seed={seed}"}
    with ExitStack() as stack, out.open("w", encoding="utf-8") as file:
        for _ in range(4 if condition == "busy" else 0):
            stack.callback(stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY])).kill)
        status = subprocess.call([*taskset, *command], env=environment, stdout=file, stderr=subprocess.STDOUT)
    return status, seed, round(time.monotonic() - started)


if __name__ == "__main__":
    run_and_exit(main)
