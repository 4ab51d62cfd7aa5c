"""Release the bundle of the commit that is checked out: `make release VERSION=1.2.0`.

Checks that the workspace is clean, that dvc.lock is up to date, that the bundle was not made of synthetic
cells, that all outputs are in the remote, and that the gate passes against the last release. Then makes the
annotated tag malaria-cells@v1.2.0, whose message is the release notes: figures, and what changed since the
last release. Nothing is published: the last line says how.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import dvc.api
import yaml
from dvc.exceptions import DvcException

from malaria import bundle, paths, tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.evaluate import evaluation, metrics

# The artifact of dvc.yaml, and with it the first part of the tags' names: the convention of GTO and DVC.
ARTIFACT = "malaria-cells"

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")

# Where these are the same in both releases, so are the test cells.
_CELLS = ("data/raw", "data/splits.csv")


@dataclass(frozen=True)
class State:
    """What a commit's files say of its run: parsed reports/metrics.json, reports/audit.json and dvc.lock."""

    name: str
    metrics: dict[str, Any]
    audit: dict[str, Any]
    lock: dict[str, Any]

    @property
    def hashes(self) -> dict[str, str]:
        """Of all outputs, by their paths."""
        return {out["path"]: out["md5"] for stage in self.lock.values() for out in stage.get("outs", [])}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ci.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", help="as 1.2.0: semantic versioning")
    parser.add_argument(
        "--override", metavar="REASON", help="release although the gate fails; the notes carry the reason"
    )
    parser.add_argument("--dry", action="store_true", help="check and show the notes, and make no tag")
    arguments = parser.parse_args()

    last = last_release()
    tag = check_version(arguments.version, last)
    check_clean()
    check_up_to_date()
    record = check_real()
    check_pushed()
    verdict = check_gate(last, *gate(last), arguments.override)
    text = notes(tag, record, state("HEAD"), state(last) if last else None, verdict)
    print(text)
    if arguments.dry:
        print(f"{tag} could be released.")
        return 0
    from gto import api

    api.register(".", ARTIFACT, "HEAD", version=f"v{arguments.version}", message=text)
    print(f"{tag} is made here. To publish it: git push origin HEAD {tag}")
    return 0


def last_release() -> str:
    """The tag of the highest version so far; empty where there is none."""
    versions = [tag.rpartition("@v")[2] for tag in _git("tag", "--list", f"{ARTIFACT}@v*").splitlines()]
    released = [version for version in versions if _VERSION.fullmatch(version)]
    return f"{ARTIFACT}@v{max(released, key=_numbers)}" if released else ""


def check_version(version: str, last: str) -> str:
    """The tag for `version`, which has to be above that of the tag `last`."""
    if not _VERSION.fullmatch(version):
        raise UserError(f"VERSION is {version!r}, but must be three numbers, as 1.2.0.")
    if last and _numbers(version) <= _numbers(last.rpartition("@v")[2]):
        raise UserError(f"VERSION is {version}, but {last} is released already: choose a higher one.")
    return f"{ARTIFACT}@v{version}"


def check_clean() -> None:
    changed = _git("status", "--porcelain").splitlines()
    if changed:
        first = changed[0].split(maxsplit=1)[-1]
        raise UserError(f"The workspace has changes that no commit has ({first} is the first): commit them.")


def check_up_to_date() -> None:
    stale = json.loads(_dvc("status", "--json"))
    if stale:
        raise UserError(
            f"dvc.lock is not up to date (dvc status: {', '.join(stale)}): run `dvc repro` (or `dvc pull`, "
            "where results are only missing here), and commit what changed."
        )


def check_real() -> bundle.Record:
    """The record of the bundle, which must be whole and of real cells."""
    record = bundle.load(paths.BUNDLE).record
    if record.synthetic:
        raise UserError(
            f"{paths.BUNDLE} was made of synthetic cells and says nothing about real ones: set data.source "
            "in params.yaml (nlm brings the real set), run `dvc repro`, commit, and release that."
        )
    return record


def check_pushed() -> None:
    missing = sorted(json.loads(_dvc("status", "--cloud", "--json")))
    if missing:
        raise UserError(
            f"{len(missing):,} of the outputs' files are not in the remote ({missing[0]} is the first): run "
            "`make push`."
        )


def gate(last: str) -> tuple[bool, str]:
    """Whether the gate passes against the release `last`, or by itself without one, and what it says."""
    # A commit that holds nothing, and no branch: beside it the gate's absolute limits alone count.
    base = last or _git("commit-tree", "-m", "before the first release", _git("mktree"))
    command = [sys.executable, "-m", "ci.gate", "--base", base]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="")
    return done.returncode == 0, done.stdout.strip()


def check_gate(last: str, passed: bool, said: str, override: str | None) -> str:
    """What the notes say of the gate.

    Raises:
        UserError: it fails, and no reason to override it is given.
    """
    if passed:
        return said
    if not override:
        raise UserError(
            f"The gate does not pass{f' against {last}' if last else ''}, as said above: mend that, or "
            "release all the same with OVERRIDE='the reason', which the notes will carry."
        )
    return f"{said}\nReleased all the same: {override}"


def state(revision: str) -> State:
    """What a commit's results say, from DVC's cache or its remote; UserError where neither has them."""
    try:
        metrics, audit = (
            json.loads(dvc.api.read(str(path), rev=revision)) for path in (paths.METRICS, paths.AUDIT)
        )
    except (DvcException, OSError):
        raise UserError(
            f"The results of {revision} are in neither DVC's cache nor the remote: fetch them with "
            f"`dvc fetch` in a checkout of {revision}, or push them from where they are."
        ) from None
    lock = yaml.safe_load(_git("show", f"{revision}:{paths.LOCK}"))["stages"]
    return State(revision, metrics, audit, lock)


def notes(tag: str, record: bundle.Record, new: State, old: State | None, verdict: str) -> str:
    """The release notes, as Markdown."""
    test, audit = new.metrics[tables.TEST], new.audit
    patients = sum(audit["patients"].values())
    parts = [
        f"# {tag}",
        "Research use only. This is no medical device, and nothing it says is a diagnosis.",
        f"Trained, tuned and tested on {audit['accepted']:,} cells of {patients:,} patients (data.source: "
        f"{record.data_source}). To fetch the bundle:",
        f"    dvc artifacts get URL-OF-THIS-REPOSITORY {ARTIFACT} --rev {tag.rpartition('@')[2]}",
        f"## Figures on {test['cells']:,} test cells of {test['patients']:,} patients",
        _figures(new, old),
    ]
    if old:
        parts.append(f"## Parameters changed since {old.name}\n\n{_parameters(old.name)}")
    parts.append("## Gate\n\n" + "\n".join(f"    {line}" for line in verdict.splitlines()))
    return "\n\n".join(parts) + "\n"


def _figures(new: State, old: State | None) -> str:
    now = new.metrics[tables.TEST]
    if old is None:
        rows = [f"| {words} | {metrics.interval(**now[name])} |" for name, words in evaluation.MAIN.items()]
        return "\n".join(["| figure (95 % interval over patients) | |", "|---|---|", *rows])
    same = all(new.hashes.get(path) == old.hashes.get(path) for path in _CELLS)
    before = old.metrics[tables.TEST]
    rows = [
        f"| {words} | {metrics.interval(**before[name])} | {metrics.interval(**now[name])} "
        f"| {_change(before[name]['value'], now[name]['value']) if same else ''} |"
        for name, words in evaluation.MAIN.items()
    ]
    table = ["| figure (95 % interval over patients) | before | now | change |", "|---|---|---|---|", *rows]
    if not same:
        table.append(f"\nThe test cells are not those of {old.name}: the two columns cannot be subtracted.")
    return "\n".join(table)


def _change(before: float | None, now: float | None) -> str:
    return "" if before is None or now is None else f"{now - before:+.4f}"


def _parameters(since: str) -> str:
    changed = json.loads(_dvc("params", "diff", "--json", since, "HEAD")).get(str(paths.PARAMS), {})
    rows = [
        f"- `{key}`: {values.get('old')} → {values.get('new')}" for key, values in sorted(changed.items())
    ]
    return "\n".join(rows) or "None."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _git(*arguments: str) -> str:
    return _said(["git", *arguments])


def _dvc(*arguments: str) -> str:
    return _said([sys.executable, "-m", "dvc", *arguments])


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or [
            "without a word"
        ]
        errors = [line for line in lines if line.startswith(("ERROR", "fatal"))] or lines
        raise UserError(f"`{' '.join(command[-3:])}` failed: {errors[0]}")
    return done.stdout.strip()


if __name__ == "__main__":
    end_with(main)
