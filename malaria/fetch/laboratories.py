"""Read labelled cells of other laboratories, for training or evaluation: a folder with a set of each.

A set is a folder, zip or tar with class folders, or a folder of annotated fields of view, whose cells are
found and cut out. It may have cells of one class alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from malaria import files, params, tables
from malaria.cells import audit, names, patients
from malaria.errors import UserError
from malaria.fetch import archives, class_folders, fields
from malaria.fields import annotations
from malaria.labels import LABELS

# FIELD__3.png is a cell of the field of view FIELD, as tools that cut cells out of fields name them.
_FIELD = re.compile(r"(.+)__\d+$")


def sets(folder: Path) -> dict[str, Path]:
    """The sets in `folder`, by the name of the set's folder or archive up to its first dot.

    Raises:
        UserError: `folder` is missing, a set is an archive that cannot be read or a link to nothing, or two
            have the same name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: make the folder, with a set of cells for each laboratory.")
    paths: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if not files.is_litter(path.name)):
        if not path.exists():
            raise UserError(f"{path} is a link to nothing: bring what it points to, or delete it.")
        name = path.name.partition(".")[0]
        if not path.is_dir() and not archives.is_archive(path):
            # Any other file may be a note.
            if not path.name.lower().endswith(archives.SUFFIXES):
                continue
            raise UserError(f"{path} is an archive that cannot be read: pack it as zip or tar, or unpack it.")
        twin = paths.setdefault(name, path)
        if twin != path:
            raise UserError(f"{folder} has {twin.name} and {path.name}, both named {name}: rename one.")
    return paths


def to_train_on(settings: params.Laboratories) -> dict[str, Path]:
    """The sets to train on: all in the folder but those in `leave_out`.

    Raises:
        UserError: a set in `leave_out` is missing.
    """
    paths = sets(Path(settings.folder))
    for name in settings.leave_out:
        if paths.pop(name, None) is None:
            raise UserError(
                f"params.yaml: laboratories.leave_out names {name}, but {settings.folder} has no such set."
            )
    return paths


def place(path: Path, raw: Path, settings: params.Params) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Bring the cells of one set into the new folder `raw`, and audit them.

    Returns:
        Accepted cells with the columns of tables.CELLS; paths are relative to the parent of `raw`. `patient`
        is never empty: an unknown one is the field of view in the cell's name, if it has one, else the cell
        itself. And a phrase for each kind of thing that was left out.

    Raises:
        UserError: there are neither class folders nor annotations, or too many images are set aside; as
            `fields.fetch`.
    """
    classes, limits = settings.data.classes, settings.audit
    raw.mkdir()
    if path.is_dir() and _is_annotated(path, classes):
        provenance = fields.fetch(settings.data.model_copy(update={"folder": str(path)}), raw, one_class=True)
    else:
        with archives.as_folder(path, raw) as (contents, put):
            provenance = class_folders.place(contents, raw, put, str(path), classes, one_class=True)
    cells = audit.audit(raw, limits)
    audit.check(cells, limits, path, sorted(set(cells.label)))
    accepted = patients.accepted(cells)
    field_names = accepted.path.map(lambda name: Path(name).stem).str.extract(_FIELD, expand=False)
    unknown = ~patients.is_known(accepted.patient) & field_names.notna()
    patient = accepted.patient.mask(unknown, field_names)
    counts = audit.count_reasons(cells[cells.status == tables.QUARANTINED])
    left_out = *provenance.ignored, *(f"{n:,} images set aside: {reason}" for reason, n in counts.items())
    return accepted.assign(path=f"{raw.name}/" + accepted.path, patient=f"{raw.name} " + patient), left_out


def _is_annotated(folder: Path, classes: Mapping[str, str]) -> bool:
    """Whether a folder holds annotated fields: annotation files and no class folders."""
    subfolders = {names.folded(name) for _, folders, _ in files.walk(folder) for name in folders}
    class_names = map(names.folded, (*LABELS, *classes))
    return subfolders.isdisjoint(class_names) and bool(annotations.annotation_files(folder))
