"""Pictures that strangers send, decoded in a process that is forked for one request alone."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import PIL

from malaria.cells import decoding, images, sandbox

TOO_COSTLY = (
    f"decoding it took more than {sandbox.STRANGERS.seconds} seconds of processor time "
    f"or {sandbox.STRANGERS.memory:,} MB"
)
TOO_MANY_COSTLY = "too many pictures before it took too long to decode"
UNSAFE_TIFF = f"TIFF, which Pillow {PIL.__version__} does not read safely: the server needs Pillow 13"

# A request that has spent so many processes gets no other.
_MOST_PROCESSES = 3

# Forked before they are asked for, so that no request waits for it.
_AHEAD = 4

Gone = Callable[[], bool] | None
Read = Callable[[Path | BinaryIO | bytes], images.Crop]


def reads_tiff(version: str = PIL.__version__) -> bool:
    """Whether this Pillow may be given a stranger's TIFF: GHSA-q45j-58j2-45rg, GHSA-wqgw-9xfh-qf2g."""
    return int(version.partition(".")[0]) >= 13


@contextmanager
def fresh(limits: images.Limits, gone: Gone = None) -> Iterator[Read]:
    """What reads the pictures of one request, as `images.read`; one that costs too much is Unreadable.

    Args:
        gone: whether those who asked wait no more; the process is killed then.
    """
    spent = 0
    with closing(sandbox.Decoder(limits, sandbox.STRANGERS, ahead=_AHEAD)) as decoder:

        def read(source: Path | BinaryIO | bytes) -> images.Crop:
            nonlocal spent
            encoded = source if isinstance(source, bytes) else images.content(source, limits)
            if encoded.startswith(decoding.TIFF) and not reads_tiff():
                raise images.Unreadable(UNSAFE_TIFF)
            if spent == _MOST_PROCESSES:
                raise images.Unreadable(TOO_MANY_COSTLY)
            try:
                return decoder.read(encoded, gone)
            except sandbox.Costly:
                spent += 1
                raise images.Unreadable(TOO_COSTLY) from None

        yield read
