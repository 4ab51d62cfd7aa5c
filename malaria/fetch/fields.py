"""Your own annotated fields of view: find their cells, cut them out, and label them by the annotations."""

import functools
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from malaria import params, processes, tables
from malaria.cells import names, patients
from malaria.cells.provenance import Provenance
from malaria.command import require
from malaria.errors import UserError
from malaria.fields import annotations
from malaria.labels import LABELS, PARASITIZED, UNINFECTED
from malaria.paths import FIELD_PICTURES, FIELDS, PATIENTS

_PICTURE_SIDE = 900  # px, the longer side of a field on the audit page
MAX_PICTURES = 12


@dataclass(frozen=True)
class FieldCells:
    """The cells of one field.

    rows: in the columns of tables.FIELDS. left_out: how many things were left out, by reason. digest: SHA-256
    of the cells' paths and pixels.
    """

    rows: list[tuple[str | int, ...]]
    left_out: Counter[str]
    digest: bytes


def fetch(
    data: params.Data, folder: Path, _cache: Path | None = None, *, one_class: bool = False
) -> Provenance:
    """Cut the cells out of the fields that `data.folder` holds, and write fields.csv and patients.csv.

    A cell without an annotation is uninfected if `data.fields.complete` says that all cells are annotated,
    and is left out otherwise. Everything that is left out is counted.

    Args:
        one_class: accept cells of one class alone; the other then has no folder.

    Raises:
        UserError: as `annotations.read`; or a field is not an image, a class has no cell, or scikit-image is
            missing.
    """
    require("skimage", "data.source: fields", "fields")
    source = Path(os.path.normpath(data.folder))
    if not source.exists():
        raise UserError(f"params.yaml: data.folder is {data.folder}, which is not there: name your fields.")
    fields = annotations.read(source, data.classes)
    paths = [_relative(source, field.image) for field in fields]
    for name in filter(names.UNPRINTABLE.search, paths):
        raise UserError(f"{source} has control characters in the name of {ascii(name)[1:-1]}: rename it.")
    table = patients.read(source) if source.is_dir() else {}
    patient_of, unused = patients.of_files(table, dict(zip(paths, paths, strict=True)), data.folder)
    (folder / FIELD_PICTURES).mkdir()
    tasks = [
        (number, field, patient_of.get(name) or _patient(name, data.fields.patient))
        for number, (field, name) in enumerate(zip(fields, paths, strict=True))
    ]
    cut = functools.partial(_cut_cells, folder, data.fields.complete)
    results = list(processes.map_in_order(cut, tasks, "cutting", batch=1, unit="fields"))
    rows = pd.DataFrame([row for result in results for row in result.rows], columns=list(tables.FIELDS))
    rows = rows.sort_values("path")
    missing = [label for label in LABELS if not rows.path.str.startswith(f"{label}/").any()]
    if len(missing) > one_class:
        raise UserError(
            f"{data.folder} has no cell that is {missing[0]} on its {len(fields):,} fields: annotate some, "
            "name your classes under data.classes, or set data.fields.complete where all are annotated."
        )
    tables.write(rows, folder / FIELDS, tables.FIELDS)
    tables.write(rows.rename(columns={"path": "file"}), folder / PATIENTS, tables.PATIENTS)
    left_out: Counter[str] = sum((result.left_out for result in results), Counter())
    if unannotated := annotations.images_below(source) - {field.image for field in fields}:
        left_out["images without annotations"] = len(unannotated)
    digest = hashlib.sha256(b"".join(result.digest for result in results)).hexdigest()
    ignored = tuple(f"{count:,} {reason}" for reason, count in sorted(left_out.items())) + unused
    return Provenance("fields", data.folder, "", digest, "the owner's own", len(rows), ignored)


def _relative(source: Path, image: Path) -> str:
    """The path of an image below `source`, or its name if it lies elsewhere."""
    return image.relative_to(source).as_posix() if image.is_relative_to(source) else image.name


def _patient(field: str, pattern: re.Pattern[str]) -> str:
    """The patient of a field that patients.csv does not name: the pattern's match, else the field itself.

    All copies of a field that Roboflow makes are of one patient.
    """
    match = pattern.search(field)
    return (match[match.re.groups] if match else "") or patients.without_extension(field)


def _cut_cells(folder: Path, complete: bool, task: tuple[int, annotations.AnnotatedField, str]) -> FieldCells:
    """Find and write a field's cells; `task`: the field's number, its annotations and its patient."""
    from malaria.fields import find, matching

    number, annotated, patient = task
    pixels = find.read(annotated.image)
    annotations.check_size(annotated, pixels.shape[1], pixels.shape[0])
    field, marks = find.find(pixels), annotated.marks
    matched = matching.match(field, marks)
    labels = {i: marks[j].label for i, j in matched.pairs}
    paired = {j for _, j in matched.pairs}
    parasites = [mark for j, mark in enumerate(marks) if mark.label == PARASITIZED and j not in paired]
    # A clump may be found as one cell, and a parasite may be annotated alone.
    unclear = [i for i in matched.extra if any(matching.overlap(field.cells[i], mark) for mark in parasites)]
    if complete:
        labels |= dict.fromkeys(sorted(set(matched.extra) - set(unclear)), UNINFECTED)
    cells = {i: label for i, label in sorted(labels.items()) if label in LABELS}
    left_out = Counter[str]()
    left_out["annotated cells that were not found"] = len(matched.missed)
    left_out["cells that were found and are not annotated"] = 0 if complete else len(matched.extra)
    left_out["cells that do not fit the parasitised one annotated there"] = len(unclear) if complete else 0
    left_out["annotated things that are no labelled red cell"] = len(labels) - len(cells)
    left_out[f"fields that are no thin film in focus: {field.kind}"] = field.kind != find.THIN_FILM
    rows: list[tuple[str | int, ...]] = []
    digest = hashlib.sha256()
    for i, label in cells.items():
        cell = field.cells[i]
        path = f"{label}/{number:05}_{annotated.image.stem}_{'_'.join(map(str, cell.box))}.png"
        (folder / label).mkdir(exist_ok=True)
        crop = find.crop(pixels, cell)
        Image.fromarray(crop).save(folder / path, compress_level=3)
        digest.update(f"{path}\0".encode() + crop.tobytes())
        rows.append((path, patient, annotated.image.name, *cell.box))
    if number < MAX_PICTURES:
        picture = matching.outlines(pixels, field, marks, matched)
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        picture.save(folder / FIELD_PICTURES / f"{number:05}_{annotated.image.stem}.jpg", quality=80)
    return FieldCells(rows, +left_out, digest.digest())
