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

# Where the user gives the names of other class folders, for error messages.
_BY = "under data.classes in params.yaml (`evaluate` takes --classes)"

# How people, split-folders and Keras call the sides of a split.
_SIDES = {
    **dict.fromkeys((TRAIN, "training"), TRAIN),
    **dict.fromkeys((VAL, "valid", "validation"), VAL),
    **dict.fromkeys((TEST, "testing"), TEST),
}

Put = Callable[[Path, Path], object]  # moves or copies one file


def place(
    given: Path, folder: Path, put: Put, origin: str, own: Mapping[str, str], *, one_class: bool = False
) -> Provenance:
    """Bring the cells below `given` into the class folders of `folder`, and their patients.csv, if any.

    Cells that come in train, val and test are put into folders of these names below their class. If a class
    has several folders, each keeps its name below the class. Links to files are followed.

    Args:
        origin: what users call `given`, for messages.
        own: labels by the names of class folders that are not called by their label.
        one_class: accept cells of one class alone.

    Returns:
        The number of cells, what was left out, and a checksum of names and contents, which is the same for
        copies of a set.

    Raises:
        UserError: class folders are missing, doubled, empty, or in several places that are not a split;
            patients.csv is not such a table.
    """
    own = {name: label for name, label in own.items() if label in LABELS}
    labels = {names.folded(name): label for name, label in ({one: one for one in LABELS} | own).items()}
    folders = [Path(above, name) for above, inside, _ in files.walk(given) for name in inside]
    named = [path for path in folders if names.folded(path.name) in labels and not _is_litter(path, given)]
    homes = _homes(given, folders, named, origin)
    classes: dict[Path, Path] = {}
    for home, side in homes.items():
        classes |= _classes(home, side, labels, origin, one_class)
    beside = (next(iter(homes)).parent, *homes) if len(homes) > 1 else tuple(homes)
    strangers = _strangers(beside, {*classes, *homes}, labels)
    _check_mapping(own, classes, strangers, origin)
    litter = astray = 0
    # The original path of each cell, by its present path.
    came_as: dict[str, str] = {}
    digest = hashlib.sha256()
    for home, to in sorted(classes.items(), key=lambda one: (LABELS.index(one[1].parts[0]), one[0])):
        for path in tqdm(_below(home), desc=to.parts[0], unit=" files", disable=None):
            if not path.is_file():
                astray += path.is_symlink()
            elif _is_litter(path, home):
                litter += 1
            else:
                name = (to / path.relative_to(home)).as_posix()
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                put(path, target)
                digest.update(f"{name}\0{files.sha256(target)}\n".encode(errors="surrogateescape"))
                came_as[name] = path.relative_to(beside[0]).as_posix()
    for home, to in classes.items():
        if not (folder / to.parts[0]).is_dir():
            raise UserError(f"{origin}: the class folder {home.name} holds no file: put images into it.")
    loose = [path.name for home in beside for path in home.iterdir() if path.is_file()]
    loose = sorted(name for name in loose if name != PATIENTS and not files.is_litter(name))
    again = sum(classes.keys().isdisjoint((path, *path.parents)) for path in named)
    ignored = (
        (litter, "files that file browsers leave behind"),
        (astray, "links to folders, or to nothing"),
        (len(loose), f"files beside the class folders, such as {''.join(loose[:1])}"),
        (again, "further folders with the names of the class folders, deeper down"),
        *((count, f"files in {name}, which is no class folder") for name, count in strangers.items()),
    )
    left_out = tuple(f"{many:,} {what}" for many, what in ignored if many)
    try:
        left_out += _bring_patients(beside, came_as, folder, origin)
    except UserError as error:
        # Name the archive, not the temporary folder with its content.
        raise UserError(str(error).replace(str(given), origin)) from None
    return Provenance(cells=len(came_as), checksum=digest.hexdigest(), ignored=left_out)


def _bring_patients(
    beside: Sequence[Path], came_as: Mapping[str, str], folder: Path, origin: str
) -> tuple[str, ...]:
    """Write the patients that the tables `beside` class folders give; returns what to say of unused rows."""
    table: dict[str, str] = {}
    for at in beside:
        for file, of in patients.read(at).items():
            if table.setdefault(file, of) != of:
                raise UserError(
                    f"{origin}: two tables {PATIENTS} give {file} to two patients: name it with its folder, "
                    "in one table beside the folders."
                )
    told, unused = patients.of_files(table, came_as, origin)
    if told:
        # The audit sets aside paths that cannot be printed.
        rows = [row for row in told.items() if not names.UNPRINTABLE.search(row[0])]
        tables.write(pd.DataFrame(rows, columns=list(tables.PATIENTS)), folder / PATIENTS, tables.PATIENTS)
    return unused


def _homes(given: Path, folders: list[Path], named: list[Path], origin: str) -> dict[Path, str]:
    """The folders that hold the shallowest of the class folders `named`, with their sides.

    This is one folder with the side "", or one folder for each side of a split.
    """
    if not named:
        seen = sorted({path.name for path in folders})
        raise UserError(
            f"{origin} has no class folders Parasitized and Uninfected (folders found: "
            f"{', '.join(seen[:5]) or 'none'}): put one sub-folder per class there, or name yours {_BY}."
        )
    depth = min(len(path.parts) for path in named)
    homes = sorted({path.parent for path in named if len(path.parts) == depth})
    if len(homes) == 1:
        return {homes[0]: ""}
    sides = {home: _SIDES.get(names.folded(home.name), "") for home in homes}
    if len({home.parent for home in homes}) > 1 or len({*sides.values()} - {""}) < len(homes):
        found = " and in ".join(home.relative_to(given).as_posix() for home in homes[:3])
        raise UserError(
            f"{origin} has class folders in {found}: put them into one folder, with a {PATIENTS} if they are "
            "patients, or call these train, val and test, which are kept as a split."
        )
    return sides


def _classes(home: Path, side: str, labels: dict[str, str], origin: str, one_class: bool) -> dict[Path, Path]:
    """The class folders in `home`, each with the relative folder that its files go to.

    Every label must have one, unless `one_class`; `side` is that of `home` in a split, or empty.
    """
    found: dict[Path, Path] = {}
    for label in LABELS:
        those = [path for path in _inside(home) if labels.get(names.folded(path.name)) == label]
        listed = " and ".join(path.name for path in those)
        if len({names.folded(path.name) for path in those}) < len(those):
            raise UserError(f"{origin} has two folders for {label}, {listed}: merge them.")
        if not those and not one_class:
            there = ", ".join(path.name for path in _inside(home) if not files.is_litter(path.name))
            where = f"{origin}, {side}," if side else origin
            raise UserError(
                f"{where} has no folder for {label} (folders found: {there}): add it, or name yours {_BY}."
            )
        found |= {path: Path(label, side, path.name if len(those) > 1 else "") for path in those}
    return found


def _strangers(beside: Sequence[Path], known: set[Path], labels: Mapping[str, str]) -> dict[str, int]:
    """The number of files in each folder beside the class folders that is no class folder, and holds none."""
    counts = Counter[str]()
    for path in (path for home in beside for path in _inside(home) if path not in known):
        inside = [] if files.is_litter(path.name) or path.is_symlink() else _below(path)
        if not any(one.is_dir() and names.folded(one.name) in labels for one in inside):
            counts[path.name] += sum(one.is_file() for one in inside)
    return counts


def _check_mapping(own: Iterable[str], taken: Iterable[Path], strangers: Iterable[str], origin: str) -> None:
    """Raise UserError if a name in data.classes fits no folder, but nearly that of one that was left out."""
    found = {names.folded(folder.name) for folder in taken}
    for name in own:
        near = difflib.get_close_matches(name, list(strangers), n=1)
        if near and names.folded(name) not in found:
            raise UserError(f"data.classes names {name}, but {origin} has {near[0]}: correct the name.")


def _is_litter(path: Path, above: Path) -> bool:
    """Whether a path below the folder `above` is litter, or lies in a folder that is."""
    return files.is_litter(path.relative_to(above).as_posix())


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _below(folder: Path) -> list[Path]:
    """Files and folders below `folder`, sorted; links to folders are not followed."""
    walked = files.walk(folder)
    return sorted(Path(above, name) for above, folders, names in walked for name in (*folders, *names))
