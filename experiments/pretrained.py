"""Make the bundle that the repository carries: trained on every patient, judged out of fold.

Run `make crossval` first, with the same parameters. Its folds' bundles judge the cells that they never
saw: temperature, operating points and every figure on the card come from there. The network is then
trained on all cells, for the epochs of params.yaml, with nothing held out.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

import dvc.api
import numpy as np
import pandas as pd

from malaria import (
    assembly,
    bundle,
    doubts,
    export,
    files,
    network,
    packed,
    paths,
    tables,
    trained_on,
    training,
)
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import load_params

_ORIGIN = """The network was trained on all {cells:,} cells of {patients} patients. The figures are those of
{folds} networks of the same recipe, each trained on the other folds' patients and asked about the patients
that it never saw. The parameters lie beside this card, in `params.yaml`; with these, `make crossval` and
`make pretrained` make the bundle again.{labels}"""
_LABELS = """ Of the training labels those that `train.labels_file` lists were dealt with as
`train.noisy_labels: {how}` says; no fold's test labels were touched."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrained", description=__doc__)
    parser.add_argument("--name", default="crossval", help="of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=paths.PRETRAINED, help="the bundle's folder")
    arguments = parser.parse_args()
    settings = load_params()
    cells = packed.load(paths.PACKED)
    judged = _out_of_fold(arguments.name, cells)
    everyone = judged.assign(split=tables.TRAIN)

    listed = doubts.read(Path(settings.train.labels_file), "train.labels_file")
    learnt = training.side(cells, everyone, tables.TRAIN, listed)
    # Nothing is held out; what is watched chooses nothing.
    recipe = settings.train.model_copy(update={"keep": "last", "patience": settings.train.epochs})
    watched = training.side(cells, everyone.iloc[::20], tables.TRAIN)
    with tempfile.TemporaryDirectory() as log:
        model = training.train(learnt, watched, recipe, Path(log)).model
    pixels = cells.images[learnt.rows]
    flatbuffer = export.convert(model, settings.export.precision, pixels)
    export.check_size(flatbuffer, model.count_params())
    hashes = {
        "data": files.sha256(paths.PACKED / packed.INDEX),
        "splits": files.sha256(Path(settings.split.file)),
        "code": assembly.code_hash(),
    }
    record = assembly.draft(settings, cells.size, flatbuffer, hashes)
    with files.atomic_folder(arguments.out) as folder:
        assembly.write(folder, flatbuffer, record, "")
        p = bundle.load(folder).run(pixels).p_network
        y = (learnt.labels > 0.5).astype(np.int64)
        agreement = export.check_agreement(p, network.predict(model, pixels), y, settings.export.precision)
        origin = _ORIGIN.format(
            cells=len(judged),
            patients=judged.patient.nunique(),
            folds=judged.fold.nunique(),
            labels=_LABELS.format(how=settings.train.noisy_labels) if listed else "",
        )
        seen, parameters = trained_on.hashes(pixels), model.count_params()
        sides = {"out of fold": judged}
        assembly.finish(folder, flatbuffer, record, sides, seen, parameters, settings.evaluate, origin)
        shutil.copyfile(paths.PARAMS, folder / paths.PARAMS.name)
    print(f"{arguments.out}: {agreement.decisions} of {agreement.cells:,} decisions differ from Keras's")
    return 0


def _out_of_fold(name: str, cells: packed.Packed) -> pd.DataFrame:
    """What each fold's bundle says of its test cells: columns path, patient, label, fold and p_network.

    Raises:
        UserError: the cross-validation is missing, or was of other cells.
    """
    file = paths.CROSSVAL / f"{name}.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: run `make crossval` first, or name another with --name.")
    folds = sorted(tables.read(file, tables.OUT_OF_FOLD).fold.unique())
    judged = pd.concat([_of_fold(f"{name}-{fold}", cells).assign(fold=fold) for fold in folds])
    if sorted(judged.path) != sorted(cells.index.path):
        raise UserError(
            f"{file} is of other cells than data/packed: run `dvc repro pack` and `make crossval`."
        )
    return judged.sort_values("path", ignore_index=True)


def _of_fold(revision: str, cells: packed.Packed) -> pd.DataFrame:
    splits = pd.read_csv(io.StringIO(dvc.api.read(str(paths.SPLITS), rev=revision)), dtype="str")
    tested = splits[splits.split == tables.TEST]
    with tempfile.TemporaryDirectory() as folder:
        dvc.api.DVCFileSystem(rev=revision).get(str(paths.BUNDLE), folder, recursive=True)
        fold = bundle.load(next(Path(folder).rglob(bundle.RECORD)).parent)
        p = fold.run(cells.images[packed.rows_of(cells, tested.path)]).p_network
    return tested.assign(p_network=p)


if __name__ == "__main__":
    end_with(main)
