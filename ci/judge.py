"""Judge a branch with the code of the current folder, a clean copy of the base; `ci.gate` starts this.

Runs the branch's bundle on the base's test cells, and the branch's stages again as separate processes.
Imports nothing of the branch. Writes reports/ci in the branch's work tree. The exit status is 1 if a check
fails.
"""

import argparse
import sys
from pathlib import Path

from ci import again, outputs, rendering, retrain, revisions
from ci.comparison import Comparison, accepted, changed_stages, compare, judged_cells
from ci.github import event, summary
from ci.revisions import Revision
from ci.verdict import Verdict, judge
from malaria import files, paths, programs
from malaria.command import new_parser, run_and_exit
from malaria.params import load_params

# Sections of params.yaml that decide how branches are judged, as `outputs.RULES` are files that do.
RULING_SECTIONS = ("evaluate", "gate")


def main() -> int:
    parser = new_parser("ci.judge", __doc__)
    parser.add_argument("branch", type=Path, help="the branch's work tree")
    parser.add_argument("--base", type=Path, help="the base's work tree (none: a first revision)")
    parser.add_argument("--name", default="", help="the base's name in the report")
    parser.add_argument("--note", default="", help="what is special about the base's results")
    parser.add_argument("--report", action="store_true", help="run no stage again, and end with status 0")
    parser.add_argument("--label", action="append", default=[], help="a label of the pull request")
    arguments = parser.parse_args()
    branch = revisions.work_tree(arguments.branch)
    base = None
    if arguments.base:
        commit = programs.git("rev-parse", "HEAD", cwd=arguments.base)
        base = Revision(arguments.name or commit[:8], commit, arguments.base, arguments.note)
    comparison, verdict = _judge(base, branch, arguments)
    rendering.write(comparison, verdict, branch.folder)
    result = {"mergeable": verdict.mergeable, "headline": verdict.headline}
    files.write_json(branch.folder / outputs.VERDICT, result | verdict.model_dump(mode="json"))
    event.summarise(summary.markdown(rendering.numbers(comparison, verdict)))
    event.output("judged", "true")
    for check in verdict.checks:
        print(f"{check.outcome:10} {check.name:16} {check.said}")
    if verdict.overridden:
        event.warn(verdict.headline)
    fine = verdict.mergeable or arguments.report
    print(verdict.headline, file=sys.stdout if fine else sys.stderr)
    print(f"Look at {branch.folder / outputs.PAGE}.")
    return 0 if fine else 1


def _judge(
    base: Revision | None, branch: Revision, arguments: argparse.Namespace
) -> tuple[Comparison, Verdict]:
    settings = load_params()
    record = retrain.recorded(branch)
    cells, counts = judged_cells(base, branch)
    stages: tuple[str, ...] = () if arguments.report else settings.gate.rerun
    if not arguments.report and _differ(base, branch, "train"):
        # In the pipeline's order; `again.run` names a stage that the branch lacks.
        names = {*stages, *({"train"} & branch.lock.keys())}
        stages = tuple(sorted(names, key=[*branch.lock, *stages].index))
    # Training and later stages could see the test cells, and write what they saw into the bundle.
    blind = not arguments.report and _differ(base, branch, *again.OF_PROCESSOR)
    with again.run(branch, stages, cells, blind) as (rerun, rebuilt):
        facts = {
            "stages": record.stages if record else changed_stages(base, branch),
            "sample": record is not None and record.sample,
            "behind": _behind(base, branch),
            "rules": _rules(base, branch),
            "own_code": base is None or not base.folder.samefile(Path()),
            "contradicted": contradicted(base, branch),
            "forged": _forged(branch),
        }
        comparison = compare(base, branch, cells, counts, settings, rebuilt, **facts)
        pull = event.pull()
        labels = [*arguments.label, *(pull.labels if pull else ())]
        return comparison, judge(comparison, None if arguments.report else rerun, labels)


def _differ(base: Revision | None, branch: Revision, *stages: str) -> bool:
    return base is None or any(base.lock.get(stage) != branch.lock.get(stage) for stage in stages)


def _forged(branch: Revision) -> int:
    """Count accepted cells whose file is missing or does not have the hash of data/cells.csv."""
    cells, raw = accepted(branch), branch.folder / paths.RAW
    hashes = zip((raw / path for path in cells.path), cells.sha256, strict=True)
    return sum(not file.is_file() or files.sha256(file) != sha256 for file, sha256 in hashes)


def contradicted(base: Revision | None, branch: Revision) -> list[str]:
    """The stages that have the same inputs as in the base's dvc.lock, and other outputs."""
    lock = {} if base is None else base.lock
    return [
        name
        for name, entry in branch.lock.items()
        if name in lock and lock[name] != entry and {**lock[name], "outs": 0} == {**entry, "outs": 0}
    ]


def _behind(base: Revision | None, branch: Revision) -> int:
    if base is None:
        return 0
    return int(programs.git("rev-list", "--count", f"HEAD..{base.commit}", cwd=branch.folder))


def _rules(base: Revision | None, branch: Revision) -> tuple[str, ...]:
    """Those of `outputs.RULES` and `RULING_SECTIONS` that the branch changed since it left the base.

    A section that did not exist then is left out: it cannot have loosened anything.
    """
    if base is None:
        return ()
    start = revisions.fork_point(base.commit, branch.folder)
    changed = programs.git("diff", "--name-only", "--no-renames", start, cwd=branch.folder).splitlines()
    rules = sorted({rule for rule in map(outputs.rule, changed) if rule})
    old = revisions.params_at(start, branch.folder)
    sections = [name for name in RULING_SECTIONS if name in old and old[name] != branch.params.get(name)]
    return (*rules, *(f"params.yaml: {name}" for name in sections))


if __name__ == "__main__":
    run_and_exit(main)
