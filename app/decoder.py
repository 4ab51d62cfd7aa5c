"""Decode uploaded pictures in a process that is forked for one request (see `malaria.cells.sandbox`)."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import PIL
from starlette.exceptions import HTTPException

from malaria.cells import decoding, images, sandbox
from malaria.errors import UnavailableError
from malaria.fetch import archives

TOO_COSTLY = (
    f"decoding it took more than {sandbox.UPLOADED.seconds} seconds of processor time "
    f"or {sandbox.UPLOADED.memory:,} MB"
)
TOO_MANY_COSTLY = "too many pictures before it took too long to decode"
UNSAFE_TIFF = f"TIFF, which Pillow {PIL.__version__} does not read safely: the server needs Pillow 13"

# A request gets no further process after this many costly pictures, each of which uses one up.
_MAX_COSTLY = 3

# Processes to fork in advance, so that no request waits for a fork.
_AHEAD = 4

Gone = Callable[[], bool] | None
Decode = Callable[[Path | BinaryIO | bytes], images.Crop]


def reads_tiff(version: str = PIL.__version__) -> bool:
    """Whether a Pillow version has the fixes for TIFF: GHSA-q45j-58j2-45rg, GHSA-wqgw-9xfh-qf2g."""
    return int(version.partition(".")[0]) >= 13


@contextmanager
def start(limits: images.Limits, gone: Gone = None) -> Iterator[Decode]:
    """Make a function that decodes the pictures of one request, as `images.read` does.

    It raises Unreadable also for a picture that takes too much time or memory, and HTTPException if the
    system starts no process.

    Args:
        gone: says whether the client has left; the process is killed then.
    """
    costly = 0
    with closing(sandbox.Decoder(limits, sandbox.UPLOADED, ahead=_AHEAD)) as decoder:

        def decode(source: Path | BinaryIO | bytes) -> images.Crop:
            nonlocal costly
            try:
                # A member of a zip is unpacked as it is read.
                encoded = source if isinstance(source, bytes) else images.content(source, limits)
            except archives.DAMAGED_ZIP:
                raise images.Unreadable(images.DAMAGED) from None
            if encoded.startswith(decoding.TIFF) and not reads_tiff():
                raise images.Unreadable(UNSAFE_TIFF)
            if costly == _MAX_COSTLY:
                raise images.Unreadable(TOO_MANY_COSTLY)
            try:
                return decoder.read(encoded, gone)
            except sandbox.DecoderEnded:
                costly += 1
                raise images.Unreadable(TOO_COSTLY) from None
            except UnavailableError as error:
                raise HTTPException(503, str(error)) from None

        yield decode
