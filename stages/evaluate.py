"""Score the model on val and test: metrics with intervals over patients, plots, predictions."""

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import METRICS, MODEL, PACKED, PLOTS, PREDICTIONS, SPLITS, SUMMARY


def main() -> None:
    everything = load_params()
    params = everything.evaluate
    from malaria import files, tables
    from malaria.cells import doubtful_labels, packed
    from malaria.evaluate import calibration, evaluation, plots
    from malaria.train import backend, network

    backend.use_threads(everything.train.threads)
    doubtful = doubtful_labels.of_evaluation(params)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    judged = splits[splits.split != tables.TRAIN].sort_values(["split", "path"], ignore_index=True)
    pixels = cells.images[packed.rows_of(cells, judged.path)]
    judged["p_network"] = network.predict(network.load(MODEL), pixels)

    fitted = evaluation.fit(judged[judged.split == tables.VAL], params)
    judged["p_parasitized"] = calibration.apply(judged.p_network.to_numpy(), fitted.temperature)
    sides = {name: judged[judged.split == name] for name in (tables.VAL, tables.TEST)}
    scores = {name: evaluation.score(rows, fitted, params, doubtful) for name, rows in sides.items()}
    tables.write(judged, PREDICTIONS, tables.PREDICTIONS)
    with files.atomic_folder(PLOTS) as folder:
        plots.write(sides[tables.TEST], folder, fitted, params)
    files.write_json(METRICS, {"temperature": fitted.temperature, **scores})
    files.write_json(SUMMARY, evaluation.summary(scores[tables.VAL], scores[tables.TEST]))
    print(evaluation.as_text(scores[tables.TEST]))


if __name__ == "__main__":
    run_stage(main)
