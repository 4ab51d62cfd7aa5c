"""Write revisions, as `ci.revisions` gives them, with the library's own writers: no DVC, no training."""

import functools
import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from ci.revisions import Revision
from malaria import files, paths, tables
from malaria.cells import images, packed, prepare, synthetic
from malaria.params import Colour, load_params

ROOT = Path(__file__).parents[2]
COLOUR = load_params(ROOT / paths.PARAMS).pack.colour


def cells(count: int = 240, patients: int = 24, first: int = 0) -> pd.DataFrame:
    """A table of cells: columns of tables.CELLS, and `split`.

    Patients take turns, and the cells of each are uninfected and parasitised in turn. `first`: number of the
    first cell, so that two sets overlap or do not. A cell's number stands for the hash of its file, and
    decides what the file shows.
    """
    number = np.arange(first, first + count)
    patient = number % patients
    label = np.where((number // patients) % 2 == 1, "Parasitized", "Uninfected")
    return pd.DataFrame(
        {
            "path": [f"{kind}/cell_{n:05}.png" for kind, n in zip(label, number, strict=True)],
            "label": label,
            "patient": [f"P{n}" for n in patient],
            "slide": "",
            "width": 50,
            "height": 50,
            "pages": 1,
            "bits": 0,
            "sha256": [f"{n:064x}" for n in number],
            "status": tables.OK,
            "reason": "",
            "split": np.where(patient < patients // 2, tables.TEST, tables.TRAIN),
        }
    )


@functools.cache
def drawn(number: int, parasitized: bool) -> images.Pixels:
    """The synthetic cell of a number (modulo 2**32), uint8 (50, 50, 3)."""
    random = np.random.Generator(np.random.Philox(key=[5, number % 2**32]))
    return images.resize(synthetic.draw(random, synthetic.stain(random), parasitized), 50)


def seen(cell: images.Pixels, colour: Colour = COLOUR) -> images.Pixels:
    """A cell as the stage pack prepares it, uint8 (50, 50, 3)."""
    return prepare.prepare(cell, 50, colour).pixels


def write(
    folder: Path,
    found: pd.DataFrame,
    bundle: Path,
    name: str = "branch",
    changed: dict[str, object] | None = None,
    stretched: int = 0,
    learnt: str = "",
    external: dict[str, dict[str, object]] | None = None,
    summary: dict[str, object] | None = None,
    turned: tuple[str, Callable[[images.Pixels], images.Pixels]] | None = None,
) -> Revision:
    """Write a revision of the cells `found` whose bundle is a copy of `bundle`.

    Args:
        changed: parameters that differ from the repository's, as `section.key`.
        external, summary: the figures that the stages external and evaluate wrote.
        turned: a part of some cells' paths, and a function that changes what these cells show.
        stretched: how many of the test cells' files are wider than a cell can be.
        learnt: the patient whose cells lie among those of other laboratories, too.
    """
    content = yaml.safe_load((ROOT / paths.PARAMS).read_text())
    for dotted, value in (changed or {}).items():
        section, _, key = dotted.partition(".")
        content[section][key] = value
    folder.mkdir(parents=True)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))
    for pipeline in ("dvc.yaml", "dvc.lock"):
        stages = {"evaluate": {"outs": [{"md5": name}]}}
        (folder / pipeline).write_text(yaml.safe_dump({"stages": stages}))
    tables.write(found, folder / paths.CELLS, tables.CELLS)
    tables.write(found, folder / paths.SPLITS, tables.SPLITS)
    files.write_json(folder / paths.SUMMARY, summary or {"auc": 0.99})
    if external:
        files.write_json(folder / paths.EXTERNAL, external)
    shutil.copytree(bundle, folder / paths.BUNDLE)
    numbers = [int(digest, 16) for digest in found.sha256]
    pixels = [drawn(number, "Para" in path) for number, path in zip(numbers, found.path, strict=True)]
    if turned:
        part, transform = turned
        pairs = zip(found.path, pixels, strict=True)
        pixels = [transform(cell) if part in path else cell for path, cell in pairs]
    wide = set(found.path[found.split == tables.TEST][:stretched])
    for path, cell in zip(found.path, pixels, strict=True):
        (folder / paths.RAW / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).resize((200 if path in wide else 50, 50)).save(folder / paths.RAW / path)
    colour = content["pack"]["colour"]
    order = found.path.argsort()
    _pack(folder / paths.PACKED, found.iloc[order], [seen(pixels[row], colour) for row in order])
    if learnt:
        rows = np.flatnonzero(found.patient == learnt)
        _pack(folder / paths.LABORATORIES, found.iloc[rows], [seen(pixels[row], colour) for row in rows])
    return Revision(name, name * 5, folder)


def _pack(folder: Path, cells: pd.DataFrame, prepared: list[images.Pixels]) -> None:
    folder.mkdir(parents=True)
    np.save(folder / packed.ARRAY, np.stack(prepared))
    tables.write(cells.assign(**dict.fromkeys(packed.COLOURS, 150)), folder / packed.INDEX, tables.INDEX)


def with_weights(bundle: Path, folder: Path, mixture: tuple[float, float, float]) -> Path:
    """A copy of the violet bundle that looks for another mixture of red, green and blue."""
    violet, other = (struct.pack("<3f", *(weight / 255 for weight in of)) for of in ((0, -1, 1), mixture))
    return edited(bundle, folder, network=lambda content: content.replace(violet, other))


def edited(bundle: Path, folder: Path, network=lambda content: content, **record: object) -> Path:
    """A copy of a bundle with another network and other values in its record, and with the right hash."""
    shutil.copytree(bundle, folder)
    content = network((folder / "network.tflite").read_bytes())
    (folder / "network.tflite").write_bytes(content)
    new_record = json.loads((folder / "bundle.json").read_text()) | record
    new_record["hashes"]["network"] = hashlib.sha256(content).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(new_record))
    return folder
