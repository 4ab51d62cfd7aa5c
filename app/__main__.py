"""Serve a model bundle as a web page: upload a cell, see its category and how sure the model is."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from malaria import __version__
from malaria.command import end_with, how_many
from malaria.errors import UserError

NOTE = "Research use only: nothing here is a diagnosis."


def parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line; without `--help` as a part of another."""
    known = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description=__doc__,
        epilog=f"{NOTE} docs/app.md says more.",
        add_help=add_help,
    )
    known.add_argument("--version", action="version", version=__version__)
    add, served = known.add_argument, known.add_mutually_exclusive_group().add_argument
    default = "a bundle folder (default: models/pretrained, or where that is missing what dvc repro made)"
    served("--model", type=Path, metavar="BUNDLE", help=default)
    served(
        "--rev", help="the bundle of a git revision, or version of the artifact; REV:FOLDER that in a folder"
    )
    add("--compare", metavar="REV", help="show the bundle of another revision beside it, on every upload")
    add("--repo", default=".", metavar="PATH_OR_URL", help="git repository of REV (default: this folder)")
    add("--cells", type=Path, metavar="FOLDER", help="with labelled cells by category, to test the model on")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=7860, help="port (default: %(default)s; 0 takes a free one)")
    for name, number, unit, what in (
        ("--concurrency", 4, "N", "requests judged side by side"),
        ("--queue", 100, "N", "requests that may wait; more are refused"),
        ("--batch", 32, "N", "cells judged in one go, at most, before the next who wait have their turn"),
        ("--keep", 3600, "SECONDS", "how long uploads are kept"),
        ("--room", 1024, "MB", "of all uploads that are kept: the oldest go first"),
    ):
        add(name, type=how_many, default=number, metavar=unit, help=f"{what} (default: %(default)s)")
    add(
        "--auth",
        type=shaped("|[^:]*:.*", "USER:PASSWORD"),
        default=os.environ.get("MALARIA_AUTH", ""),
        metavar="USER:PASSWORD",
        help="what every request must bring (default: MALARIA_AUTH of the environment, which other users of "
        "this machine do not see; without it nothing is asked)",
    )
    for name, unit, pattern, what in (
        ("--allow-host", "NAME", r"[\w.-]+", "a name of this server, such as cells.example.org"),
        ("--allow-frame", "ORIGIN", r"(https?://)?[\w.:*-]+", "a site to frame this, such as https://a.org"),
    ):
        add(name, type=shaped(pattern, what), action="append", default=[], metavar=unit, help=what)
    path = "a path at which a proxy in front shows the page, such as /cells"
    add("--root-path", type=shaped(r"(/|https?://)[\w./:~-]*", path), metavar="PATH", help=path)
    return known


def shaped(pattern: str, what: str) -> Callable[[str], str]:
    """An option's type: text of that shape, which anything else is told to be."""

    def value(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"it must be {what}")
        return text

    return value


def main() -> int:
    return serve(parser().parse_args())


def serve(arguments: argparse.Namespace) -> int:
    """Serve until the process is ended."""
    with contextlib.ExitStack() as held:
        # Gradio and the network take a second; --help and a wrong option should not wait for them.
        try:
            from malaria import bundle

            from . import cells, current, decoder, firewall, logs, uploads
            from .model import Model, open_model, told_apart
            from .revisions import fetch

            folder = held.enter_context(uploads.upload_folder())
            from . import serving
        except ModuleNotFoundError as error:
            raise UserError(f"The app needs {error.name}: pip install 'malaria-cells[app]'.") from None

        def of_revision(named: str) -> Model:
            return open_model(*fetch(named, arguments.repo), batch=arguments.batch)

        logs.start()
        if not decoder.reads_tiff():
            print(f"note: no TIFF is taken ({decoder.UNSAFE_TIFF}): docs/app.md.", file=sys.stderr)
        # What a revision has never changes; a folder may.
        watched = None if arguments.rev else arguments.model or bundle.default_folder()
        compared = of_revision(arguments.compare) if arguments.compare else None

        def opened() -> list[Model]:
            first = open_model(watched, batch=arguments.batch) if watched else of_revision(arguments.rev)
            return told_apart(first, compared) if compared else [first]

        source = cells.find(arguments.cells)
        known = firewall.Limits.__dataclass_fields__
        limits = firewall.Limits(**{name: one for name, one in vars(arguments).items() if name in known})
        listening = held.enter_context(serving.listen(arguments.host, arguments.port))
        served = current.Current(opened, lambda models: serving.make(models, source, folder, limits), watched)
        serving.serve(served.asgi, listening, limits)
    # A thread that still judges for a client that has left must not hold up the end.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    end_with(main)
