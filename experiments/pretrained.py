"""Make the pretrained bundle of this repository: trained on every patient, evaluated out of fold.

Run `make crossval` first, with the same parameters. The bundle of each fold answers for the cells that it
never saw: temperature, operating points, the check's limits and every figure on the card come from these
answers. The network is then trained on all cells, for the epochs of params.yaml, with nothing held out.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments import experiment
from malaria import bundle, files, labels, params, paths, tables
from malaria.bundle import fingerprints, ood
from malaria.cells import doubtful_labels, packed
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.fetch import laboratories
from malaria.predict import external

_ORIGIN = """The network was trained on all {cells:,} cells of {patients} patients{note}. The figures are
those of {folds} networks of the same recipe, each trained on the other folds' {units} and asked about the
{units} that it never saw. Beside this card lie the parameters, in `params.yaml`, and the hashes of cells and
code, in `dvc.lock`; with these, and the files that the parameters name, `make crossval` and `make
pretrained` make the bundle again.{label_note}"""
_LABEL_NOTE = " Of the training labels those in doubt were {treatment}; no fold's test labels were touched."
_TREATMENTS = {"keep": "kept", "drop": "left out", "soften": "softened"}


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold results of all cells, and the limits of the out-of-distribution check.

    cells: columns path, patient, label, fold, p_network and rejected, sorted by path. limits: float64 (2,),
    by `ood.limits` from the distances that each fold's own check gives. by_patient: whether all patients are
    known, and none was on both sides of a fold. foreign: of each patient with enough cells, whether the fold
    that never saw the patient calls them foreign.
    """

    cells: pd.DataFrame
    limits: ood.Floats
    by_patient: bool
    foreign: list[bool]


@dataclass(frozen=True)
class _Fold:
    """Results of a fold's bundle on its test cells.

    check: the fold's own. seen: the cells. cells: their columns path, patient, label, fold and p_network.
    by_patient: whether its split is by patient.
    """

    check: ood.Check
    seen: ood.Seen
    cells: pd.DataFrame
    by_patient: bool


def main() -> None:
    parser = new_parser("experiments.pretrained", __doc__)
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--out", type=Path, default=paths.PRETRAINED, help="the bundle's folder")
    parser.add_argument("--cells", metavar="WORDS", help="what the cells are, in words for the card")
    arguments = parser.parse_args()
    settings = params.load_params()
    if settings.data.source == "sample" and arguments.out == paths.PRETRAINED:
        raise UserError(
            f"{paths.PRETRAINED} is for real cells, and data.source is sample in params.yaml: name others "
            "there, or another folder with --out."
        )
    bundle.check_replaceable(arguments.out)
    # TensorFlow takes seconds to import; neither --help nor a refusal should wait for it.
    from malaria.bundle import build, card, convert
    from malaria.train import backend, network

    backend.use_threads(settings.train.threads)
    for revision in experiment.revisions(arguments.name).values():
        check_recipe(revision)
    cells, others = packed.load(paths.PACKED), packed.load(paths.LABORATORIES)
    results = out_of_fold(arguments.name, cells)
    model = _train_on_all(cells, results.cells, settings.train)
    train = [*cells.prepared(packed.rows_of(cells, results.cells.path)), *others.prepared()]
    pixels = np.stack([cell.pixels for cell in train])
    exported = build.export(model, train, settings, Path(settings.split.file))
    agreement = convert.check_agreement(
        exported.model.run_prepared(train).p_network,
        network.predict(model, pixels),
        labels.values([*results.cells.label, *others.index.label]),
        settings.export.precision,
    )
    fitted_ood = build.fit_ood(exported.model, train, results.cells.patient.to_numpy(str), settings)
    write = functools.partial(
        build.write,
        exported=exported,
        fitted_ood=replace(fitted_ood, limits=results.limits),
        sides={"out of fold": results.cells},
        made_with=fingerprints.of(pixels),
        settings=settings.evaluate,
    )
    background = card.Background(results.by_patient, _origin(results, arguments.cells, settings.train))
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary), background=background)
        laboratory_figures = _laboratory_figures(arguments.name, bundle.load(temporary, threads=1), settings)
    with files.atomic_folder(arguments.out) as folder:
        shutil.copyfile(paths.PARAMS, folder / paths.PARAMS.name)
        files.write_text(folder / paths.LOCK.name, lock_of_cells(paths.LOCK.read_text(encoding="utf-8")))
        write(folder, background=replace(background, laboratories=laboratory_figures))
        # Not part of the bundle: the network, which `make hub` uploads and no app reads, and the ranking of
        # labels, which comes from another cross-validation.
        network.save(model, folder / paths.MODEL.name)
        ranking = arguments.out / paths.LABEL_AUDIT.name
        if ranking.is_file():
            shutil.copyfile(ranking, folder / ranking.name)
    print(f"{arguments.out}: {agreement.decisions} of {agreement.cells:,} decisions differ from Keras's")


def check_recipe(revision: str) -> None:
    """UserError if a fold was made with other parameters than those of params.yaml.

    Its figures would not be those of the network that params.yaml gives.
    """
    recorded = yaml.safe_load(experiment.read(revision, paths.PARAMS))
    current = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    for section in ("pack", "laboratories", "train", "export"):
        for key in sorted({*recorded[section], *current[section]}):
            if _absolute(key, recorded[section].get(key)) != _absolute(key, current[section].get(key)):
                raise UserError(
                    f"{revision} was made with another {section}.{key} than params.yaml has: run "
                    "`make crossval` with these parameters."
                )


def _absolute(key: str, value: object) -> object:
    """`value`, as an absolute path if it is a path: a fold has absolute paths for files outside of git."""
    return str(Path(str(value)).resolve()) if key in ("labels_file", "folder", "start") else value


def out_of_fold(name: str, cells: packed.Packed) -> OutOfFold:
    """Run the bundle of each fold of a cross-validation on the cells that it never saw.

    Raises:
        UserError: the cross-validation is missing, has other cells, or its bundles have no check.
    """
    folds = [_run_fold(number, revision, cells) for number, revision in experiment.revisions(name).items()]
    table = pd.concat([fold.cells for fold in folds])
    if sorted(table.path) != sorted(cells.index.path):
        raise UserError(
            f"{name} is of other cells than data/packed: run `dvc repro pack` and `make crossval`."
        )
    limits = ood.limits(np.concatenate([ood.distances(fold.check, fold.seen) for fold in folds]))
    reasons = [ood.reasons(replace(fold.check, limits=limits), fold.seen) for fold in folds]
    table["rejected"] = [reason or "" for reasons_of_fold in reasons for reason in reasons_of_fold]
    foreign = [call for fold in folds for call in _foreign_calls(fold)]
    by_patient = all(fold.by_patient for fold in folds)
    return OutOfFold(table.sort_values("path", ignore_index=True), limits, by_patient, foreign)


def _run_fold(number: int, revision: str, cells: packed.Packed) -> _Fold:
    """Run a fold's bundle on its test cells; UserError if the bundle has no check."""
    test, prepared = experiment.side(revision, tables.TEST, cells)
    model = experiment.bundle_of(revision)
    if model.fitted_ood is None:
        raise UserError(
            f"The bundle of {revision} has no out-of-distribution check: run `make crossval` again."
        )
    prediction = model.run_prepared(prepared)
    table = test.assign(fold=number, p_network=prediction.p_network)
    by_patient = json.loads(experiment.read(revision, paths.SPLIT_SUMMARY))["by_patient"]
    return _Fold(model.fitted_ood, ood.Seen(prepared, prediction.features), table, by_patient)


def _foreign_calls(fold: _Fold) -> Iterator[bool]:
    """Whether a fold's check calls each test patient's cells foreign; without patients of too few cells."""
    for rows in fold.cells.groupby("patient").indices.values():
        looks = ood.Looks()
        looks.add(fold.seen.look[rows])
        if (call := ood.foreign(fold.check, looks)) is not None:
            yield call


def _train_on_all(packed_cells: packed.Packed, cells: pd.DataFrame, settings: params.Train) -> Any:
    """The keras.Model that is trained on all cells, and on those of other laboratories."""
    from malaria.train import training

    cells = cells.assign(split=tables.TRAIN)
    doubtful = doubtful_labels.of_training(settings)
    train = training.side(packed_cells, cells, tables.TRAIN, doubtful)
    train = training.with_others(train, packed.load(paths.LABORATORIES))
    # No cells are held out. Training watches some, but with these settings they decide nothing.
    recipe = settings.model_copy(update={"keep": "last", "patience": settings.epochs})
    val = training.side(packed_cells, cells.iloc[::20], tables.TRAIN)
    with tempfile.TemporaryDirectory() as log:
        return training.train(train, val, recipe, Path(log)).model


def _origin(results: OutOfFold, description: str | None, settings: params.Train) -> str:
    """What the card says about how the bundle was made; `description`: what the cells are."""
    doubtful = doubtful_labels.of_training(settings)
    return _ORIGIN.format(
        cells=len(results.cells),
        patients=results.cells.patient.nunique(),
        note=f" ({description})" if description else "",
        folds=results.cells.fold.nunique(),
        units="patients" if results.by_patient else "cells",
        label_note=_LABEL_NOTE.format(treatment=_TREATMENTS[settings.noisy_labels]) if doubtful else "",
    )


def _laboratory_figures(name: str, model: bundle.Bundle, settings: params.Params) -> dict[str, Any]:
    """Figures of networks on laboratories that they did not learn from.

    The networks are those of `make crossval OPTIONS="--leave-out laboratories"`, if it has run, and the one
    of the bundle `model`. `learned`: whether this bundle learned from the laboratory.
    """
    file = paths.CROSSVAL / f"{name}-laboratories.json"
    left_out = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    figures = {key: values | {"learned": True} for key, values in left_out.items()}
    for key, path in laboratories.sets(Path(settings.external.folder)).items():
        figures[key] = external.judge(model, path, settings) | {"learned": False}
    return figures


def lock_of_cells(lock: str) -> str:
    """The text of a dvc.lock with only the stages that bring the cells; the others depend on a split."""
    content = yaml.safe_load(lock)
    stages = {name: content["stages"][name] for name in ("fetch", "audit", "pack")}
    return yaml.safe_dump({**content, "stages": stages}, sort_keys=False)


if __name__ == "__main__":
    run_and_exit(main)
