"""Serve a model bundle as a web page: upload a cell, see its category and how sure the model is."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

from malaria import RESEARCH, __version__
from malaria.command import positive, run_and_exit
from malaria.errors import UserError


def parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the command-line parser; `add_help=False` makes it usable as a parent of another parser."""
    options = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description=__doc__, epilog=RESEARCH, add_help=add_help
    )
    options.add_argument("--version", action="version", version=__version__)
    revision = text_type(".+", "a revision")
    bundles = options.add_mutually_exclusive_group()
    bundles.add_argument(
        "--model",
        type=Path,
        metavar="BUNDLE",
        help="a bundle folder (default: models/pretrained, or if that is missing, what `dvc repro` made)",
    )
    bundles.add_argument(
        "--rev",
        type=revision,
        metavar="REV",
        help="the bundle of a git tag, branch or commit, or of a version of the artifact "
        "(malaria-cells@v1.2.0, or v1.2.0 if git has no tag of that name): its artifact malaria-cells, or "
        "models/pretrained if DVC lacks the artifact's files; REV:FOLDER takes the bundle in that folder; "
        "needs DVC",
    )
    for name, kind, default, unit, meaning in (
        ("--compare", revision, None, "REV", "show another revision's bundle beside it, on every upload"),
        ("--repo", str, ".", "PATH_OR_URL", "git repository of --rev and --compare; . is the current folder"),
        ("--cells", Path, None, "FOLDER", "labelled cells to test it on (in Parasitized and Uninfected)"),
        ("--host", str, "127.0.0.1", "HOST", "address to listen on; 127.0.0.1 is this machine alone"),
        ("--port", int, 7860, "PORT", "port; 0 takes a free one"),
        ("--concurrency", positive, 4, "N", "requests judged at the same time"),
        ("--queue", positive, 100, "N", "requests that may wait; more are refused"),
        ("--batch", positive, 32, "N", "most cells judged in one go, before the next request has its turn"),
        ("--keep", positive, 3600, "SECONDS", "how long uploads are kept"),
        ("--room", positive, 1024, "MB", "most space for the uploads that are kept; the oldest go first"),
    ):
        text = meaning if default is None else f"{meaning} (default: %(default)s)"
        options.add_argument(name, type=kind, default=default, metavar=unit, help=text)
    options.add_argument(
        "--auth",
        type=text_type("|[^:]*:.*", "USER:PASSWORD"),
        default=os.environ.get("MALARIA_AUTH", ""),
        metavar="USER:PASSWORD",
        help="what every request must send (default: MALARIA_AUTH of the environment, which other users of "
        "this machine cannot see; without it, no password is needed)",
    )
    options.add_argument(
        "--allow-host",
        type=text_type(r"[\w.-]+", "a name such as cells.example.org"),
        action="append",
        default=[],
        metavar="NAME",
        help="a name like cells.example.org under which this server is reached; addresses and names without "
        "a dot are always accepted",
    )
    options.add_argument(
        "--allow-frame",
        type=text_type(r"(https?://)?[\w.:*-]+", "a site such as https://example.org"),
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site like https://example.org whose pages may show this one in a frame (default: none)",
    )
    options.add_argument(
        "--root-path",
        type=text_type(r"(/|https?://)[\w./:~-]*", "a path such as /cells"),
        metavar="PATH",
        help="the path under which a proxy shows the page, such as /cells",
    )
    return options


def text_type(pattern: str, description: str) -> Callable[[str], str]:
    """Make an argparse type for text that matches `pattern`; its error says what it must be."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"it must be {description}")
        return text

    return parse


def main() -> int:
    return serve(parser().parse_args())


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, then end the process."""
    with contextlib.ExitStack() as stack:
        # Gradio and the network take a second to import; --help and a wrong option must not wait for them.
        try:
            from malaria import bundle

            from . import cells, current, decoder, firewall, logs, uploads
            from .model import Model, open_model, with_distinct_titles
            from .revisions import fetch

            folder = stack.enter_context(uploads.upload_folder())
            from . import serving
        except ModuleNotFoundError as error:
            raise UserError(f"The app needs {error.name}: pip install 'malaria-cells[app]'.") from None

        def open_revision(revision: str) -> Model:
            return open_model(*fetch(revision, arguments.repo), batch=arguments.batch)

        logs.start()
        if not decoder.reads_tiff():
            print(f"note: TIFF files are refused ({decoder.UNSAFE_TIFF}): docs/app.md.", file=sys.stderr)
        # A revision never changes: only a folder is watched.
        watched = None if arguments.rev else arguments.model or bundle.default_folder()
        compared = open_revision(arguments.compare) if arguments.compare else None

        def open_models() -> list[Model]:
            model = open_model(watched, batch=arguments.batch) if watched else open_revision(arguments.rev)
            return with_distinct_titles(model, compared) if compared else [model]

        source = cells.find(arguments.cells)
        names = {field.name for field in fields(firewall.Limits)}
        limits = firewall.Limits(**{name: value for name, value in vars(arguments).items() if name in names})
        listener = stack.enter_context(serving.listen(arguments.host, arguments.port))
        make = partial(serving.make, source=source, folder=folder, limits=limits)
        serving.serve(current.Current(open_models, make, watched).asgi, listener, limits)
    # sys.exit would wait for threads that still judge for clients that have left.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    run_and_exit(main)
