"""Serve a model bundle as a web page: upload a cell, see its category and how sure the model is."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from malaria import RESEARCH, __version__
from malaria.command import end_with, how_many
from malaria.errors import UserError


def parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the command-line parser; `add_help=False` makes it usable as a parent of another parser."""
    known = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description=__doc__, epilog=RESEARCH, add_help=add_help
    )
    known.add_argument("--version", action="version", version=__version__)
    revision = shaped(".+", "a revision")
    served = known.add_mutually_exclusive_group()
    served.add_argument(
        "--model",
        type=Path,
        metavar="BUNDLE",
        help="a bundle folder (default: models/pretrained, or if that is missing, what `dvc repro` made)",
    )
    served.add_argument(
        "--rev",
        type=revision,
        metavar="REV",
        help="the bundle of a git tag, branch or commit, or of a version of the artifact "
        "(malaria-cells@v1.2.0, or v1.2.0 if git has no tag of that name): its artifact malaria-cells, or "
        "models/pretrained if DVC lacks the artifact's files; REV:FOLDER takes the bundle in that folder; "
        "needs DVC",
    )
    for name, kind, default, unit, what in (
        ("--compare", revision, None, "REV", "show another revision's bundle beside it, on every upload"),
        ("--repo", str, ".", "PATH_OR_URL", "git repository of --rev and --compare; . is the current folder"),
        ("--cells", Path, None, "FOLDER", "labelled cells to test it on (in Parasitized and Uninfected)"),
        ("--host", str, "127.0.0.1", "HOST", "address to listen on; 127.0.0.1 is this machine alone"),
        ("--port", int, 7860, "PORT", "port; 0 takes a free one"),
        ("--concurrency", how_many, 4, "N", "requests judged at the same time"),
        ("--queue", how_many, 100, "N", "requests that may wait; more are refused"),
        ("--batch", how_many, 32, "N", "most cells judged in one go, before the next request has its turn"),
        ("--keep", how_many, 3600, "SECONDS", "how long uploads are kept"),
        ("--room", how_many, 1024, "MB", "most space for the uploads that are kept; the oldest go first"),
    ):
        told = what if default is None else f"{what} (default: %(default)s)"
        known.add_argument(name, type=kind, default=default, metavar=unit, help=told)
    known.add_argument(
        "--auth",
        type=shaped("|[^:]*:.*", "USER:PASSWORD"),
        default=os.environ.get("MALARIA_AUTH", ""),
        metavar="USER:PASSWORD",
        help="what every request must send (default: MALARIA_AUTH of the environment, which other users of "
        "this machine cannot see; without it, no password is needed)",
    )
    known.add_argument(
        "--allow-host",
        type=shaped(r"[\w.-]+", "a name such as cells.example.org"),
        action="append",
        default=[],
        metavar="NAME",
        help="a name like cells.example.org under which this server is reached; addresses and names without "
        "a dot are always accepted",
    )
    known.add_argument(
        "--allow-frame",
        type=shaped(r"(https?://)?[\w.:*-]+", "a site such as https://example.org"),
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site like https://example.org whose pages may show this one in a frame (default: none)",
    )
    known.add_argument(
        "--root-path",
        type=shaped(r"(/|https?://)[\w./:~-]*", "a path such as /cells"),
        metavar="PATH",
        help="the path under which a proxy shows the page, such as /cells",
    )
    return known


def shaped(pattern: str, what: str) -> Callable[[str], str]:
    """Make an argparse type for text that matches `pattern`; its error says that it must be `what`."""

    def value(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"it must be {what}")
        return text

    return value


def main() -> int:
    return serve(parser().parse_args())


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, then end the process."""
    with contextlib.ExitStack() as held:
        # Gradio and the network take a second to import; --help and a wrong option must not wait for them.
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
            print(f"note: TIFF files are refused ({decoder.UNSAFE_TIFF}): docs/app.md.", file=sys.stderr)
        # A revision never changes: only a folder is watched.
        watched = None if arguments.rev else arguments.model or bundle.default_folder()
        compared = of_revision(arguments.compare) if arguments.compare else None

        def opened() -> list[Model]:
            first = open_model(watched, batch=arguments.batch) if watched else of_revision(arguments.rev)
            return told_apart(first, compared) if compared else [first]

        source = cells.find(arguments.cells)
        known = {field.name for field in fields(firewall.Limits)}
        limits = firewall.Limits(**{name: one for name, one in vars(arguments).items() if name in known})
        listening = held.enter_context(serving.listen(arguments.host, arguments.port))
        served = current.Current(opened, lambda models: serving.make(models, source, folder, limits), watched)
        serving.serve(served.asgi, listening, limits)
    # sys.exit would wait for threads that still judge for clients that have left.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    end_with(main)
