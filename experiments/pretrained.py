"""Make the pretrained bundle of this repository: trained on every patient, evaluated out of fold.

Run `make crossval` first, with the same parameters. The bundle of each fold answers for the cells that it
never saw: temperature, operating points, the check's limits and every figure on the card come from these
answers. The network is then trained on all cells, for the epochs of params.yaml, with nothing held out.
"""

import functools
import json
import shutil
import tempfile
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
from malaria.command import end_with, options
from malaria.errors import UserError
from malaria.fetch import laboratories
from malaria.predict import external

_ORIGIN = """The network was trained on all {cells:,} cells of {patients} patients{named}. The figures are
those of {folds} networks of the same recipe, each trained on the other folds' {what} and asked about the
{what} that it never saw. Beside this card lie the parameters, in `params.yaml`, and the hashes of cells and
code, in `dvc.lock`; with these, and the files that the parameters name, `make crossval` and `make
pretrained` make the bundle again.{labels}"""
_LABELS = " Of the training labels those in doubt were {how}; no fold's test labels were touched."
_HOW = {"keep": "kept", "drop": "left out", "soften": "softened"}


@dataclass(frozen=True)
class Judged:
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
    """What a fold's bundle says of its test cells.

    check: the fold's own. seen: the cells. cells: their columns path, patient, label, fold and p_network.
    by_patient: whether its split is by patient.
    """

    check: ood.Check
    seen: ood.Seen
    cells: pd.DataFrame
    by_patient: bool


def main() -> None:
    parser = options("experiments.pretrained", __doc__)
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
    judged = out_of_fold(arguments.name, cells)
    model = _trained(cells, judged.cells, settings.train)
    train = [*cells.prepared(packed.rows_of(cells, judged.cells.path)), *others.prepared()]
    pixels = np.stack([cell.pixels for cell in train])
    exported = build.export(model, train, settings, Path(settings.split.file))
    agreement = convert.check_agreement(
        exported.model.run_prepared(train).p_network,
        network.predict(model, pixels),
        labels.values([*judged.cells.label, *others.index.label]),
        settings.export.precision,
    )
    fitted_ood = build.fit_ood(exported.model, train, judged.cells.patient.to_numpy(str), settings)
    write = functools.partial(
        build.write,
        exported=exported,
        fitted_ood=replace(fitted_ood, limits=judged.limits),
        sides={"out of fold": judged.cells},
        made_with=fingerprints.of(pixels),
        settings=settings.evaluate,
    )
    background = card.Background(judged.by_patient, _origin(judged, arguments.cells, settings.train))
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary), background=background)
        others_say = _laboratories(arguments.name, bundle.load(temporary, threads=1), settings)
    with files.atomic_folder(arguments.out) as folder:
        shutil.copyfile(paths.PARAMS, folder / paths.PARAMS.name)
        files.write_text(folder / paths.LOCK.name, lock_of_cells(paths.LOCK.read_text(encoding="utf-8")))
        write(folder, background=replace(background, laboratories=others_say))
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
    then = yaml.safe_load(experiment.read(revision, paths.PARAMS))
    now = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    for section in ("pack", "laboratories", "train", "export"):
        for key in sorted({*then[section], *now[section]}):
            if _absolute(key, then[section].get(key)) != _absolute(key, now[section].get(key)):
                raise UserError(
                    f"{revision} was made with another {section}.{key} than params.yaml has: run "
                    "`make crossval` with these parameters."
                )


def _absolute(key: str, value: object) -> object:
    """`value`, as an absolute path if it is a path: a fold has absolute paths for files outside of git."""
    return str(Path(str(value)).resolve()) if key in ("labels_file", "folder", "start") else value


def out_of_fold(name: str, cells: packed.Packed) -> Judged:
    """Run the bundle of each fold of a cross-validation on the cells that it never saw.

    Raises:
        UserError: the cross-validation is missing, has other cells, or its bundles have no check.
    """
    folds = [_of_fold(number, revision, cells) for number, revision in experiment.revisions(name).items()]
    judged = pd.concat([fold.cells for fold in folds])
    if sorted(judged.path) != sorted(cells.index.path):
        raise UserError(
            f"{name} is of other cells than data/packed: run `dvc repro pack` and `make crossval`."
        )
    limits = ood.limits(np.concatenate([ood.distances(fold.check, fold.seen) for fold in folds]))
    reasons = [ood.reasons(replace(fold.check, limits=limits), fold.seen) for fold in folds]
    judged["rejected"] = [reason or "" for of_fold in reasons for reason in of_fold]
    calls = [call for fold in folds for call in _foreign(fold)]
    judged = judged.sort_values("path", ignore_index=True)
    return Judged(judged, limits, all(fold.by_patient for fold in folds), calls)


def _of_fold(number: int, revision: str, cells: packed.Packed) -> _Fold:
    tested, asked = experiment.side(revision, tables.TEST, cells)
    made = experiment.bundle_of(revision)
    if made.fitted_ood is None:
        raise UserError(
            f"The bundle of {revision} has no out-of-distribution check: run `make crossval` again."
        )
    prediction = made.run_prepared(asked)
    judged = tested.assign(fold=number, p_network=prediction.p_network)
    by_patient = json.loads(experiment.read(revision, paths.SPLIT_SUMMARY))["by_patient"]
    return _Fold(made.fitted_ood, ood.Seen(asked, prediction.features), judged, by_patient)


def _foreign(fold: _Fold) -> list[bool]:
    """Whether a fold's check calls each test patient's cells foreign; without patients of too few cells."""
    found = []
    for rows in fold.cells.groupby("patient").indices.values():
        looks = ood.Looks()
        looks.add(fold.seen.look[rows])
        found.append(ood.foreign(fold.check, looks))
    return [call for call in found if call is not None]


def _trained(cells: packed.Packed, everyone: pd.DataFrame, settings: params.Train) -> Any:
    """The keras.Model that is trained on all cells, and on those of other laboratories."""
    from malaria.train import training

    everyone = everyone.assign(split=tables.TRAIN)
    doubtful = doubtful_labels.of_training(settings)
    train = training.side(cells, everyone, tables.TRAIN, doubtful)
    train = training.with_others(train, packed.load(paths.LABORATORIES))
    # No cells are held out. Training watches some, but with these settings they decide nothing.
    recipe = settings.model_copy(update={"keep": "last", "patience": settings.epochs})
    watched = training.side(cells, everyone.iloc[::20], tables.TRAIN)
    with tempfile.TemporaryDirectory() as log:
        return training.train(train, watched, recipe, Path(log)).model


def _origin(judged: Judged, words: str | None, settings: params.Train) -> str:
    """What the card says about how the bundle was made; `words`: what the cells are."""
    doubtful = doubtful_labels.of_training(settings)
    return _ORIGIN.format(
        cells=len(judged.cells),
        patients=judged.cells.patient.nunique(),
        named=f" ({words})" if words else "",
        folds=judged.cells.fold.nunique(),
        what="patients" if judged.by_patient else "cells",
        labels=_LABELS.format(how=_HOW[settings.noisy_labels]) if doubtful else "",
    )


def _laboratories(name: str, made: bundle.Bundle, settings: params.Params) -> dict[str, Any]:
    """Figures of networks on laboratories that they did not learn from.

    The networks are those of `make crossval OPTIONS="--leave-out laboratories"`, if it has run, and the one
    of the bundle `made`. `learned`: whether this bundle learned from the laboratory.
    """
    left_out = paths.CROSSVAL / f"{name}-laboratories.json"
    found = json.loads(left_out.read_text(encoding="utf-8")) if left_out.is_file() else {}
    found = {key: figures | {"learned": True} for key, figures in found.items()}
    for key, given in laboratories.sets(Path(settings.external.folder)).items():
        found[key] = external.judge(made, given, settings) | {"learned": False}
    return found


def lock_of_cells(lock: str) -> str:
    """The text of a dvc.lock with only the stages that bring the cells; the others depend on a split."""
    content = yaml.safe_load(lock)
    stages = {name: content["stages"][name] for name in ("fetch", "audit", "pack")}
    return yaml.safe_dump({**content, "stages": stages}, sort_keys=False)


if __name__ == "__main__":
    end_with(main)
