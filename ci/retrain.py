"""Run what changed of the pipeline, and record which stages ran and for how long.

On a pull request from a fork the cells are those of the synthetic sample, whatever params.yaml says:
such a run has no secrets.
"""

import argparse
import re
import shutil
import time

from ci import commands, outputs, revisions
from ci.comparison import Plain, Stage
from ci.github import event
from malaria import files, paths
from malaria.command import end_with

_RUNNING = re.compile(r"Running stage '([^']+)'")
_CACHED = re.compile(r"Stage '([^']+)' is cached")
_UNCHANGED = re.compile(r"Stage '([^']+)' didn't change")


class Run(Plain):
    """A run of `dvc repro`: of its stages, and the SHA-256 of the dvc.lock that it left.

    `sample`: it was made on the synthetic sample in place of params.yaml's source.
    """

    lock: str
    seconds: float
    sample: bool
    stages: tuple[Stage, ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.retrain", description=__doc__)
    parser.add_argument("--sample", action="store_true", help="use the synthetic sample, as for a fork")
    arguments = parser.parse_args()
    pull = event.pull()
    if pull:
        # The branch may have committed the record of a run, or of a re-run, that nobody made.
        shutil.rmtree(outputs.REPORTS, ignore_errors=True)
    fork = arguments.sample or (pull is not None and pull.fork)
    sample = revisions.use_sample(paths.PARAMS) if fork else False
    run = retrain(sample)
    files.write_json(outputs.RUN, run.model_dump(mode="json"))
    ran = [f"{stage.name} ({stage.seconds:.0f} s)" for stage in run.stages if stage.seconds is not None]
    print(f"Ran {', '.join(ran) or 'nothing'}, in {run.seconds:.0f} s; the record is {outputs.RUN}.")
    return 0


def retrain(sample: bool) -> Run:
    """Run `dvc repro`, its output shown as it comes."""
    begun = time.monotonic()
    how: dict[str, str] = {}
    since: dict[str, float] = {}
    until: dict[str, float] = {}
    running = ""
    for line in commands.dvc_lines("repro"):
        print(line, flush=True)
        now = time.monotonic()
        started = _RUNNING.match(line)
        told = started or _CACHED.match(line) or _UNCHANGED.match(line)
        if not told:
            continue
        if running:
            until[running] = now
        name, running = told[1], ""
        if started:
            running, since[name], how[name] = name, now, "ran"
        else:
            how.setdefault(name, "cache" if _CACHED.match(line) else "unchanged")
    end = time.monotonic()
    if running:
        until[running] = end
    stages = revisions.stages_of(outputs.LOCK.read_text(encoding="utf-8"))
    return Run(
        lock=files.sha256(outputs.LOCK),
        seconds=round(end - begun, 1),
        sample=sample,
        stages=tuple(
            Stage.model_validate(
                {
                    "name": name,
                    "how": how.get(name, "unchanged"),
                    "seconds": round(until[name] - since[name], 1) if name in since else None,
                }
            )
            for name in stages
        ),
    )


def recorded(lock: str) -> Run | None:
    """The record of the run that left the dvc.lock with this SHA-256; None where there is none."""
    try:
        run = Run.model_validate_json(outputs.RUN.read_bytes())
    except (OSError, ValueError):
        return None
    return run if run.lock == lock else None


if __name__ == "__main__":
    end_with(main)
