"""Write the model bundle: network, record and model card, with the bundle's own figures."""

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import BUNDLE, MODEL, PACKED, PREDICTIONS, SPLITS


def main() -> None:
    params = load_params()
    import numpy as np

    from malaria import assembly, bundle, export, files, labels, network, packed, tables, trained_on

    model = network.load(MODEL)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    train, _ = packed.rows(cells, splits, tables.TRAIN)
    flatbuffer = export.convert(model, params.export.precision, cells.images[train])
    export.check_size(flatbuffer, model.count_params())
    judged = tables.read(PREDICTIONS, tables.PREDICTIONS)
    hashes = {
        "data": files.sha256(PACKED / packed.INDEX),
        "splits": files.sha256(SPLITS),
        "code": assembly.code_hash(),
    }
    record = assembly.draft(params, cells.size, flatbuffer, hashes)
    with files.atomic_folder(BUNDLE) as folder:
        assembly.write(folder, flatbuffer, record, "")
        p = bundle.load(folder).run(cells.images[packed.rows_of(cells, judged.path)]).p_network
        agreement = export.check_agreement(
            p,
            judged.p_network.to_numpy(),
            np.asarray(judged.label == labels.POSITIVE, dtype=np.int64),
            params.export.precision,
        )
        judged["p_network"] = p
        sides = {name: judged[judged.split == name] for name in (tables.VAL, tables.TEST)}
        made_with = packed.rows_of(cells, splits.path[splits.split != tables.TEST])
        seen = trained_on.hashes(cells.images[row] for row in made_with)
        assembly.finish(folder, flatbuffer, record, sides, seen, model.count_params(), params.evaluate)
    print(
        f"{BUNDLE}: {len(flatbuffer):,} bytes, within {agreement.difference:.1g} of the trained network; "
        f"{agreement.decisions} of {agreement.cells:,} decisions at 0.5 differ, AUC by {agreement.auc:.1g}"
    )


if __name__ == "__main__":
    run_stage(main)
