"""Write the model bundle: network, record and model card, with the bundle's own figures."""

import json
from dataclasses import replace

import numpy as np

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import BUNDLE, LABORATORIES, MODEL, PACKED, PREDICTIONS, SPLIT_SUMMARY, SPLITS


def main() -> None:
    params = load_params()
    from malaria import files, labels, tables
    from malaria.bundle import build, card, convert, fingerprints, ood
    from malaria.cells import packed
    from malaria.train import backend, network

    backend.use_threads(params.train.threads)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    predictions = tables.read(PREDICTIONS, tables.PREDICTIONS)
    background = card.Background(json.loads(SPLIT_SUMMARY.read_text(encoding="utf-8"))["by_patient"])
    laboratories = packed.load(LABORATORIES)
    train_and_val = cells.prepared(packed.rows_of(cells, splits.path[splits.split != tables.TEST]))
    patient = splits.patient[splits.split == tables.TRAIN].to_numpy(str)
    train = cells.prepared(packed.rows_of(cells, splits.path[splits.split == tables.TRAIN]))
    train += laboratories.prepared()
    prepared = cells.prepared(packed.rows_of(cells, predictions.path))

    exported = build.export(network.load(MODEL), train, params, SPLITS)
    outputs = exported.model.run_prepared(prepared)
    p_keras, y = predictions.p_network.to_numpy(), labels.values(predictions.label)
    agreement = convert.check_agreement(outputs.p_network, p_keras, y, params.export.precision)
    fitted_ood = build.fit_ood(exported.model, train, patient, params)
    val = np.flatnonzero(predictions.split == tables.VAL)
    distances = ood.distances(fitted_ood, ood.Seen([prepared[row] for row in val], outputs.features[val]))
    fitted_ood = replace(fitted_ood, limits=ood.limits(distances))
    reasons = ood.reasons(fitted_ood, ood.Seen(prepared, outputs.features))
    predictions["p_network"] = outputs.p_network
    predictions["rejected"] = [reason or "" for reason in reasons]
    sides = {name: predictions[predictions.split == name] for name in (tables.VAL, tables.TEST)}
    made_with = fingerprints.of(cell.pixels for cell in [*train_and_val, *laboratories.prepared()])
    with files.atomic_folder(BUNDLE) as folder:
        build.write(folder, exported, fitted_ood, sides, made_with, params.evaluate, background)
    print(
        f"{BUNDLE}: {len(exported.network):,} bytes, within {agreement.difference:.1g} of the trained one; "
        f"{agreement.decisions} of {agreement.cells:,} decisions at 0.5 differ, AUC by {agreement.auc:.1g}"
    )


if __name__ == "__main__":
    run_stage(main)
