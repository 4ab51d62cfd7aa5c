"""Evaluate a bundle on other laboratories' cells, one set after the other, as the stage `external` does.

Each set is a folder or archive with class folders, or a folder of annotated fields of view, whose cells
are found and cut out. A set may have cells of one class only.
"""

from pathlib import Path

from malaria import bundle, params
from malaria.command import new_parser, run_and_exit
from malaria.predict import external


def main() -> None:
    parser = new_parser("experiments.external", __doc__)
    parser.add_argument("sets", type=Path, nargs="+", help="a folder, zip or tar for each laboratory")
    parser.add_argument("--model", type=Path, help="a bundle folder (default: models/pretrained)")
    arguments = parser.parse_args()
    model, settings = bundle.load(arguments.model, threads=1), params.load_params()
    for path in arguments.sets:
        print(external.as_text({path.stem: external.judge(model, path, settings)}), flush=True)


if __name__ == "__main__":
    run_and_exit(main)
