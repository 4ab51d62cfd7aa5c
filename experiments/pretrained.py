"""Make the bundle that the repository carries: trained on every patient, judged out of fold.

Run `make crossval` first, with the same parameters. Its folds' bundles judge the cells that they never
saw: temperature, operating points, the gate's limits and every figure on the card come from there. The
network is then trained on all cells, for the epochs of params.yaml, with nothing held out.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from experiments import folds as experiment
from malaria import bundle, files, paths, tables
from malaria.bundle import build, convert, fingerprints, ood
from malaria.cells import doubtful_labels, images, packed
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import load_params

_ORIGIN = """The network was trained on all {cells:,} cells of {patients} patients{named}. The figures are
those of {folds} networks of the same recipe, each trained on the other folds' {what} and asked about the
{what} that it never saw. Beside this card lie the parameters, in `params.yaml`, and the hashes of cells and
code, in `dvc.lock`; with these, and the files that the parameters name, `make crossval` and `make
pretrained` make the bundle again.{labels}"""
_LABELS = """ Of the training labels those that `train.labels_file` lists were dealt with as
`train.noisy_labels: {how}` says; no fold's test labels were touched."""


@dataclass(frozen=True)
class Judged:
    """Every cell as the fold's bundle judges it that never saw its patient, and the gate's limits.

    cells: columns path, patient, label, fold, p_network and rejected, sorted by path; limits: float64
    (3,), as `gate.limits` finds them on the distances from each fold's own gate; by_patient: whether no
    patient, all of them known, was on both sides of a fold.
    """

    cells: pd.DataFrame
    limits: ood.Floats
    by_patient: bool


@dataclass(frozen=True)
class _Fold:
    """What one fold's bundle says of its test cells; `tested` has the columns path, patient and label."""

    tested: pd.DataFrame
    pixels: images.Pixels
    said: bundle.Predictions
    fitted_gate: ood.Gate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrained", description=__doc__)
    parser.add_argument("--name", default="crossval", help="of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=paths.PRETRAINED, help="the bundle's folder")
    parser.add_argument("--cells", metavar="WORDS", help="what the cells are, in words for the card")
    arguments = parser.parse_args()
    settings = load_params()
    if settings.data.source == "sample" and arguments.out == paths.PRETRAINED:
        raise UserError(
            f"{paths.PRETRAINED} is for real cells, and data.source is sample in params.yaml: name others "
            "there, or another folder with --out."
        )
    # TensorFlow takes seconds to import; neither --help nor a refusal should wait for it.
    from malaria.train import network, training

    cells = packed.load(paths.PACKED)
    for number in _numbers(arguments.name):
        check_recipe(f"{arguments.name}-{number}")
    judged = out_of_fold(arguments.name, cells)
    everyone = judged.cells.assign(split=tables.TRAIN)

    listed = doubtful_labels.read(Path(settings.train.labels_file), "train.labels_file")
    learnt = training.side(cells, everyone, tables.TRAIN, listed)
    # Nothing is held out; what is watched chooses nothing.
    recipe = settings.train.model_copy(update={"keep": "last", "patience": settings.train.epochs})
    watched = training.side(cells, everyone.iloc[::20], tables.TRAIN)
    with tempfile.TemporaryDirectory() as log:
        model = training.train(learnt, watched, recipe, Path(log)).model
    pixels = cells.images[learnt.rows]
    flatbuffer = convert.convert(network.fused(model), settings.export.precision, pixels)
    convert.check_size(flatbuffer, model.count_params())
    hashes = {
        "data": files.sha256(paths.PACKED / packed.INDEX),
        "splits": files.sha256(Path(settings.split.file)),
        "code": build.code_hash(),
    }
    record = build.draft(settings, cells.size, flatbuffer, hashes)
    with files.atomic_folder(arguments.out) as folder:
        build.write(folder, flatbuffer, record, "")
        said = bundle.load(folder).run(pixels)
        y = (learnt.labels > 0.5).astype(np.int64)
        agreement = convert.check_agreement(
            said.p_network, network.predict(model, pixels), y, settings.export.precision
        )
        fitted_gate = ood.with_limits(ood.fit(pixels, said.features), judged.limits)
        origin = _ORIGIN.format(
            cells=len(judged.cells),
            patients=judged.cells.patient.nunique(),
            named=f" ({arguments.cells})" if arguments.cells else "",
            folds=judged.cells.fold.nunique(),
            what="patients" if judged.by_patient else "cells",
            labels=_LABELS.format(how=settings.train.noisy_labels) if listed else "",
        )
        seen, parameters = fingerprints.marks(pixels), model.count_params()
        sides = {"out of fold": judged.cells}
        build.finish(
            folder,
            flatbuffer,
            record,
            fitted_gate,
            sides,
            seen,
            parameters,
            settings.evaluate,
            origin,
            judged.by_patient,
        )
        shutil.copyfile(paths.PARAMS, folder / paths.PARAMS.name)
        files.write_text(folder / paths.LOCK.name, lock_of_cells(paths.LOCK.read_text(encoding="utf-8")))
        # Another cross-validation's, which this one neither makes nor outdates.
        ranking = arguments.out / paths.LABEL_AUDIT.name
        if ranking.is_file():
            shutil.copyfile(ranking, folder / ranking.name)
    print(f"{arguments.out}: {agreement.decisions} of {agreement.cells:,} decisions differ from Keras's")
    return 0


def lock_of_cells(lock: str) -> str:
    """Of a dvc.lock the stages that bring the cells: the others are of runs on a split of them."""
    content = yaml.safe_load(lock)
    stages = {name: content["stages"][name] for name in ("fetch", "audit", "pack")}
    return yaml.safe_dump({**content, "stages": stages}, sort_keys=False)


def out_of_fold(name: str, cells: packed.Packed) -> Judged:
    """What the folds' bundles of a cross-validation say of all cells.

    Raises:
        UserError: the cross-validation is missing, was of other cells, or its bundles have no gate.
    """
    folds = {number: _of_fold(f"{name}-{number}", cells) for number in _numbers(name)}
    if sorted(path for fold in folds.values() for path in fold.tested.path) != sorted(cells.index.path):
        raise UserError(
            f"{name} is of other cells than data/packed: run `dvc repro pack` and `make crossval`."
        )
    far = [ood.distances(fold.fitted_gate, fold.pixels, fold.said.features) for fold in folds.values()]
    limits = ood.limits(np.concatenate(far))
    judged = pd.concat([_judged(fold, limits).assign(fold=number) for number, fold in folds.items()])
    summaries = [json.loads(experiment.read(f"{name}-{number}", paths.SPLIT_SUMMARY)) for number in folds]
    by_patient = all(summary["by_patient"] for summary in summaries)
    return Judged(judged.sort_values("path", ignore_index=True), limits, by_patient)


def check_recipe(revision: str) -> None:
    """UserError where a fold was made by other parameters than those of params.yaml: its figures are none
    of the network that these make.
    """
    then, now = (
        yaml.safe_load(text)
        for text in (experiment.read(revision, paths.PARAMS), paths.PARAMS.read_text(encoding="utf-8"))
    )
    for section in ("pack", "train", "export"):
        one, other = (
            {key: _absolute(key, value) for key, value in of[section].items()} for of in (then, now)
        )
        if differ := sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
            raise UserError(
                f"{revision} was made with another {section}.{differ[0]} than params.yaml has: run "
                "`make crossval` with these parameters."
            )


def _absolute(key: str, value: object) -> object:
    """A fold names by its whole path what git does not hold."""
    return str(Path(str(value)).resolve()) if key == "labels_file" else value


def _numbers(name: str) -> list[int]:
    return sorted(experiment.predictions(name).fold.unique())


def _judged(fold: _Fold, limits: ood.Floats) -> pd.DataFrame:
    reasons = ood.reasons(ood.with_limits(fold.fitted_gate, limits), fold.pixels, fold.said.features)
    return fold.tested.assign(p_network=fold.said.p_network, rejected=[reason or "" for reason in reasons])


def _of_fold(revision: str, cells: packed.Packed) -> _Fold:
    splits = tables.read(paths.SPLITS, tables.SPLITS, content=experiment.read(revision, paths.SPLITS))
    tested = splits[splits.split == tables.TEST]
    pixels = cells.images[packed.rows_of(cells, tested.path)]
    with tempfile.TemporaryDirectory() as folder:
        experiment.get(revision, paths.BUNDLE, Path(folder, "bundle"))
        fold = bundle.load(Path(folder, "bundle"))
        if fold.fitted_gate is None:
            raise UserError(f"The bundle of {revision} has no gate: run `make crossval` again.")
        return _Fold(tested, pixels, fold.run(pixels), fold.fitted_gate)


if __name__ == "__main__":
    end_with(main)
