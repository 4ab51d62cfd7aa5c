"""Your own cells: a folder, zip or tar with one sub-folder per class."""

import csv
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from malaria import files, params
from malaria.errors import UserError
from malaria.fetch import archives
from malaria.fetch.sources import Provenance
from malaria.labels import LABELS
from malaria.paths import PATIENTS

_LITTER = {*files.LITTER, "__macosx"}


def fetch(data: params.Data, folder: Path, _cache: Path | None = None) -> Provenance:
    """Copy the class folders of `data.folder`, and its patients.csv if there is one.

    Links to files are followed: what is copied is what they lead to.

    Raises:
        UserError: no such folder; class folders missing, doubled or empty; a patients.csv of
            another shape; an archive that `archives` refuses.
    """
    given = Path(data.folder)
    if archives.is_archive(given):
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacked.", suffix=".part") as unpacked:
            archives.unpack(given, Path(unpacked))
            # Moved, so that an archive never takes its space twice.
            return _place(Path(unpacked), data, folder, os.replace)
    if not given.is_dir():
        what = "no zip or tar archive" if given.is_file() else "not there"
        raise UserError(
            f"params.yaml: data.folder is {data.folder}, which is {what}: name a folder of cells."
        )
    return _place(given, data, folder, shutil.copyfile)


def _place(given: Path, data: params.Data, folder: Path, put: Callable[[Path, Path], object]) -> Provenance:
    classes = _class_folders(given, data)
    litter = astray = 0
    digest = hashlib.sha256()
    count = 0
    for label, source in classes.items():
        found = _below(source)
        astray += sum(path.is_symlink() and not path.is_file() for path in found)
        paths = [path for path in found if path.is_file()]
        for path in tqdm(paths, desc=label, unit="cell", disable=None):
            inner = path.relative_to(source)
            if any(part.startswith(".") or part.lower() in _LITTER for part in inner.parts):
                litter += 1
                continue
            target = folder / label / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            put(path, target)
            digest.update(f"{label}/{inner.as_posix()}\0{files.sha256(target)}\n".encode())
            count += 1
        if not (folder / label).is_dir():
            raise UserError(
                f"{data.folder}: the class folder {source.name} holds no file: put images into it."
            )
    _copy_patients(next(iter(classes.values())).parent, data, folder)
    ignored = [f"{litter} files that file browsers leave behind"] if litter else []
    if astray:
        ignored.append(f"{astray} links to folders, or to nothing")
    again = _second_copies(given, classes)
    if again:
        ignored.append(f"{again} further folders with the names of the class folders, deeper down")
    return Provenance(
        source="folder",
        origin=data.folder,
        version="",
        checksum=digest.hexdigest(),
        licence="the owner's own",
        cells=count,
        ignored=tuple(ignored),
    )


def _class_folders(given: Path, data: params.Data) -> dict[str, Path]:
    """The folder of each label: on the shallowest level that has a folder for every one."""
    labels = _labels(data)
    seen: set[str] = set()
    for level in _levels(given):
        found: dict[str, Path] = {}
        for folder in sorted(path for path in level.iterdir() if path.is_dir()):
            label = labels.get(folder.name.lower())
            if label is None:
                seen.add(folder.name)
            elif label in found:
                raise UserError(
                    f"{data.folder} has two folders for {label}, {found[label].name} and {folder.name}: "
                    "merge them."
                )
            else:
                found[label] = folder
        if len(found) == len(LABELS):
            return {label: found[label] for label in LABELS}
        if found:
            missing = next(label for label in LABELS if label not in found)
            raise UserError(
                f"{data.folder} has no folder for {missing} beside {next(iter(found.values())).name}: add "
                "it, or name yours under data.classes in params.yaml."
            )
    others = ", ".join(sorted(seen)[:5]) or "none"
    raise UserError(
        f"{data.folder} has no class folders Parasitized and Uninfected (folders found: {others}): put one "
        "sub-folder per class there, or name yours under data.classes in params.yaml."
    )


def _labels(data: params.Data) -> dict[str, str]:
    own = {name.lower(): label for name, label in data.classes.items()}
    return {**{label.lower(): label for label in LABELS}, **own}


def _below(folder: Path) -> list[Path]:
    """Files and folders below `folder`, sorted; links to folders stand for themselves."""
    walked = files.walk(folder)
    return sorted(Path(above, name) for above, folders, names in walked for name in (*folders, *names))


def _levels(given: Path) -> list[Path]:
    """`given` and the folders below it, shallow ones first."""
    below = [path for path in _below(given) if path.is_dir() and not path.is_symlink()]
    return [given, *sorted(below, key=lambda path: (len(path.parts), path))]


def _second_copies(given: Path, classes: dict[str, Path]) -> int:
    """How many folders further down bear the name of a class folder, as in the Kaggle archive."""
    names = {folder.name.lower() for folder in classes.values()}
    taken = set(classes.values())
    return sum(
        path.is_dir() and path.name.lower() in names and path not in taken and not taken & set(path.parents)
        for path in _below(given)
    )


def _copy_patients(beside: Path, data: params.Data, folder: Path) -> None:
    """Carry patients.csv along, once its columns are known to be right."""
    table = beside / PATIENTS
    if not table.is_file():
        return
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (UnicodeDecodeError, csv.Error):
        header = []
    if header != ["file", "patient"]:
        raise UserError(
            f"{data.folder}/{PATIENTS} has the columns {', '.join(header) or 'none'}, but needs file,patient."
        )
    shutil.copyfile(table, folder / PATIENTS)
