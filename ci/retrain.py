"""Run the stages of the pipeline that changed, and record which ran and for how long (wall-clock time).

Entries of dvc.lock whose results are missing are dropped first. DVC then looks for these results in its
record of earlier runs, and runs the stage if there are none. A pull request from a fork uses the synthetic
sample, whatever params.yaml says, because such a run has no secrets.
"""

import re
import shutil
import time

import yaml
from dvc.utils.serialize import modify_yaml

from ci import outputs, revisions
from ci.comparison import Plain, Stage
from ci.github import commit_lock, event, summary
from malaria import files, paths, programs
from malaria.command import new_parser, run_and_exit


class Run(Plain):
    """A run of the pipeline: how its stages got their results, and the SHA-256 of the dvc.lock that it left.

    `sample`: whether it used the synthetic sample in place of params.yaml's source.
    """

    lock: str
    sample: bool
    stages: tuple[Stage, ...]


def main() -> None:
    parser = new_parser("ci.retrain", __doc__)
    parser.add_argument("--sample", action="store_true", help="use the synthetic sample, as for a fork")
    parser.add_argument("--update", action="store_true", help="first bring imported data up to date")
    arguments = parser.parse_args()
    pull = event.pull()
    if pull:
        # The branch may have committed a forged record of a run.
        shutil.rmtree(outputs.REPORTS, ignore_errors=True)
    fork = arguments.sample or (pull is not None and pull.fork)
    sample = fork and revisions.use_sample(paths.PARAMS)
    if arguments.update and (imports := revisions.imports()):
        programs.dvc("update", *imports)
    old_lock = outputs.LOCK.read_bytes() if outputs.LOCK.is_file() else b""
    run = Run(stages=reproduce(), lock=files.sha256(outputs.LOCK), sample=sample)
    changed = outputs.LOCK.read_bytes() != old_lock
    event.output("changed", str(changed).lower())
    if not changed and not sample:
        run = run.model_copy(update={"stages": from_trailer() or run.stages})
    files.write_json(outputs.RUN, run.model_dump(mode="json"))
    ran = [f"{stage.name} ({stage.seconds:.0f} s)" for stage in run.stages if stage.seconds is not None]
    print(f"Ran {', '.join(ran) or 'nothing'}; the record is {outputs.RUN}.")


def reproduce() -> tuple[Stage, ...]:
    """Run `dvc repro` stage by stage, from the first that changed; return how each stage got its results."""
    names = list(revisions.lock_of())
    revisions.drop_missing()
    stale = yaml.safe_load(programs.dvc("status", "--json"))
    order = revisions.order()
    first = next((number for number, name in enumerate(order) if name in stale), len(order))
    stages = [Stage(name=name, how="unchanged") for name in order[:first]]
    for name in order[first:]:
        entry, last_start = revisions.lock_of().get(name), _last_start(name)
        start = time.monotonic()
        for line in programs.lines([*programs.DVC, "repro", "--single-item", name]):
            print(line, flush=True)
        seconds = round(time.monotonic() - start, 1)
        if _last_start(name) != last_start:
            stages.append(Stage(name=name, how="ran", seconds=seconds))
        else:
            same = entry == revisions.lock_of().get(name)
            stages.append(Stage(name=name, how="unchanged" if same else "cache"))
    # Restore the order of entries: DVC appends those that were dropped and made again.
    with modify_yaml(str(outputs.LOCK)) as content:
        entries = content["stages"]
        content["stages"] = {name: entries[name] for name in sorted(entries, key=[*names, *entries].index)}
    return tuple(stages)


def _last_start(stage: str) -> int:
    """When the stage last started here, in ns, by the time of its lock file; 0 if it never did."""
    file = paths.RUNNING / f"{stage}.lock"
    return file.stat().st_mtime_ns if file.exists() else 0


def recorded(branch: revisions.Revision) -> Run | None:
    """The record of the run that left the branch's dvc.lock; None if there is none."""
    try:
        run = Run.model_validate_json((branch.folder / outputs.RUN).read_bytes())
    except (OSError, ValueError):
        return None
    return run if run.lock == files.sha256(branch.folder / outputs.LOCK) else None


def from_trailer() -> tuple[Stage, ...]:
    """How stages ran, from the trailer of a commit of `ci.github.commit_lock`; empty if HEAD is none."""
    trailer = f"%(trailers:key={commit_lock.TRAILER},valueonly)"
    headline, _, content = programs.git("log", "-1", f"--format=%s%n{trailer}").partition("\n")
    if headline != commit_lock.MESSAGE:
        return ()
    stages = re.findall(rf"(\w+) ({'|'.join(summary.HOW)}) (\d+\.\d)", content)
    return tuple(
        Stage(name=name, how=how, seconds=float(seconds) if how == "ran" else None)
        for name, how, seconds in stages
    )


if __name__ == "__main__":
    run_and_exit(main)
