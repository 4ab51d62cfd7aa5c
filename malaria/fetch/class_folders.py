"""Cells in one sub-folder for each class, at whatever depth: found, and put in their place."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from malaria import files
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.labels import LABELS

_LITTER = {*files.LITTER, "__macosx"}


def place(
    given: Path,
    folder: Path,
    put: Callable[[Path, Path], object],
    origin: str,
    own: Mapping[str, str],
    *,
    one_class: bool = False,
) -> tuple[Path, Provenance]:
    """Bring the cells below `given` into the class folders of `folder`.

    Links to files are followed: what is put in place is what they lead to.

    Args:
        put: moves or copies one file.
        origin: what people call `given`.
        own: labels of class folders that have other names than these.
        one_class: cells of one class alone will do.

    Returns:
        The folder in which the class folders lie, and what is known of the cells now: their number, a
        checksum of names and contents, so that copies of a set compare, and what was left out.

    Raises:
        UserError: class folders are missing, doubled or empty.
    """
    labels = {
        name.lower(): label
        for name, label in (*zip(LABELS, LABELS, strict=True), *own.items())
        if label in LABELS
    }
    classes = _find(given, labels, origin, one_class)
    litter = astray = count = 0
    digest = hashlib.sha256()
    for label, source in classes.items():
        for path in tqdm(_below(source), desc=label, unit=" files", disable=None):
            inner = path.relative_to(source)
            if not path.is_file():
                astray += path.is_symlink()
            elif any(part.startswith(".") or part.lower() in _LITTER for part in inner.parts):
                litter += 1
            else:
                target = folder / label / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                put(path, target)
                digest.update(f"{label}/{inner.as_posix()}\0{files.sha256(target)}\n".encode())
                count += 1
        if not (folder / label).is_dir():
            raise UserError(f"{origin}: the class folder {source.name} holds no file: put images into it.")
    taken = set(classes.values())
    again = sum(
        path.is_dir() and path.name.lower() in labels and path not in taken and not taken & set(path.parents)
        for path in _below(given)
    )
    ignored = (
        (litter, "files that file browsers leave behind"),
        (astray, "links to folders, or to nothing"),
        (again, "further folders with the names of the class folders, deeper down"),
    )
    left_out = tuple(f"{many:,} {what}" for many, what in ignored if many)
    return source.parent, Provenance(cells=count, checksum=digest.hexdigest(), ignored=left_out)


def _find(given: Path, labels: Mapping[str, str], origin: str, one_class: bool) -> dict[str, Path]:
    """The folder of each label, in their order: on the shallowest level that has a folder for any."""
    below = [path for path in _below(given) if path.is_dir() and not path.is_symlink()]
    seen: list[str] = []
    for level in sorted([given, *below], key=lambda path: (len(path.parts), path)):
        inside = sorted(path for path in level.iterdir() if path.is_dir())
        found: dict[str, Path] = {}
        for path in inside:
            label = labels.get(path.name.lower())
            if label in found:
                raise UserError(
                    f"{origin} has two folders for {label}, {found[label].name} and {path.name}: merge them."
                )
            if label:
                found[label] = path
        if len(found) == len(LABELS) or (found and one_class):
            return {label: found[label] for label in LABELS if label in found}
        if found:
            missing = next(label for label in LABELS if label not in found)
            raise UserError(
                f"{origin} has no folder for {missing} beside {next(iter(found.values())).name}: add it, or "
                "name yours under data.classes in params.yaml."
            )
        seen += [path.name for path in inside]
    raise UserError(
        f"{origin} has no class folders Parasitized and Uninfected (folders found: "
        f"{', '.join(sorted(set(seen))[:5]) or 'none'}): put one sub-folder per class there, or name yours "
        "under data.classes in params.yaml."
    )


def _below(folder: Path) -> list[Path]:
    """Files and folders below `folder`, sorted; links to folders stand for themselves."""
    walked = files.walk(folder)
    return sorted(Path(above, name) for above, folders, names in walked for name in (*folders, *names))
