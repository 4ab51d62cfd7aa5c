"""Find class folders at any depth, also those of train, val and test, and place their cells."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from malaria import files, tables
from malaria.cells import names, patients
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.labels import LABELS
from malaria.paths import PATIENTS
from malaria.tables import TEST, TRAIN, VAL

# How to have class folders of other names, for error messages.
_NAME_YOURS = "name yours under data.classes in params.yaml (`evaluate` takes --classes)"

# What people, split-folders and Keras call the sides of a split.
_SIDES = {
    **dict.fromkeys((TRAIN, "training"), TRAIN),
    **dict.fromkeys((VAL, "valid", "validation"), VAL),
    **dict.fromkeys((TEST, "testing"), TEST),
}

Put = Callable[[Path, Path], object]  # moves or copies one file


def place(
    source: Path, folder: Path, put: Put, origin: str, classes: Mapping[str, str], *, one_class: bool = False
) -> Provenance:
    """Put the cells below `source` into the class folders of `folder`, and their patients.csv, if any.

    Cells that come in train, val and test are put into folders of these names below their class. If a class
    has several folders, each keeps its name below the class. Links to files are followed.

    Args:
        origin: what users call `source`, for messages.
        classes: labels by the names of class folders that are not called by their label.
        one_class: accept cells of one class alone.

    Returns:
        The number of cells, what was left out, and a checksum of names and contents, which is the same for
        copies of a set.

    Raises:
        UserError: class folders are missing, doubled, empty, or in several places that are not a split;
            patients.csv is not such a table.
    """
    classes = {name: label for name, label in classes.items() if label in LABELS}
    labels = {names.folded(label): label for label in LABELS}
    labels |= {names.folded(name): label for name, label in classes.items()}
    folders = [Path(parent, name) for parent, subfolders, _ in files.walk(source) for name in subfolders]
    matches = [path for path in folders if names.folded(path.name) in labels and not _is_litter(path, source)]
    sides = _sides(source, folders, matches, origin)
    targets: dict[Path, Path] = {}
    for root, side in sides.items():
        targets |= _targets(root, side, labels, origin, one_class)
    # The folder of the whole set first, then those of its sides, if it comes as a split.
    roots = (next(iter(sides)).parent, *sides) if len(sides) > 1 else tuple(sides)
    other_folders = _other_folders(roots, {*targets, *sides}, labels)
    _check_mapping(classes, targets, other_folders, origin)
    litter = links = 0
    original_paths: dict[str, str] = {}  # by the new path of the cell
    digest = hashlib.sha256()
    for class_folder, subfolder in sorted(targets.items(), key=lambda t: (LABELS.index(t[1].parts[0]), t[0])):
        for path in tqdm(_contents(class_folder), desc=subfolder.parts[0], unit=" files", disable=None):
            if not path.is_file():
                links += path.is_symlink()
            elif _is_litter(path, class_folder):
                litter += 1
            else:
                name = (subfolder / path.relative_to(class_folder)).as_posix()
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                put(path, target)
                digest.update(f"{name}\0{files.sha256(target)}\n".encode(errors="surrogateescape"))
                original_paths[name] = path.relative_to(roots[0]).as_posix()
    for path, subfolder in targets.items():
        if not (folder / subfolder.parts[0]).is_dir():
            raise UserError(f"{origin}: the class folder {path.name} holds no file: put images into it.")
    loose = [path.name for root in roots for path in root.iterdir() if path.is_file()]
    loose = sorted(name for name in loose if name != PATIENTS and not files.is_litter(name))
    nested = sum(targets.keys().isdisjoint((path, *path.parents)) for path in matches)
    counts = (
        (litter, "files that file browsers leave behind"),
        (links, "links to folders, or to nothing"),
        (len(loose), f"files beside the class folders, such as {''.join(loose[:1])}"),
        (nested, "further folders with the names of the class folders, deeper down"),
        *((count, f"files in {name}, which is no class folder") for name, count in other_folders.items()),
    )
    left_out = tuple(f"{count:,} {kind}" for count, kind in counts if count)
    try:
        left_out += _write_patients(roots, original_paths, folder, origin)
    except UserError as error:
        # Name the archive, not the temporary folder with its content.
        raise UserError(str(error).replace(str(source), origin)) from None
    return Provenance(cells=len(original_paths), checksum=digest.hexdigest(), ignored=left_out)


def _write_patients(
    roots: Sequence[Path], original_paths: Mapping[str, str], folder: Path, origin: str
) -> tuple[str, ...]:
    """Write the patients that tables in the `roots` give; returns a phrase for rows that name no cell."""
    table: dict[str, str] = {}
    for root in roots:
        for file, patient in patients.read(root).items():
            if table.setdefault(file, patient) != patient:
                raise UserError(
                    f"{origin}: two tables {PATIENTS} give {file} to two patients: name it with its folder, "
                    "in one table beside the folders."
                )
    patient_of, unused = patients.of_files(table, original_paths, origin)
    if patient_of:
        # The audit sets aside paths that cannot be printed.
        rows = [row for row in patient_of.items() if not names.UNPRINTABLE.search(row[0])]
        tables.write(pd.DataFrame(rows, columns=list(tables.PATIENTS)), folder / PATIENTS, tables.PATIENTS)
    return unused


def _sides(source: Path, folders: list[Path], matches: list[Path], origin: str) -> dict[Path, str]:
    """The folders that hold the shallowest class folders of `matches`, with their sides.

    This is one folder with the side "", or one folder for each side of a split.
    """
    if not matches:
        folder_names = sorted({path.name for path in folders})
        raise UserError(
            f"{origin} has no class folders Parasitized and Uninfected (folders found: "
            f"{', '.join(folder_names[:5]) or 'none'}): put one sub-folder per class there, or {_NAME_YOURS}."
        )
    depth = min(len(path.parts) for path in matches)
    roots = sorted({path.parent for path in matches if len(path.parts) == depth})
    if len(roots) == 1:
        return {roots[0]: ""}
    sides = {root: _SIDES.get(names.folded(root.name), "") for root in roots}
    if len({root.parent for root in roots}) > 1 or len({*sides.values()} - {""}) < len(roots):
        paths = " and in ".join(root.relative_to(source).as_posix() for root in roots[:3])
        raise UserError(
            f"{origin} has class folders in {paths}: put them into one folder, with a {PATIENTS} if they are "
            "patients, or call these train, val and test, which are kept as a split."
        )
    return sides


def _targets(root: Path, side: str, labels: dict[str, str], origin: str, one_class: bool) -> dict[Path, Path]:
    """The class folders in `root`, each with the relative folder that its files go to.

    Every label must have one, unless `one_class`; `side` is that of `root` in a split, or empty.
    """
    targets: dict[Path, Path] = {}
    subfolders = _subfolders(root)
    for label in LABELS:
        matches = [path for path in subfolders if labels.get(names.folded(path.name)) == label]
        if len({names.folded(path.name) for path in matches}) < len(matches):
            doubled = " and ".join(path.name for path in matches)
            raise UserError(f"{origin} has two folders for {label}, {doubled}: merge them.")
        if not matches and not one_class:
            listing = ", ".join(path.name for path in subfolders if not files.is_litter(path.name))
            where = f"{origin}, {side}," if side else origin
            raise UserError(
                f"{where} has no folder for {label} (folders found: {listing}): add it, or {_NAME_YOURS}."
            )
        targets |= {path: Path(label, side, path.name if len(matches) > 1 else "") for path in matches}
    return targets


def _other_folders(roots: Sequence[Path], used: set[Path], labels: Mapping[str, str]) -> dict[str, int]:
    """By name, the number of files in folders in `roots` that are not `used` and hold no class folder."""
    counts = Counter[str]()
    for folder in (folder for root in roots for folder in _subfolders(root) if folder not in used):
        contents = [] if files.is_litter(folder.name) or folder.is_symlink() else _contents(folder)
        if not any(path.is_dir() and names.folded(path.name) in labels for path in contents):
            counts[folder.name] += sum(path.is_file() for path in contents)
    return counts


def _check_mapping(classes: Iterable[str], used: Iterable[Path], unused: Iterable[str], origin: str) -> None:
    """Raise UserError if a name in data.classes fits no folder, but nearly that of one that was left out."""
    used_names = {names.folded(folder.name) for folder in used}
    for name in classes:
        similar = difflib.get_close_matches(name, list(unused), n=1)
        if similar and names.folded(name) not in used_names:
            raise UserError(f"data.classes names {name}, but {origin} has {similar[0]}: correct the name.")


def _is_litter(path: Path, root: Path) -> bool:
    """Whether a path below the folder `root` is litter, or lies in a folder that is."""
    return files.is_litter(path.relative_to(root).as_posix())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _contents(folder: Path) -> list[Path]:
    """Files and folders below `folder`, sorted; links to folders are not followed."""
    walk = files.walk(folder)
    return sorted(Path(parent, name) for parent, dirs, filenames in walk for name in (*dirs, *filenames))
