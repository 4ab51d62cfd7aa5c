"""Write a model repository for the Hugging Face Hub: the bundle, and its card with the hub's metadata.

Nothing is uploaded: docs/releases.md has the command for that.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from malaria import bundle, files, paths
from malaria.command import new_parser, run_and_exit
from malaria.evaluate import evaluation, metrics


def main() -> None:
    parser = new_parser("remote.hub", __doc__)
    parser.add_argument("--model", type=Path, default=paths.PRETRAINED, help="a bundle folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/hub"), help="folder to write (%(default)s)")
    parser.add_argument("--cells", default="NIH/NLM malaria cells", help="what was measured on (%(default)s)")
    arguments = parser.parse_args()
    write(arguments.model, arguments.out, arguments.cells)
    print(f"{arguments.out} is written. To upload it: hf upload OWNER/malaria-cells {arguments.out} .")


def write(source: Path, out: Path, cells: str) -> None:
    """Write the repository of the bundle in `source` into `out`, whole or not at all.

    Args:
        cells: the cells that the figures come from, in words.

    Raises:
        UserError: as `bundle.load` and `bundle.check_replaceable`.
    """
    bundle.check_replaceable(out)
    record = bundle.load(source).record
    cells = "Synthetic sample" if record.synthetic else cells
    figures = json.loads((source / bundle.PARTS["figures"]).read_text(encoding="utf-8"))
    data = metadata(record.name, cells, figures)
    text = (source / bundle.CARD).read_text(encoding="utf-8")
    with files.atomic_folder(out) as folder:
        ignore = shutil.ignore_patterns(paths.LABEL_AUDIT.name)
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignore)
        files.write_text(folder / "README.md", str(ModelCard(f"---\n{data}\n---\n{text}")))


def metadata(name: str, cells: str, figures: dict[str, Any]) -> ModelCardData:
    """The card's metadata, which the hub reads; `figures` is the content of `figures.json`."""
    return ModelCardData(
        model_name=name,
        license="mit",
        library_name="litert",
        pipeline_tag="image-classification",
        tags=["malaria", "microscopy", "biology"],
        language="en",
        eval_results=[
            _result(cells, side, kind, metric, scores)
            for side, as_given in figures["sides"].items()
            for kind, scores in as_given.get("labels", {evaluation.AS_GIVEN: as_given}).items()
            if kind != "doubtful_cells"
            for metric in evaluation.FIGURES
            if scores.get(metric, {}).get("value") is not None
        ],
    )


def _result(cells: str, side: str, kind: str, metric: str, scores: dict[str, Any]) -> EvalResult:
    """One figure; `kind` says how doubtful labels were treated."""
    return EvalResult(
        task_type="image-classification",
        dataset_type="red-blood-cells",
        dataset_name=f"{cells} ({scores['cells']:,} cells of {scores['patients']:,} patients)",
        # The hub tells data sets of one type apart by these.
        dataset_config=f"labels {kind.replace('_', ' ')}",
        dataset_split=side,
        metric_type=metric,
        metric_name=f"{evaluation.FIGURES[metric]}: {metrics.interval(**scores[metric])}",
        metric_value=scores[metric]["value"],
    )


if __name__ == "__main__":
    run_and_exit(main)
