"""Read every image once: accept it as a cell, or set it aside and say why."""

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from malaria import files, params, paths, processes, tables
from malaria.cells import images, names, slides
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED

# A reason may go on after a colon, with what concerns the one image; what stands before is counted.
DUPLICATE = "duplicate"
BOTH_LABELS = "under both labels"
UNPRINTABLE = "control characters in the file name"

MOST_EXAMPLES = 5

# What no CSV file or page should have to carry: control characters, line ends, halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Provenance:
    """Where `fetch` had the cells from, as far as its record tells; texts may be empty."""

    source: str = ""
    origin: str = ""
    version: str = ""
    checksum: str = ""
    licence: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        return self.source == "sample"


@dataclass(frozen=True)
class Summary:
    """The audit in numbers, each a DVC metric.

    Sides are the longer ones of accepted cells, in px. A patient is infected who has an accepted
    parasitised cell. `reasons` counts what was set aside, most frequent first. `slides` is empty without
    the publisher's slides.csv, else how many images it tells the slide of, how many it does not
    (`missing`), and how many it puts on another slide than their names do, with `examples`.
    """

    images: int
    accepted: int
    cells: dict[str, int]
    patients: dict[str, int]
    cells_without_patient: int
    top_ten_share_of_parasitized: float
    side_px: dict[str, float]
    quarantined: int
    quarantined_share: float
    reasons: dict[str, int]
    slides: dict[str, Any]


def audit(raw: Path, settings: params.Audit, workers: int | None = None) -> pd.DataFrame:
    """One row an image below the class folders of `raw`, in the columns of tables.CELLS.

    An image is quarantined that cannot be read as a cell crop; that repeats the bytes of one before
    it, by path, under the same label; or whose bytes lie under both labels, every copy of it. A cell
    whose patient neither patients.csv nor its name tells has an empty one.

    Args:
        workers: processes to read with; None takes what the machine suggests.

    Raises:
        UserError: a class folder is missing or empty; patients.csv or slides.csv is no such table.
    """
    found = sorted(path for label in LABELS for path in _files(raw, label))
    given = read_patients(raw)
    published = slides.read(raw / paths.SLIDES)
    limits = images.Limits(settings.min_side, settings.max_pixels)
    work = functools.partial(images.examine, raw, limits)
    rows = []
    for path, finding in zip(found, processes.in_order(work, found, "audit", workers), strict=True):
        shown, reason = path, finding.reason
        if _UNPRINTABLE.search(path):
            shown, reason = ascii(path)[1:-1], UNPRINTABLE
        known = published.get(path) or names.parse(path.rpartition("/")[2])
        rows.append(
            {
                "path": shown,
                "label": path.partition("/")[0],
                "patient": given_patient(given, path) or (known.patient if known else ""),
                "slide": known.slide if known else "",
                "width": finding.width,
                "height": finding.height,
                "sha256": finding.sha256,
                "status": tables.QUARANTINED if reason else tables.OK,
                "reason": reason,
            }
        )
    cells = pd.DataFrame(rows, columns=list(tables.CELLS)).astype(tables.CELLS)
    return _set_copies_aside(cells).sort_values("path", ignore_index=True)


def check(
    cells: pd.DataFrame,
    settings: params.Audit,
    folder: Path = paths.RAW,
    advice: str = f"look at {paths.AUDIT_PAGE}, then mend the data",
) -> None:
    """Stop where too little is left to build on.

    Args:
        folder, advice: where the cells are from and what to do, for the sentence.

    Raises:
        UserError: a class has no accepted image, or more than `settings.max_quarantined` of all
            images are quarantined.
    """
    aside = cells[cells.status == tables.QUARANTINED]
    for label in LABELS:
        if not ((cells.label == label) & (cells.status == tables.OK)).any():
            reasons = _most_frequent(aside[aside.label == label])
            raise UserError(f"{folder} holds no {label} image that can be used ({reasons}): {advice}.")
    share = len(aside) / len(cells)
    if share > settings.max_quarantined:
        raise UserError(
            f"{len(aside):,} of {len(cells):,} images ({share:.1%}) were set aside, more than the "
            f"{settings.max_quarantined:.1%} of audit.max_quarantined ({_most_frequent(aside)}): {advice} or "
            "raise audit.max_quarantined in params.yaml."
        )


def count_reasons(aside: pd.DataFrame) -> dict[str, int]:
    """How often each reason occurs in the quarantined rows, the most frequent first."""
    counts = Counter(reason.partition(":")[0] for reason in aside.reason)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def summarise(cells: pd.DataFrame, published: Mapping[str, slides.Row] = MappingProxyType({})) -> Summary:
    """The numbers of an audit's rows (tables.CELLS); `published` is what slides.csv says, by path."""
    accepted = cells[cells.status == tables.OK]
    aside = cells[cells.status == tables.QUARANTINED]
    known = accepted[accepted.patient != ""]
    parasitized = accepted[accepted.label == PARASITIZED]
    infected = known.patient[known.label == PARASITIZED].nunique()
    largest = parasitized[parasitized.patient != ""].groupby("patient").size().nlargest(10)
    sides = accepted[["width", "height"]].max(axis=1)
    return Summary(
        images=len(cells),
        accepted=len(accepted),
        cells={label: int((accepted.label == label).sum()) for label in reversed(LABELS)},
        patients={"infected": int(infected), "controls": int(known.patient.nunique() - infected)},
        cells_without_patient=int((accepted.patient == "").sum()),
        top_ten_share_of_parasitized=round(float(largest.sum() / max(len(parasitized), 1)), 4),
        side_px={
            "smallest": int(sides.min()),
            "median": float(sides.median()),
            "largest": int(sides.max()),
        }
        if len(sides)
        else {},
        quarantined=len(aside),
        quarantined_share=round(len(aside) / max(len(cells), 1), 4),
        reasons=count_reasons(aside),
        slides=_compare_slides(cells, published) if published else {},
    )


def _compare_slides(cells: pd.DataFrame, published: Mapping[str, slides.Row]) -> dict[str, Any]:
    differing = []
    told = [path for path in cells.path.tolist() if path in published]
    for path in told:
        row, name = published[path], names.parse(path.rpartition("/")[2])
        if name is None:
            differing.append(f"{path}: {paths.SLIDES} says slide {row.slide}, the name tells none")
        elif (name.slide, name.patient) != (row.slide, row.patient):
            differing.append(
                f"{path}: {paths.SLIDES} says slide {row.slide} of {row.patient}, the name {name.slide} of "
                f"{name.patient}"
            )
    return {
        "told": len(told),
        "missing": len(cells) - len(told),
        "disagreeing": len(differing),
        "examples": differing[:MOST_EXAMPLES],
    }


def notes(raw: Path, cells: pd.DataFrame, provenance: Provenance, summary: Summary) -> tuple[str, ...]:
    """What whoever uses these cells should know and numbers do not say, a sentence each."""
    accepted = cells[cells.status == tables.OK]
    found = [f"Left out when the cells were fetched: {entry}." for entry in provenance.ignored]
    nobody = int((accepted.patient == "").sum())
    if nobody:
        found.append(
            f"Cells whose patient is unknown: {nobody:,}. Neither names nor {paths.PATIENTS} tell it, so "
            "each counts as a patient of its own; a split of them is not by patient, and figures on it say "
            "nothing of new patients."
        )
    given = read_patients(raw)
    # Without a table only the names of parasitised cells can say what their folder does not.
    telling = accepted if given else accepted[accepted.label == PARASITIZED]
    parsed = {path: names.parse(path.rpartition("/")[2]) for path in telling.path.tolist()}
    differing = [
        path
        for path, name in parsed.items()
        if name and (stated := given_patient(given, path)) and stated != name.patient
    ]
    if differing:
        found.append(
            f"Cells to which {paths.PATIENTS} gives another patient than their names do: {len(differing):,} "
            f"(one is {differing[0]}). The table was believed."
        )
    told = summary.slides
    if told.get("disagreeing"):
        found.append(
            f"Cells that {paths.SLIDES} puts on another slide than their names do: {told['disagreeing']:,} "
            f"({'; '.join(told['examples'])}). The table was believed."
        )
    if told.get("missing"):
        found.append(
            f"Images that {paths.SLIDES} does not know: {told['missing']:,}. Their names were believed."
        )
    unused = set(given)
    if unused:
        unused -= {key for path in cells.path.tolist() for key in _patient_keys(path)}
    if unused:
        found.append(f"Rows of {paths.PATIENTS} that match no image: {len(unused):,} (one is {min(unused)}).")
    odd = [
        path for path, name in parsed.items() if name and not name.infected and path.startswith(PARASITIZED)
    ]
    if odd:
        found.append(
            f"Parasitised cells with the name of an uninfected control: {len(odd):,} (one is {odd[0]})."
        )
    return tuple(found)


def read_provenance(raw: Path) -> Provenance:
    """The record that `fetch` left in `raw`; an empty one where there is none."""
    try:
        record: Any = json.loads((raw / paths.PROVENANCE.name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Provenance()
    if not isinstance(record, dict):
        return Provenance()
    texts = {
        key: str(record.get(key) or "") for key in ("source", "origin", "version", "checksum", "licence")
    }
    ignored = record.get("ignored")
    return Provenance(**texts, ignored=tuple(map(str, ignored)) if isinstance(ignored, list) else ())


def read_patients(raw: Path) -> dict[str, str]:
    """`patients.csv` in `raw`: the patient of each file it names; empty where there is no table.

    Raises:
        UserError: it is no CSV table with the columns file and patient, has longer rows, or gives a file
            twice.
    """
    file = raw / paths.PATIENTS
    if not file.exists():
        return {}
    try:
        table = pd.read_csv(file, dtype="str", keep_default_na=False)
    except (ValueError, OSError):
        raise UserError(f"{file} is no CSV table: it needs the columns file,patient.") from None
    if not {"file", "patient"} <= set(table.columns):
        raise UserError(
            f"{file} has the columns {', '.join(map(str, table.columns))}, but needs file,patient."
        )
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first column of rows that are longer than the header for their names.
        raise UserError(f"{file} has rows with more values than columns: take the commas off their ends.")
    table = table.assign(
        file=table.file.str.strip().str.replace("\\", "/"), patient=table.patient.str.strip()
    )
    table = table[table.patient != ""].drop_duplicates(["file", "patient"])
    twice = table.file[table.file.duplicated()]
    if len(twice):
        raise UserError(f"{file} gives {twice.iloc[0]} to two patients: keep one row a file.")
    return dict(zip(table.file, table.patient, strict=True))


def given_patient(given: dict[str, str], path: str) -> str:
    """The patient that patients.csv gives to `path`, told by the most precise name; or none."""
    return next((given[key] for key in _patient_keys(path) if key in given), "")


def _patient_keys(path: str) -> tuple[str, str, str]:
    """How patients.csv may call a file: by its path below raw or its class folder, or by its name."""
    return path, path.partition("/")[2], path.rpartition("/")[2]


def _files(raw: Path, label: str) -> Iterator[str]:
    """Every file below a class folder, relative to `raw`, with forward slashes.

    Raises:
        UserError: the folder is missing or empty.
    """
    folder = raw / label
    advice = "check data.folder and data.classes, or run `dvc repro -f fetch`."
    if not folder.is_dir():
        raise UserError(f"{raw} has no folder {label}: {advice}")
    found = []
    for above, _, inside in files.walk(folder):
        start = Path(above).relative_to(raw).as_posix()
        found += [f"{start}/{name}" for name in inside]
    if not found:
        raise UserError(f"{folder} holds no file: {advice}")
    yield from found


def _set_copies_aside(cells: pd.DataFrame) -> pd.DataFrame:
    """Quarantine repeated images; `cells` is sorted by path."""
    copies = defaultdict(list)
    # Rows one by one are many times slower to take from a column than from a list.
    for row, (sha256, status) in enumerate(zip(cells.sha256.tolist(), cells.status.tolist(), strict=True)):
        if status == tables.OK:
            copies[sha256].append(row)
    reasons = cells.reason.tolist()
    for same in copies.values():
        if len(same) == 1:
            continue
        by_label = {label: [row for row in same if cells.label[row] == label] for label in LABELS}
        if not all(by_label.values()):
            for row in same[1:]:
                reasons[row] = f"{DUPLICATE}: of {cells.path[same[0]]}"
            continue
        for label, other in (LABELS, LABELS[::-1]):
            also = cells.path[by_label[other][0]]
            for row in by_label[label]:
                reasons[row] = f"{BOTH_LABELS}: also {also}"
    reason = pd.Series(reasons, dtype="str", index=cells.index)
    return cells.assign(reason=reason, status=cells.status.where(reason == "", tables.QUARANTINED))


def _most_frequent(aside: pd.DataFrame) -> str:
    """The three most frequent reasons in words: `damaged or cut short: 3, duplicate: 1`."""
    return ", ".join(f"{reason}: {count:,}" for reason, count in list(count_reasons(aside).items())[:3])
