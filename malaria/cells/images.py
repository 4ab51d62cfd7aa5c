"""The one way from a file to pixels: audit, pack, predict and the app all read images through here."""

import functools
import hashlib
import io
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from malaria.cells import sandbox
from malaria.cells.decoding import DAMAGED, NO_IMAGE, Limits, Unreadable
from malaria.cells.sandbox import Crop
from malaria.errors import UserError

__all__ = ["DAMAGED", "NO_IMAGE", "Crop", "Limits", "Unreadable"]

Pixels = npt.NDArray[np.uint8]

# The name of `resize` in the model bundle, for apps that resize on their own.
RESIZE = "bilinear-no-antialias"

# Uncompressed 16-bit RGBA takes 8 bytes a pixel; the rest is left to metadata.
_BYTES_A_PIXEL = 16
_BYTES_OF_METADATA = 2**24


@dataclass(frozen=True)
class Finding:
    """What reading a file told: its SHA-256 (empty where its bytes could not be had), its size in px
    where that is known, and why it is no cell crop (empty for one that is); `pages` and `bits` as
    in tables.CELLS.
    """

    sha256: str
    width: int | None
    height: int | None
    reason: str
    pages: int = 1
    bits: int = 0


def content(source: Path | BinaryIO, limits: Limits) -> bytes:
    """All bytes of one image file.

    Raises:
        Unreadable: it cannot be opened, or is so large that `limits` would refuse it.
    """
    most = _BYTES_A_PIXEL * limits.max_pixels + _BYTES_OF_METADATA
    found = io.BytesIO()
    try:
        with source.open("rb", buffering=0) if isinstance(source, Path) else nullcontext(source) as stream:
            # In pieces, since a read of `most` bytes would set that much memory aside for each small file.
            while chunk := stream.read(2**16):
                found.write(chunk)
                if found.tell() > most:
                    raise Unreadable(f"file larger than {most / 1e6:,.0f} MB")
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror or error}") from None
    return found.getvalue()


def read(source: Path | BinaryIO | bytes, limits: Limits, name: str = "") -> Crop:
    """Decode one image to RGB as a person sees it, in another process.

    The format is told by content, never by name. EXIF rotation is applied; greyscale, palette, CMYK
    and 16-bit images become 8-bit RGB (of 16 bits the highest eight in use); what is transparent becomes
    black, as the set has it outside the cell. Of several pages the first counts. Sizes are checked
    before a pixel is decoded.

    Args:
        name: of what is no path, for the sentence.

    Raises:
        Unreadable: no image, a damaged one, or one outside `limits`.
        UserError: it takes more than an image may.
    """
    if not isinstance(source, bytes):
        name, source = name or str(source), content(source, limits)
    return _decoded(source, limits, name or "An image")


def examine(raw: Path, limits: Limits, path: str) -> Finding:
    """Decode the image `path` below `raw`, and say what was found.

    Raises:
        UserError: as `read`.
    """
    sha256 = ""
    try:
        encoded = content(raw / path, limits)
        sha256 = hashlib.sha256(encoded).hexdigest()
        # No caller would look at the pixels.
        found = _decoded(encoded, limits, str(raw / path), pixels=False)
    except Unreadable as refusal:
        return Finding(sha256, refusal.width, refusal.height, refusal.reason)
    return Finding(sha256, found.width, found.height, "", found.pages, found.bits)


def _decoded(encoded: bytes, limits: Limits, name: str, *, pixels: bool = True) -> Crop:
    """Decode in this thread's own process for such limits."""
    kept: dict[object, sandbox.Decoder] = vars(_own).setdefault("decoders", {})
    decoder = kept.get((limits, pixels))
    if decoder is None:
        kept[limits, pixels] = decoder = sandbox.Decoder(limits, pixels=pixels)
    try:
        return decoder.read(encoded)
    except sandbox.Costly:
        raise UserError(
            f"{name} ended the process that decodes it: more than {sandbox.OWN.seconds} s of processor time "
            f"or {sandbox.OWN.memory:,} MB, or a fault of the decoder. Take it out, or save it anew."
        ) from None


_own = threading.local()


def resize(pixels: Pixels, size: int) -> Pixels:
    """Stretch `pixels`, uint8 (h, w, 3), to uint8 (size, size, 3).

    Bilinear between the four nearest pixels, with half-pixel centres and without anti-aliasing, and
    rounded: so were the public 50 px copies of the NIH cells made. A network sees the same crops
    whichever copy it is given.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    above, below, down = _neighbours(height, size)
    left, right, across = _neighbours(width, size)
    down, across = down[:, None, None], across[:, None]
    upper = pixels[above].astype(np.float32)
    rows = upper + (pixels[below] - upper) * down
    first = rows.take(left, axis=1)
    columns = first + (rows.take(right, axis=1) - first) * across
    return (columns + np.float32(0.5)).astype(np.uint8)


@functools.lru_cache(maxsize=2048)
def _neighbours(length: int, size: int) -> tuple[npt.NDArray[np.intp], ...]:
    """For each of `size` places along `length` pixels: the two nearest pixels, intp, and the
    second's share, float32.
    """
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = np.minimum(at.astype(np.intp), max(length - 2, 0))
    second = np.minimum(first + 1, length - 1)
    return first, second, (at - first).astype(np.float32)
