"""Write the model bundle: network, record and model card, with the bundle's own figures."""

import hashlib
from pathlib import Path

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import BUNDLE, MODEL, PACKED, PREDICTIONS, SPLITS

# What shapes the network's answers; a change elsewhere leaves the bundle's code hash alone.
CODE = ("augmentation", "calibration", "doubts", "draws", "export", "images", "network", "packed", "training")


def main() -> None:
    params = load_params()
    import numpy as np

    from malaria import (
        bundle,
        calibration,
        doubts,
        evaluation,
        export,
        files,
        images,
        labels,
        network,
        packed,
        plots,
        tables,
        trained_on,
    )

    model = network.load(MODEL)
    cells = packed.load(PACKED)
    train, _ = packed.rows(cells, tables.read(SPLITS, tables.SPLITS), tables.TRAIN)
    flatbuffer = export.convert(model, params.export.precision, cells.images[train])
    export.check_size(flatbuffer, model.count_params())
    judged = tables.read(PREDICTIONS, tables.PREDICTIONS)
    record = bundle.Record(
        schema_version=1,
        name="malaria-cells",
        research_use_only=True,
        synthetic=params.data.source == "sample",
        data_source=params.data.source,
        input_size=cells.size,
        min_side=params.audit.min_side,
        max_pixels=params.audit.max_pixels,
        resize=images.RESIZE,
        labels=labels.LABELS,
        positive=labels.POSITIVE,
        precision=params.export.precision,
        temperature=1.0,
        operating_points=(),
        hashes={
            "network": hashlib.sha256(flatbuffer).hexdigest(),
            "data": files.sha256(PACKED / packed.INDEX),
            "splits": files.sha256(SPLITS),
            "code": export.code_hash([Path("malaria", f"{name}.py") for name in CODE]),
        },
        libraries=export.library_versions(),
    )
    with files.atomic_folder(BUNDLE) as folder:
        export.write(folder, flatbuffer, record, "")
        rows = packed.rows_of(cells, judged.path)
        p = bundle.load(folder).run(cells.images[rows]).p_network
        agreement = export.check_agreement(
            p,
            judged.p_network.to_numpy(),
            np.asarray(judged.label == labels.POSITIVE, dtype=np.int64),
            params.export.precision,
        )
        judged["p_network"] = p
        val, test = (judged[judged.split == name] for name in (tables.VAL, tables.TEST))
        fitted = evaluation.fit_on(val, params.evaluate)
        record = record.model_copy(
            update={
                "temperature": fitted.temperature,
                "operating_points": export.operating_points(fitted),
            }
        )
        judged["p_parasitized"] = calibration.apply(p, fitted.temperature)
        curves = plots.frames(
            judged[judged.split == tables.TEST], params.evaluate.bins, params.evaluate.min_cells
        )
        doubted = doubts.read(Path(params.evaluate.doubtful_labels), "evaluate.doubtful_labels")
        sides = {
            name: evaluation.score(side, fitted, params.evaluate, doubted)
            for name, side in ((tables.VAL, val), (tables.TEST, test))
        }
        made_with = tables.read(SPLITS, tables.SPLITS).query("split != @tables.TEST")
        seen = trained_on.hashes(cells.images[row] for row in packed.rows_of(cells, made_with.path))
        parts = {
            "figures": export.figures(sides, curves),
            "trained_on": trained_on.to_bytes(seen),
        }
        record = export.write_parts(folder, record, parts)
        card = export.render_card(record, model.count_params(), sides)
        export.write(folder, flatbuffer, record, card)
    print(
        f"{BUNDLE}: {len(flatbuffer):,} bytes, within {agreement.difference:.1g} of the trained network; "
        f"{agreement.decisions} of {agreement.cells:,} decisions at 0.5 differ, AUC by {agreement.auc:.1g}"
    )


if __name__ == "__main__":
    run_stage(main)
