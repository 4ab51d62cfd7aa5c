"""Judge whether the work tree's model may replace the base's, by the limits of params.yaml: gate.

Runs the cheap stages again, compares as `python -m ci.report` does, and ends with status 1 where a check
fails. Writes reports/ci/verdict.json beside the report. The base's limits count, so that no branch grants
itself its own. A pull request that carries the label gate.override passes all the same, and says so.
"""

import sys

from ci import outputs, rendering, report, rerun, verdict
from ci.github import event
from malaria import files
from malaria.command import end_with


def main() -> int:
    parser = report.parser("python -m ci.gate", __doc__)
    parser.add_argument(
        "--label", action="append", default=[], help="a label of the pull request, as if it had it"
    )
    arguments = parser.parse_args()
    found = report.compare(arguments.base, arguments.rebuild)
    again = rerun.rerun(found.limits.rerun) if found.limits.rerun else None
    judged = verdict.judge(found, again, (*report.pull_labels(), *arguments.label))
    rendering.write(found, judged)
    said = {"mergeable": judged.mergeable, "headline": judged.headline}
    files.write_json(outputs.VERDICT, said | judged.model_dump(mode="json"))
    event.summarise(outputs.MARKDOWN.read_text(encoding="utf-8"))
    for check in judged.checks:
        print(f"{check.outcome:10} {check.name:13} {check.said}")
    if judged.overridden:
        event.warn(judged.headline)
    print(judged.headline, file=sys.stdout if judged.mergeable else sys.stderr)
    return 0 if judged.mergeable else 1


if __name__ == "__main__":
    end_with(main)
