"""Release the bundle of the commit that is checked out: `make release VERSION=1.2.0`.

Checks that the workspace is clean, that dvc.lock is up to date, that the bundle was not made of synthetic
cells, that all outputs are in the remote, and that the gate passes against the last release. Then makes the
annotated tag malaria-cells@v1.2.0, whose message is the release notes: figures, and what changed since the
last release. Nothing is published: the last line of output says how to.
"""

import json
import re

from ci import gate as ci_gate
from ci import outputs, revisions
from ci.github import summary
from malaria import bundle, paths, programs, tables
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics

# The artifact's name in dvc.yaml and, by the convention of GTO and DVC, the first part of the tags.
ARTIFACT = "malaria-cells"

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def main() -> None:
    parser = new_parser("ci.release", __doc__)
    parser.add_argument("version", help="semantic version, such as 1.2.0")
    parser.add_argument("--override", metavar="REASON", help="release even if the gate fails; notes say why")
    parser.add_argument("--dry", action="store_true", help="check and show the notes, and make no tag")
    arguments = parser.parse_args()

    last = last_release()
    tag = check_version(arguments.version, last)
    check_clean()
    revisions.check_up_to_date()
    released = check_real()
    check_pushed()
    verdict = check_gate(last, *gate(last), arguments.override)
    text = notes(tag, released, last, verdict)
    print(text)
    if arguments.dry:
        print(f"{tag} could be released.")
        return
    from gto import api

    api.register(".", ARTIFACT, "HEAD", version=f"v{arguments.version}", message=text)
    print(f"{tag} is made here. To publish it: git push origin HEAD {tag}")


def last_release() -> str:
    """The tag of the highest version so far; empty if there is none."""
    tags = programs.git("tag", "--list", "--sort=-version:refname", f"{ARTIFACT}@v*").splitlines()
    return next((tag for tag in tags if VERSION.fullmatch(tag.rpartition("@v")[2])), "")


def check_version(version: str, last: str) -> str:
    """The tag for `version`; UserError unless it is higher than the version of the tag `last`."""
    if not VERSION.fullmatch(version):
        raise UserError(f"VERSION is {version!r}, but must be three numbers, as 1.2.0.")
    if last and _numbers(version) <= _numbers(last.rpartition("@v")[2]):
        raise UserError(f"VERSION is {version}, but {last} is released already: choose a higher one.")
    return f"{ARTIFACT}@v{version}"


def check_clean() -> None:
    if changed := programs.git("status", "--porcelain").splitlines():
        first = changed[0].split(maxsplit=1)[-1]
        raise UserError(f"The workspace has changes that no commit has ({first} is the first): commit them.")


def check_real() -> bundle.Bundle:
    """The bundle; UserError if it is damaged or was made of synthetic cells."""
    released = bundle.load(paths.BUNDLE)
    if released.record.synthetic:
        raise UserError(
            f"{paths.BUNDLE} was made of synthetic cells and says nothing about real ones: set data.source "
            "in params.yaml (nlm brings the real set), run `dvc repro`, commit, and release that."
        )
    return released


def check_pushed() -> None:
    if missing := sorted(json.loads(programs.dvc("status", "--cloud", "--json"))):
        raise UserError(
            f"{len(missing):,} of the outputs' files are not in the remote ({missing[0]} is the first): run "
            "`make push`."
        )


def gate(last: str) -> tuple[bool, str]:
    """Whether the gate passes against the release `last` (empty: there is none), and its findings as text."""
    # Without a release the base is an empty commit: then only the gate's absolute limits count.
    base = last or programs.git("commit-tree", "-m", "before the first release", programs.git("mktree"))
    passed = ci_gate.judge(base) == 0
    if not outputs.VERDICT.is_file():
        raise UserError("The gate did not run to its end, as said above.")
    verdict = json.loads(outputs.VERDICT.read_text(encoding="utf-8"))
    checks = [f"{check['outcome']:10} {check['name']:13} {check['said']}" for check in verdict["checks"]]
    return passed, "\n".join([*checks, verdict["headline"]])


def check_gate(last: str, passed: bool, findings: str, override: str | None) -> str:
    """The text about the gate in the notes.

    Raises:
        UserError: the gate fails, and no reason to override it is given.
    """
    if passed:
        return findings
    if not override:
        raise UserError(
            f"The gate does not pass{f' against {last}' if last else ''}, as said above: put that right, or "
            "release all the same with OVERRIDE='the reason', which the notes will carry."
        )
    return f"{findings}\nReleased all the same: {override}"


def notes(tag: str, released: bundle.Bundle, last: str, verdict: str) -> str:
    """The release notes, as Markdown; they read what the gate wrote when it compared with `last`."""
    sources = (paths.METRICS, paths.AUDIT, outputs.COMPARISON)
    figures, audit, comparison = (json.loads(file.read_bytes()) for file in sources)
    test, patients = figures[tables.TEST], sum(audit["patients"].values())
    rows = [f"| {words} | {metrics.interval(**test[name])} |" for name, words in evaluation.FIGURES.items()]
    parts = [
        f"# {tag}",
        "Research use only. This is no medical device, and nothing it says is a diagnosis.",
        f"Trained, tuned and tested on {audit['accepted']:,} cells of {patients:,} patients (data.source: "
        f"{released.record.data_source}). To fetch the bundle:",
        f"    dvc artifacts get URL-OF-THIS-REPOSITORY {ARTIFACT} --rev {tag.rpartition('@')[2]}",
        f"The SHA-256 of its {bundle.MANIFEST}, which has those of all its files: `{released.manifest}`",
        f"## Figures on {evaluation.cells_in_words(test, 'test cells')}",
        "\n".join(["| figure (95 % interval over patients) | |", "|---|---|", *rows]),
    ]
    if last:
        numbers = summary.read(outputs.SUMMARY.read_bytes())
        changes = [f"- `{row['key']}`: {row['base']} → {row['branch']}" for row in comparison["changes"]]
        parts += [
            f"## Against {last}, on its test cells",
            f"On {numbers['cells']:,} cells of {numbers['patients']:,} patients. "
            f"{comparison['judged']['left_out']:,} others are of patients that this version learns from.",
            summary.figures(numbers),
            f"## Parameters changed since {last}\n\n" + ("\n".join(changes) or "None."),
        ]
    parts.append("## Gate\n\n" + "\n".join(f"    {line}" for line in verdict.splitlines()))
    return "\n\n".join(parts) + "\n"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    run_and_exit(main)
