"""Write the model bundle: network, record and model card, with the bundle's own figures."""

import json

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import BUNDLE, MODEL, PACKED, PREDICTIONS, SPLIT_SUMMARY, SPLITS


def main() -> None:
    params = load_params()
    import numpy as np

    from malaria import bundle, files, labels, tables
    from malaria.bundle import build, convert, fingerprints, ood
    from malaria.cells import packed
    from malaria.train import network

    model = network.load(MODEL)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    train, _ = packed.rows(cells, splits, tables.TRAIN)
    flatbuffer = convert.convert(network.fused(model), params.export.precision, cells.images[train])
    convert.check_size(flatbuffer, model.count_params())
    judged = tables.read(PREDICTIONS, tables.PREDICTIONS)
    by_patient = json.loads(SPLIT_SUMMARY.read_text(encoding="utf-8"))["by_patient"]
    hashes = {
        "data": files.sha256(PACKED / packed.INDEX),
        "splits": files.sha256(SPLITS),
        "code": build.code_hash(),
    }
    record = build.draft(params, cells.size, flatbuffer, hashes)
    with files.atomic_folder(BUNDLE) as folder:
        build.write(folder, flatbuffer, record, "")
        exported = bundle.load(folder)
        pixels = cells.images[packed.rows_of(cells, judged.path)]
        said = exported.run(pixels)
        agreement = convert.check_agreement(
            said.p_network,
            judged.p_network.to_numpy(),
            np.asarray(judged.label == labels.POSITIVE, dtype=np.int64),
            params.export.precision,
        )
        learnt = cells.images[train]
        doors = ood.fit(learnt, exported.run(learnt).features)
        val = (judged.split == tables.VAL).to_numpy()
        doors = ood.with_limits(doors, ood.limits(ood.distances(doors, pixels[val], said.features[val])))
        judged["p_network"] = said.p_network
        judged["rejected"] = [reason or "" for reason in ood.reasons(doors, pixels, said.features)]
        sides = {name: judged[judged.split == name] for name in (tables.VAL, tables.TEST)}
        made_with = packed.rows_of(cells, splits.path[splits.split != tables.TEST])
        seen = fingerprints.marks(cells.images[row] for row in made_with)
        build.finish(
            folder,
            flatbuffer,
            record,
            doors,
            sides,
            seen,
            model.count_params(),
            params.evaluate,
            by_patient=by_patient,
        )
    print(
        f"{BUNDLE}: {len(flatbuffer):,} bytes, within {agreement.difference:.1g} of the trained network; "
        f"{agreement.decisions} of {agreement.cells:,} decisions at 0.5 differ, AUC by {agreement.auc:.1g}"
    )


if __name__ == "__main__":
    run_stage(main)
