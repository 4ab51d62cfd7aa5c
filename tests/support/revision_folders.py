"""Revisions as `ci.revisions` hands them on, written by the library's own writers: no DVC, no training."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ci.revisions import Revision
from malaria import files, paths, tables
from malaria.cells import packed

ROOT = Path(__file__).parents[2]


def cells(count: int = 600, patients: int = 30, first: int = 0) -> pd.DataFrame:
    """Cells of tables.CELLS with a column `split`; every second is parasitised, patients take turns.

    `first`: the number of the first cell, so that two sets overlap or do not.
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
            "sha256": [f"{n:064x}" for n in number],
            "status": tables.OK,
            "reason": "",
            "split": np.where(patient < patients // 2, tables.TEST, tables.TRAIN),
        }
    )


def predicted(found: pd.DataFrame, skill: float, seed: int = 0) -> pd.Series:
    """Probabilities of a model: the higher its `skill`, the fewer it calls wrongly."""
    noise = np.random.default_rng(seed).normal(0, 2, len(found))
    sign = np.where(found.label == "Parasitized", 1, -1)
    return pd.Series(1 / (1 + np.exp(-(skill * sign + noise))), index=found.index)


def write(
    folder: Path,
    found: pd.DataFrame,
    p: pd.Series,
    bundle: Path,
    name: str = "branch",
    changed: dict[str, object] | None = None,
    epochs: int = 3,
) -> Revision:
    """Write a revision of the cells `found` whose model gives `p`.

    Args:
        bundle: the model bundle that it carries.
        changed: parameters that are others than in the repository, by section and key.
    """
    content = yaml.safe_load((ROOT / paths.PARAMS).read_text())
    for key, value in (changed or {}).items():
        section, _, name_ = key.partition(".")
        content[section][name_] = value
    folder.mkdir(parents=True)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"evaluate": {"outs": [{"md5": name}]}}}))
    tables.write(found, folder / paths.CELLS, tables.CELLS)
    tables.write(found, folder / paths.SPLITS, tables.SPLITS)
    judged = found.assign(p_network=p, p_parasitized=p)[found.split != tables.TRAIN]
    tables.write(judged, folder / paths.PREDICTIONS, tables.PREDICTIONS)
    shutil.copytree(bundle, folder / paths.BUNDLE)
    logs = folder / paths.TRAINING / "plots/metrics"
    for metric in ("train/loss", "val/loss", "val/auc"):
        rows = [f"{epoch}\t{1 / (epoch + 2)}" for epoch in range(epochs)]
        files.write_text(logs / f"{metric}.tsv", "\n".join([f"step\t{metric.split('/')[1]}", *rows, ""]))
    kept = found.iloc[:64]
    (folder / paths.PACKED).mkdir(parents=True)
    np.save(folder / paths.PACKED / packed.ARRAY, np.full((len(kept), 50, 50, 3), 120, np.uint8))
    tables.write(kept, folder / paths.PACKED / packed.INDEX, tables.INDEX)
    return Revision(name, name * 5, folder)
