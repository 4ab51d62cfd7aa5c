"""Serve a model bundle as a web page: upload a cell, see its category and how sure the model is."""

import argparse
import os
import sys
from pathlib import Path

from malaria import __version__
from malaria.command import end_with

NOTE = "Research use only: nothing here is a diagnosis."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(prog="python -m app", description=__doc__, epilog=NOTE)
    known.add_argument("--version", action="version", version=__version__)
    known.add_argument(
        "--model", type=Path, metavar="BUNDLE", help="a bundle folder (default: the newest here)"
    )
    known.add_argument(
        "--cells",
        type=Path,
        metavar="FOLDER",
        help="labelled cells to test the model on (sub-folders Parasitized and Uninfected)",
    )
    known.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)"
    )
    known.add_argument(
        "--port", type=int, default=7860, help="port (default: %(default)s; 0 takes a free one)"
    )
    known.add_argument(
        "--concurrency",
        type=_count,
        default=4,
        metavar="N",
        help="requests judged side by side (default: %(default)s)",
    )
    known.add_argument(
        "--queue",
        type=_count,
        default=100,
        metavar="N",
        help="requests that may wait; more are refused (default: %(default)s)",
    )
    known.add_argument(
        "--batch",
        type=_count,
        default=32,
        metavar="N",
        help="cells that the network is given at once, at most (default: %(default)s)",
    )
    known.add_argument(
        "--keep",
        type=_count,
        default=3600,
        metavar="SECONDS",
        help="how long uploads are kept (default: %(default)s)",
    )
    return known


def main() -> int:
    arguments = parser().parse_args()
    # Gradio and the network take a second; --help and a wrong option should not wait for them.
    from app import cells, logs
    from app.model import open_model
    from malaria import bundle

    logs.start()
    models = [open_model(arguments.model or bundle.default_folder(), arguments.batch)]
    source = cells.find(arguments.cells)
    from app import page, serving

    limits = page.Limits(arguments.concurrency, arguments.queue, arguments.keep)
    with serving.listen(arguments.host, arguments.port) as listening, serving.upload_folder() as folder:
        serving.serve(serving.make(models, source, folder, limits), listening)
    # A thread that still judges what nobody waits for must not hold up the end.
    sys.stdout.flush()
    os._exit(0)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


if __name__ == "__main__":
    end_with(main)
