"""Compare the work tree's model, data and parameters with those of a base revision.

Writes reports/ci/report.md (for a comment), report.html (to look at) and comparison.json. On GitHub's
runners the base is that of the pull request.
"""

import argparse
import json
from pathlib import Path

from pydantic import ValidationError

from ci import commands, comparison, outputs, rendering, rerun, retrain, revisions, verdict
from ci.comparison import Comparison
from ci.github import event
from malaria import files, paths
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import Evaluate, Gate, load_params


def main() -> int:
    arguments = parser("python -m ci.report", __doc__).parse_args()
    found = compare(arguments.base, arguments.rebuild)
    judged = verdict.judge(found, rerun.recorded(found.branch.lock, found.limits.rerun), pull_labels())
    rendering.write(found, judged)
    print(f"{judged.headline} Look at {outputs.PAGE}.")
    return 0


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that report and gate have in common."""
    made = argparse.ArgumentParser(prog=name, description=description)
    pull = event.pull()
    made.add_argument(
        "--base",
        default=pull.base if pull else None,
        required=pull is None,
        help="branch, tag or commit to compare with",
    )
    made.add_argument(
        "--rebuild",
        action="store_true",
        help="run the base's pipeline again where its results are in neither cache nor remote",
    )
    return made


def pull_labels() -> tuple[str, ...]:
    """The labels on the pull request that this run is for, if it is for one."""
    pull = event.pull()
    return pull.labels if pull else ()


def compare(rev: str, rebuild: bool) -> Comparison:
    """Compare the work tree with `rev`; what an earlier call found of the same two is taken again.

    Raises:
        UserError: a side's results cannot be had.
    """
    settings = load_params()
    branch = revisions.work_tree()
    run = retrain.recorded(branch.lock_hash)
    commit = revisions.resolve(rev)
    limits = _limits(commit) or settings.gate
    judging = _evaluate(commit, settings.evaluate)
    known = _recorded()
    if known and _is_of(known, commit, branch, limits, run):
        return known
    sample = run is not None and run.sample
    with revisions.base(rev, rebuild, sample) as base:
        found = comparison.compare(
            base,
            branch,
            judging,
            limits,
            run.stages if run else comparison.changed_stages(base, branch),
            behind=int(commands.git("rev-list", "--count", f"HEAD..{commit}")),
            rules=_rules(commit, branch),
            sample=sample,
        )
    files.write_json(outputs.COMPARISON, found.model_dump(mode="json"))
    return found


def _is_of(
    known: Comparison, commit: str, branch: revisions.Revision, limits: Gate, run: retrain.Run | None
) -> bool:
    """Whether `known` is what would be found again."""
    return (
        known.base is not None
        and known.base.commit == commit
        and (known.branch.name, known.branch.commit) == (branch.name, branch.commit)
        and known.branch.lock == branch.lock_hash
        and known.branch.params == files.sha256(branch.folder / paths.PARAMS)
        and known.limits == limits
        and (run is None or (known.stages, known.sample) == (run.stages, run.sample))
    )


def _recorded() -> Comparison | None:
    try:
        return Comparison.model_validate_json(outputs.COMPARISON.read_bytes())
    except (OSError, ValueError):
        return None


def _limits(commit: str) -> Gate | None:
    """The gate's limits as a commit has them: a branch must not grant itself new ones."""
    content = revisions.params_at(commit).get("gate")
    if content is None:
        return None
    try:
        # By way of JSON a list may become a tuple, while strict typing holds for the rest.
        return Gate.model_validate_json(json.dumps(content, default=str))
    except ValidationError:
        raise UserError(
            f"params.yaml of {commit[:8]} has a section gate that this code does not know: mend it there."
        ) from None


def _evaluate(commit: str, branch: Evaluate) -> Evaluate:
    """How a commit evaluates, for the same reason; a key that it does not have yet is the branch's."""
    there = revisions.params_at(commit).get("evaluate") or {}
    own = json.loads(branch.model_dump_json())
    try:
        return Evaluate.model_validate_json(json.dumps({key: there.get(key, own[key]) for key in own}))
    except ValidationError:
        raise UserError(
            f"params.yaml of {commit[:8]} has a section evaluate that this code does not know: mend it there."
        ) from None


def _rules(commit: str, branch: revisions.Revision) -> tuple[str, ...]:
    """What of `comparison.RULES` and `RULING_SECTIONS` the branch has changed since it left `commit`'s line.

    A section that was not there yet loosens nothing.
    """
    start = revisions.fork_point(commit)
    changed = commands.git("diff", "--name-only", start, "--", *comparison.RULES).splitlines()
    touched = [rule for rule in comparison.RULES if any(Path(name).is_relative_to(rule) for name in changed)]
    before = revisions.params_at(start)
    sections = [
        f"params.yaml: {name}"
        for name in comparison.RULING_SECTIONS
        if name in before and before[name] != branch.params.get(name)
    ]
    return (*touched, *sections)


if __name__ == "__main__":
    end_with(main)
