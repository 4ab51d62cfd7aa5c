"""Read every image once: accept it as a cell, or set it aside and say why."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from malaria import files, params, paths, processes, tables
from malaria.cells import images, names, patients
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED, UNINFECTED

# Reasons. The text after a colon is about one image; reasons are counted by the text before it.
DUPLICATE = "duplicate"
BOTH_LABELS = "under both labels"
UNPRINTABLE = "control characters in the file name"

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Summary:
    """The audit in numbers, as reports/audit.json has them.

    `side_px` is about the longer sides of accepted cells, in px. A patient with an accepted parasitised cell
    counts as infected. `reasons` counts the images that were set aside, the most frequent reason first.
    `slides` is empty without the publisher's slides.csv. Otherwise it counts the images that the table gives
    a slide (`told`), those that it lacks (`missing`), and those whose names give another slide or patient
    (`disagreeing`), with `examples`.
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


def audit(raw: Path, settings: params.Audit) -> pd.DataFrame:
    """Examine each image below the class folders of `raw`.

    An image is quarantined if it cannot be read as a cell crop, if its file name has control characters, if
    an earlier path with the same label has the same bytes, or if the other label has the same bytes (then
    every copy is). The patient is that of patients.csv, of slides.csv or of the file name, else empty.

    Returns:
        One row for each image, in the columns of tables.CELLS, sorted by path.

    Raises:
        UserError: there is no image, or patients.csv or slides.csv is not such a table.
    """
    walks = chain.from_iterable(files.walk(raw / label) for label in LABELS if (raw / label).is_dir())
    image_files = (Path(folder, name) for folder, _, file_names in walks for name in file_names)
    image_paths = sorted(file.relative_to(raw).as_posix() for file in image_files)
    if not image_paths:
        raise UserError(
            f"{raw} holds no cell: check data.folder and data.classes, or run `dvc repro -f fetch`."
        )
    patient_of = patients.read(raw)
    published = patients.read_slides(raw)
    limits = images.Limits(settings.min_side, settings.max_pixels)
    examine = functools.partial(images.examine, raw, limits)
    rows = []
    for path, finding in zip(image_paths, processes.map_in_order(examine, image_paths, "audit"), strict=True):
        printable, reason = path, finding.reason
        if names.UNPRINTABLE.search(path):
            printable, reason = ascii(path)[1:-1], UNPRINTABLE
        cell_name = published.get(path) or names.parse(Path(path).name)
        rows.append(
            {
                **vars(finding),
                "path": printable,
                "label": path.partition("/")[0],
                "patient": patient_of.get(path) or (cell_name.patient if cell_name else ""),
                "slide": cell_name.slide if cell_name else "",
                "reason": reason,
            }
        )
    cells = pd.DataFrame(rows)
    first_path = cells[cells.reason == ""].groupby(["sha256", "label"]).path.first().to_dict()
    cells["reason"] = [str(row.reason) or _reason_of_copy(row, first_path) for row in cells.itertuples()]
    cells["status"] = cells.reason.eq("").map({True: tables.OK, False: tables.QUARANTINED})
    return cells[list(tables.CELLS)].astype(tables.CELLS).sort_values("path", ignore_index=True)


def check(
    cells: pd.DataFrame, settings: params.Audit, folder: Path = paths.RAW, labels: Sequence[str] = LABELS
) -> None:
    """Stop the run if the audit accepted too few images.

    Args:
        folder: where the cells are from, for the error message.
        labels: classes that must have an accepted image.

    Raises:
        UserError: a class has no accepted image, or more than `settings.max_quarantined` of all
            images are quarantined.
    """
    page = f"look at {paths.AUDIT_PAGE}, then correct the data"
    advice = page if folder == paths.RAW else "put the data right"
    quarantined = cells[cells.status == tables.QUARANTINED]
    for label in labels:
        if not ((cells.label == label) & (cells.status == tables.OK)).any():
            reasons = _most_frequent(quarantined[quarantined.label == label]) or "none is there"
            raise UserError(f"{folder} holds no {label} image that can be used ({reasons}): {advice}.")
    share = len(quarantined) / len(cells)
    if share > settings.max_quarantined:
        raise UserError(
            f"{len(quarantined):,} of {len(cells):,} images ({share:.1%}) were set aside, more than the "
            f"{settings.max_quarantined:.1%} of audit.max_quarantined ({_most_frequent(quarantined)}; one is "
            f"{quarantined.path.iloc[0]}): {advice} or raise audit.max_quarantined in params.yaml."
        )


def count_reasons(quarantined: pd.DataFrame) -> dict[str, int]:
    """How often each reason occurs in the quarantined rows, the most frequent first."""
    return dict(Counter(sorted(reason.partition(":")[0] for reason in quarantined.reason)).most_common())


def summarise(cells: pd.DataFrame, published: Mapping[str, names.CellName] | None = None) -> Summary:
    """Summarise an audit's rows (tables.CELLS); `published` is slides.csv by path."""
    accepted = cells[cells.status == tables.OK]
    quarantined = cells[cells.status == tables.QUARANTINED]
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
        side_px={"smallest": int(sides.min()), "median": float(sides.median()), "largest": int(sides.max())}
        if len(sides)
        else {},
        quarantined=len(quarantined),
        quarantined_share=round(len(quarantined) / max(len(cells), 1), 4),
        reasons=count_reasons(quarantined),
        slides=_compare_slides(cells, published) if published else {},
    )


def _compare_slides(cells: pd.DataFrame, published: Mapping[str, names.CellName]) -> dict[str, Any]:
    """Compare slide and patient in slides.csv with those in file names, for `Summary.slides`."""
    listed = {path: published[path] for path in cells.path.tolist() if path in published}
    disagreements = []
    for path, row in listed.items():
        name = names.parse(Path(path).name)
        if name != row:
            by_table = f"{path}: {paths.SLIDES} says slide {row.slide} of {row.patient}"
            by_name = f"{name.slide} of {name.patient}" if name else "none"
            disagreements.append(f"{by_table}, the name {by_name}")
    return {
        "told": len(listed),
        "missing": len(cells) - len(listed),
        "disagreeing": len(disagreements),
        "examples": disagreements[:MAX_EXAMPLES],
    }


def bits_in_use(cells: pd.DataFrame) -> int:
    """The most bits that an accepted 16-bit image uses, by which all are scaled; 0 without such images."""
    return max(map(int, cells.bits[cells.status == tables.OK]), default=0)


def notes(raw: Path, cells: pd.DataFrame, provenance: Provenance, summary: Summary) -> tuple[str, ...]:
    """Remarks for users of these cells that the numbers do not show, one text each; may be empty."""
    accepted = cells[cells.status == tables.OK]
    patient_of = patients.read(raw)
    cell_names = {path: name for path in accepted.path if (name := names.parse(Path(path).name))}
    other_patient = [p for p, name in cell_names.items() if patient_of.get(p, name.patient) != name.patient]
    multi_page = [f"{row.path}: page 1 of {row.pages}" for row in accepted[accepted.pages > 1].itertuples()]
    deep = accepted.path[accepted.bits > 0].tolist()
    controls = [p for p, name in cell_names.items() if not name.infected and p.startswith(PARASITIZED)]
    slides = summary.slides
    remarks = [f"Left out when the cells were fetched: {entry}." for entry in provenance.ignored]

    def note(subject: str, count: int, remark: str = "", examples: Sequence[str] = ()) -> None:
        such_as = f" (such as {'; '.join(examples)})" if examples else ""
        if count:
            remarks.append(f"{subject}: {count:,}{such_as}. {remark}".rstrip())

    note(
        "Cells whose patient is unknown",
        summary.cells_without_patient,
        f"Neither names nor {paths.PATIENTS} give it, so each counts as a patient of its own; a split of "
        "them is not by patient, and its figures say nothing about new patients.",
    )
    table_used = "The table was used."
    subject = f"Cells to which {paths.PATIENTS} gives another patient than their names do"
    note(subject, len(other_patient), table_used, other_patient[:1])
    subject = f"Cells that {paths.SLIDES} puts on another slide than their names do"
    note(subject, slides.get("disagreeing", 0), table_used, slides.get("examples", ()))
    note(f"Images that {paths.SLIDES} does not know", slides.get("missing", 0), "Their names were used.")
    note("Parasitised cells with the name of an uninfected control", len(controls), examples=controls[:1])
    note("Files of several pages, of which the first was read", len(multi_page), examples=multi_page[:1])
    scaling = f"They use {bits_in_use(cells)} bits at most, and all were scaled by this number."
    note("Files of 16 bits a colour", len(deep), scaling, deep[:1])
    return tuple(remarks)


def _reason_of_copy(row: Any, first_path: Mapping[Any, str]) -> str:
    """Why a readable image is set aside for one with the same bytes; empty if it stays.

    Args:
        first_path: the first path with the same bytes under a label, by hash and label.
    """
    opposite = first_path.get((row.sha256, UNINFECTED if row.label == PARASITIZED else PARASITIZED))
    if opposite:
        return f"{BOTH_LABELS}: also {opposite}"
    first = first_path[row.sha256, row.label]
    return f"{DUPLICATE}: of {first}" if first != row.path else ""


def _most_frequent(quarantined: pd.DataFrame) -> str:
    """The three most frequent reasons in words: `damaged or cut short: 3, duplicate: 1`."""
    most_frequent = list(count_reasons(quarantined).items())[:3]
    return ", ".join(f"{reason}: {count:,}" for reason, count in most_frequent)
