"""The app, but for one thing: it decodes what strangers send in its own process. Only to be measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from app import __main__, decoder
from benchmarks.serving import decode_here
from malaria.cells import images
from malaria.command import end_with


@contextmanager
def here(limits: images.Limits, gone: decoder.Gone = None) -> Iterator[decoder.Read]:  # noqa: ARG001
    """As `decoder.fresh`."""
    yield partial(decode_here, limits=limits)


if __name__ == "__main__":
    decoder.fresh = here
    end_with(__main__.main)
