"""Read image files as pixels. Audit, pack, predict and the app all read images with this module."""

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

# The name of the method of `resize` in the model bundle, for apps that resize cells themselves.
RESIZE = "bilinear-no-antialias"

# Limits on the size of a file. Uncompressed 16-bit RGBA takes 8 bytes a pixel; the rest is for metadata.
_BYTES_PER_PIXEL = 16
_METADATA_BYTES = 2**24


@dataclass(frozen=True)
class Finding:
    """The result of reading a file.

    sha256: of its bytes; empty if they could not be read. width, height: in px; None if unknown. reason: why
    it is not a cell crop; empty for one that is. pages, bits: as in tables.CELLS.
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
        Unreadable: it cannot be opened, or is larger than any image within `limits`.
    """
    max_bytes = _BYTES_PER_PIXEL * limits.max_pixels + _METADATA_BYTES
    buffer = io.BytesIO()
    try:
        with source.open("rb", buffering=0) if isinstance(source, Path) else nullcontext(source) as stream:
            # In pieces, because read(max_bytes) would allocate `max_bytes` even for a small file.
            while chunk := stream.read(2**16):
                buffer.write(chunk)
                if buffer.tell() > max_bytes:
                    raise Unreadable(f"file larger than {max_bytes / 1e6:,.0f} MB")
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror or error}") from None
    return buffer.getvalue()


def read(source: Path | BinaryIO | bytes, limits: Limits, name: str = "") -> Crop:
    """Decode one image to RGB as a person sees it, in another process.

    The content decides the format, never the file name. EXIF rotation is applied; greyscale, palette, CMYK
    and 16-bit images become 8-bit RGB (of 16 bits the highest eight in use); transparent parts become black,
    like the background of the NIH/NLM cells. Of several pages the first is read. Sizes are checked before a
    pixel is decoded.

    Args:
        name: of the image in error messages, if `source` is not a path.

    Raises:
        Unreadable: no image, a damaged one, or one outside `limits`.
        UserError: decoding took more time or memory than sandbox.TRUSTED allows, or crashed.
    """
    if not isinstance(source, bytes):
        name, source = name or str(source), content(source, limits)
    return _decode(source, limits, name or "An image")


def examine(raw: Path, limits: Limits, path: str) -> Finding:
    """Decode the image `path` below `raw`, and describe the file.

    Raises:
        UserError: as `read`.
    """
    sha256 = ""
    try:
        encoded = content(raw / path, limits)
        sha256 = hashlib.sha256(encoded).hexdigest()
        crop = _decode(encoded, limits, str(raw / path))
        if (crop.pixels == crop.pixels[0, 0]).all():
            raise Unreadable("one colour throughout", crop.width, crop.height)
    except Unreadable as refusal:
        return Finding(sha256, refusal.width, refusal.height, refusal.reason)
    return Finding(sha256, crop.width, crop.height, "", crop.pages, crop.bits)


def _decode(encoded: bytes, limits: Limits, name: str) -> Crop:
    """Decode in a separate process; each thread keeps one for each value of `limits`."""
    decoders: dict[Limits, sandbox.Decoder] = vars(_per_thread).setdefault("decoders", {})
    try:
        return decoders.setdefault(limits, sandbox.Decoder(limits)).read(encoded)
    except sandbox.DecoderEnded:
        raise UserError(
            f"{name} ended the process that decodes it: more than {sandbox.TRUSTED.seconds} s of processor "
            f"time or {sandbox.TRUSTED.memory:,} MB, or a fault of the decoder. Take it out, or save it anew."
        ) from None


_per_thread = threading.local()


def resize(pixels: Pixels, size: int) -> Pixels:
    """Stretch `pixels`, uint8 (h, w, 3), to uint8 (size, size, 3).

    Bilinear between the four nearest pixels, with half-pixel centres and without anti-aliasing, and
    rounded. The public 50 px copies of the NIH cells were made in this way, so a network sees the same
    crops from either copy.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    top, bottom, weight_y = _neighbours(height, size)
    left, right, weight_x = _neighbours(width, size)
    weight_y, weight_x = weight_y[:, None, None], weight_x[:, None]
    upper = pixels[top].astype(np.float32)
    rows = upper + (pixels[bottom] - upper) * weight_y
    first = rows.take(left, axis=1)
    columns = first + (rows.take(right, axis=1) - first) * weight_x
    return (columns + np.float32(0.5)).astype(np.uint8)


@functools.lru_cache(maxsize=2048)
def _neighbours(length: int, size: int) -> tuple[npt.NDArray[np.intp], ...]:
    """The two nearest of `length` pixels for each of `size` positions, and the second's weight.

    Returns:
        First and second pixel, intp (size,), and weight in [0, 1], float32 (size,).
    """
    position = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = np.minimum(position.astype(np.intp), max(length - 2, 0))
    second = np.minimum(first + 1, length - 1)
    return first, second, (position - first).astype(np.float32)
