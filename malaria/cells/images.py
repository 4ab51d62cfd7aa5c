"""The one way from a file to pixels: audit, pack, predict and the app all read images through here."""

import functools
import hashlib
import io
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")
# What their files start with (BMP's two letters might be any text's): Pillow calls a file that is cut
# off in its header no image at all.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")

# The name of `resize` in the model bundle, for apps that resize on their own.
RESIZE = "bilinear-no-antialias"

EMPTY = "empty file"
NO_IMAGE = "no PNG, JPEG, BMP, TIFF, GIF or WebP image"
DAMAGED = "damaged or cut short"
NO_COLOUR = "pixels are no 8-bit or 16-bit colours"

# Uncompressed 16-bit RGBA takes 8 bytes a pixel; the rest is left to metadata.
_BYTES_A_PIXEL = 16
_BYTES_OF_METADATA = 2**24


@dataclass(frozen=True)
class Limits:
    """What is taken for a cell crop: no side under `min_side` px, at most `max_pixels` in all."""

    min_side: int
    max_pixels: int


@dataclass(frozen=True)
class Crop:
    """A decoded image: `pixels` is uint8 (height, width, 3), RGB."""

    pixels: Pixels

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Finding:
    """What reading a file told: its SHA-256 (empty where its bytes could not be had), its size in px
    where that is known, and why it is no cell crop (empty for one that is).
    """

    sha256: str
    width: int | None
    height: int | None
    reason: str


class Unreadable(Exception):  # noqa: N818 - a finding about a file, not a fault of the program
    """A file that is no cell crop, and why, in a few words.

    The words are one of few, so that they can be counted; `width` and `height` (px) are known
    where the size is what is wrong.
    """

    def __init__(self, reason: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.width = width
        self.height = height


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


def read(source: Path | BinaryIO | bytes, limits: Limits) -> Crop:
    """Decode one image to RGB as a person sees it.

    The format is told by content, never by name. EXIF rotation is applied; greyscale, palette, CMYK
    and 16-bit images become 8-bit RGB (of 16 bits the high byte); what is transparent becomes black,
    as the set has it outside the cell. Of several frames or pages the first counts. Sizes are checked
    before a pixel is decoded.

    Raises:
        Unreadable: no image, a damaged one, or one outside `limits`.
    """
    encoded = source if isinstance(source, bytes) else content(source, limits)
    return Crop(np.asarray(_decode(encoded, limits)))


def _decode(encoded: bytes, limits: Limits) -> Image.Image:
    """What `read` does, as an RGB image whose pixels are all decoded."""
    if not encoded:
        raise Unreadable(EMPTY)
    try:
        # Pillow warns of broken metadata and of large images; neither concerns readers of cells.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                _check_size(image, limits)
                return _rgb(image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(DAMAGED if encoded.startswith(_SIGNATURES) else NO_IMAGE) from None
    except Image.DecompressionBombError:
        raise Unreadable(_too_large(limits)) from None
    except Exception:
        # Pillow's parsers answer hostile bytes with nearly any exception (OSError, SyntaxError,
        # struct.error, IndexError, ...), and one bad file must never stop the rest.
        raise Unreadable(DAMAGED) from None


def examine(raw: Path, limits: Limits, path: str) -> Finding:
    """Decode the image `path` below `raw`, and say what was found; nothing is raised for any file."""
    sha256 = ""
    try:
        encoded = content(raw / path, limits)
        sha256 = hashlib.sha256(encoded).hexdigest()
        # Not by way of an array, which no caller would look at.
        image = _decode(encoded, limits)
    except Unreadable as refusal:
        return Finding(sha256, refusal.width, refusal.height, refusal.reason)
    return Finding(sha256, image.width, image.height, "")


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


def _check_size(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise Unreadable(_too_large(limits), image.width, image.height)
    if min(image.size) < limits.min_side:
        raise Unreadable(f"a side under {limits.min_side} px", image.width, image.height)


def _too_large(limits: Limits) -> str:
    return f"larger than {limits.max_pixels:,} pixels"


def _rgb(image: Image.Image) -> Image.Image:
    """Decode, to RGB."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise Unreadable(NO_COLOUR)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=2048)
def _neighbours(length: int, size: int) -> tuple[npt.NDArray[np.intp], ...]:
    """For each of `size` places along `length` pixels: the two nearest pixels, intp, and the
    second's share, float32.
    """
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = np.minimum(at.astype(np.intp), max(length - 2, 0))
    second = np.minimum(first + 1, length - 1)
    return first, second, (at - first).astype(np.float32)
