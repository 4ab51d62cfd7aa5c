"""Train the network on the train cells, and validate it on val after each epoch."""

import shutil

from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import CHECKPOINT, LABORATORIES, LOCK, MODEL, PACKED, PROCESSOR, SPLITS, TRAINING


def main() -> None:
    # TensorFlow takes seconds to import; --help and a wrong parameter should not wait for it.
    params = load_params().train
    from malaria import files, tables
    from malaria.cells import doubtful_labels, packed
    from malaria.train import backend, network, processor, training

    backend.use_threads(params.threads)
    cells = packed.load(PACKED)
    splits = tables.read(SPLITS, tables.SPLITS)
    doubtful = doubtful_labels.of_training(params)
    train, val = (training.side(cells, splits, name, doubtful) for name in (tables.TRAIN, tables.VAL))
    train = training.with_others(train, packed.load(LABORATORIES))
    print(f"Training on {len(train.rows):,} cells, watching {len(val.rows):,}")
    # A checkpoint older than dvc.lock is of a training that is recorded there: start again. Otherwise resume.
    if LOCK.is_file() and CHECKPOINT.is_file() and LOCK.stat().st_mtime > CHECKPOINT.stat().st_mtime:
        CHECKPOINT.unlink()
    shutil.rmtree(TRAINING, ignore_errors=True)
    trained = training.train(train, val, params, TRAINING, resume=CHECKPOINT)
    files.write_text(PROCESSOR, f"{processor.kind()}\n")
    network.save(trained.model, MODEL)
    print(f"Kept epoch {trained.kept_epoch} of {trained.epochs}: val AUC {trained.val_auc:.4f}")


if __name__ == "__main__":
    run_stage(main)
