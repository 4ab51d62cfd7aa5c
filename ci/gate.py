"""Judge whether the work tree's model may replace the base's, by the base's code and limits.

Makes a clean copy of the base with its results, and runs `python -m ci.judge` there. Results that no store
has are made again. The exit status is 1 if a check fails. A pull request with the label gate.override passes
all the same, and the report says so. Writes reports/ci/: report.html, verdict.json, summary.json (for a
comment) and DVC's plots of both.
"""

import sys
from pathlib import Path

from ci import outputs, retrain, revisions
from ci.github import event
from malaria import programs
from malaria.command import new_parser, run_and_exit


def main() -> int:
    parser = new_parser("ci.gate", __doc__)
    base = pull.base if (pull := event.pull()) else None
    parser.add_argument("--base", default=base, required=not base, help="a branch, tag or commit to judge by")
    parser.add_argument("--label", action="append", default=[], help="a label, as if the pull request had it")
    parser.add_argument("--report", action="store_true", help="run no stage again, and end with status 0")
    arguments = parser.parse_args()
    flags = [part for label in arguments.label for part in ("--label", label)]
    return judge(arguments.base, *flags, *(["--report"] if arguments.report else []))


def judge(rev: str, *flags: str) -> int:
    """Judge the work tree against the revision `rev`; return the judge's exit status.

    Raises:
        UserError: the results of the work tree are not up to date, or those of `rev` cannot be made.
    """
    outputs.VERDICT.unlink(missing_ok=True)
    branch = revisions.work_tree()
    record = retrain.recorded(branch)
    with revisions.base(rev, sample=record is not None and record.sample) as base:
        code = Path()
        arguments = [str(branch.folder.resolve()), *flags]
        if base is not None:
            arguments += ["--base", str(base.folder), "--name", rev, "--note", base.note]
            code = base.folder if (base.folder / "ci/judge.py").is_file() else code
        # -E: Python's environment variables must not bring in other code.
        command = [sys.executable, "-E", "-m", "ci.judge", *arguments]
        with programs.start(command, cwd=code) as process:
            return process.wait()


if __name__ == "__main__":
    run_and_exit(main)
