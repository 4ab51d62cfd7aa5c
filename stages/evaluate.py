"""Score the model on val and test: metrics with intervals over patients, plots, predictions."""

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import METRICS, MODEL, PACKED, PLOTS, PREDICTIONS, SPLITS, SUMMARY


def main() -> None:
    params = load_params()
    settings = params.evaluate
    from malaria import files, tables
    from malaria.cells import doubtful_labels, packed
    from malaria.evaluate import calibration, evaluation, plots
    from malaria.train import backend, network

    backend.use_threads(params.train.threads)
    doubtful = doubtful_labels.of_evaluation(settings)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    predictions = splits[splits.split != tables.TRAIN].sort_values(["split", "path"], ignore_index=True)
    pixels = cells.images[packed.rows_of(cells, predictions.path)]
    predictions["p_network"] = network.predict(network.load(MODEL), pixels)

    fitted = evaluation.fit(predictions[predictions.split == tables.VAL], settings)
    predictions["p_parasitized"] = calibration.apply(predictions.p_network.to_numpy(), fitted.temperature)
    sides = {name: predictions[predictions.split == name] for name in (tables.VAL, tables.TEST)}
    scores = {name: evaluation.score(rows, fitted, settings, doubtful) for name, rows in sides.items()}
    tables.write(predictions, PREDICTIONS, tables.PREDICTIONS)
    with files.atomic_folder(PLOTS) as folder:
        plots.write(sides[tables.TEST], folder, fitted, settings)
    files.write_json(METRICS, {"temperature": fitted.temperature, **scores})
    files.write_json(SUMMARY, evaluation.summary(scores[tables.VAL], scores[tables.TEST]))
    print(evaluation.as_text(scores[tables.TEST]))


if __name__ == "__main__":
    run_stage(main)
