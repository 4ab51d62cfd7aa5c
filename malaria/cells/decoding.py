"""Decode the bytes of an image file to RGB. Parts of a file that its pixels do not need never reach Pillow.

Imports only Pillow: `sandbox` forks processes with this module, and a small process is cheaper to fork.
"""

import io
import struct
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import ExifTags, Image, ImageChops, ImageFile, TiffImagePlugin, UnidentifiedImageError  # noqa: F401

# Pillow knows these formats without loading all its plug-ins (TIFF by the import above).
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
# First bytes of these files, by which one that is cut off in its header counts as damaged: Pillow calls it
# no image. BMP is left out, because any text may start with its two letters.
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = (PNG[:4], JPEG, *TIFF)

NO_IMAGE = "no PNG, JPEG, TIFF or BMP image"
DAMAGED = "damaged or cut short"
NO_COLOUR = "pixels are no 8-bit or 16-bit colours"
PLANES = "16-bit colours in compressed planes: save it without compression, or pixel by pixel"

# Bytes. The orientation is the only metadata that is parsed, and only up to this size.
_MOST_METADATA = 2**16
_MOST_PAGES = 10_000

# TIFF tags: all those that the pixels need (some hold long lists), then those with a name here.
_PIXELS_OF_TIFF = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338,
                   339, 347, *range(512, 522), 529, 530, 531, 532}  # fmt: skip
_ORIENTATION, _BITS, _COMPRESSION, _PLANAR, _KIND = 274, 258, 259, 284, 339
_READ_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
_OTHER_COMPRESSIONS = {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
                       34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
                       52546: "JPEG XL"}  # fmt: skip

# Bytes of one value, by the number of its TIFF type.
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

# The operation that turns a picture upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# How many of 16 bits a picture may use: the bit depths of cameras.
_RANGES = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Limits:
    """Limits on a cell crop: no side under `min_side` px, at most `max_pixels` in all.

    bits: how many of 16 bits the pictures of the set use; 0 if unknown, then each picture is judged alone.
    """

    min_side: int
    max_pixels: int
    bits: int = 0


@dataclass(frozen=True)
class Decoded:
    """A decoded image, in RGB.

    pages: of its file. bits: how many of 16 bits it uses; 0 if it has 8. notes: remarks on how it was read.
    """

    image: Image.Image
    pages: int = 1
    bits: int = 0
    notes: tuple[str, ...] = ()


class Unreadable(Exception):  # noqa: N818 - a finding about a file, not a fault of the program
    """A file that is not a cell crop.

    `reason` is one of a few fixed phrases, so that reasons can be counted. `width` and `height` are in px,
    and None if unknown.
    """

    def __init__(self, reason: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.width, self.height = reason, width, height


@dataclass(frozen=True)
class _Pruned:
    """A file without the parts that are not read.

    pages: how many a TIFF has. tags: of its first page; of a PNG the bits of a sample, by the same number.
    """

    content: bytes
    pages: int = 1
    tags: dict[int, int] = field(default_factory=dict)


def decode(encoded: bytes, limits: Limits) -> Decoded:
    """Decode one image to RGB as a person sees it, as `images.read` describes it.

    Raises:
        Unreadable: no image, a damaged one, or one outside `limits`.
        MemoryError: it takes more memory than this process may have.
    """
    if not encoded:
        raise Unreadable("empty file")
    try:
        # Pillow warns of broken metadata and of large images; neither concerns readers of cells.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruned = _pruned(encoded)
            _check_kind(pruned.tags)
            return _whole(pruned, limits)
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable(DAMAGED if encoded.startswith(SIGNATURES) else NO_IMAGE) from None
    except Image.DecompressionBombError:
        raise Unreadable(_too_large(limits)) from None
    except Exception:
        # Pillow's parsers answer hostile bytes with nearly any exception (OSError, SyntaxError,
        # struct.error, IndexError, ...), and one bad file must never stop the rest.
        raise Unreadable(DAMAGED) from None


def _whole(pruned: _Pruned, limits: Limits) -> Decoded:
    """Decode a file; a JPEG that lacks only its end still counts as whole."""
    try:
        return _rgb(pruned, limits)
    except OSError:
        # A JPEG without its last bytes may have all its pixels: then any filling gives the same image.
        if not pruned.content.startswith(JPEG) or pruned.content.endswith(b"\xff\xd9"):
            raise
    cut = pruned.content.removesuffix(b"\xff")
    one, other = (_rgb(_Pruned(cut + filler * 64 + b"\xff\xd9"), limits) for filler in (b"\0", b"\x55"))
    if one.image.tobytes() != other.image.tobytes():
        raise Unreadable(DAMAGED)
    return one


def _rgb(pruned: _Pruned, limits: Limits) -> Decoded:
    """Decode a pruned file: its first page, upright, in 8-bit RGB."""
    notes: tuple[str, ...] = (f"page 1 of {pruned.pages:,}",) if pruned.pages > 1 else ()
    with Image.open(io.BytesIO(pruned.content), formats=FORMATS) as opened:
        _check_size(opened, limits)
        if opened.mode in ("I", "F", "LAB", "HSV"):
            raise Unreadable(NO_COLOUR)
        image: Image.Image = opened
        bits = 0
        if opened.mode.startswith("I;16") or pruned.tags.get(_BITS) == 16:
            image, used, bits = _of_deep(opened, pruned, limits)
            notes += (f"{used} of 16 bits are used",) if used < 16 else ()
        image.load()
        turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
        return Decoded(_opaque(image if turn is None else image.transpose(turn)), pruned.pages, bits, notes)


def _opaque(image: Image.Image) -> Image.Image:
    """Convert to RGB; transparent parts become black."""
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_size(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise Unreadable(_too_large(limits), image.width, image.height)
    if min(image.size) < limits.min_side:
        raise Unreadable(f"a side under {limits.min_side} px", image.width, image.height)


def _too_large(limits: Limits) -> str:
    return f"larger than {limits.max_pixels:,} pixels"


def _check_kind(tags: dict[int, int]) -> None:
    """Refuse TIFFs of kinds that are not read, and name the kind; Pillow misreads them or says "no image"."""
    how = tags.get(_COMPRESSION, 1)
    if how not in _READ_COMPRESSIONS:
        named = _OTHER_COMPRESSIONS.get(how, f"way {how}")
        raise Unreadable(f"TIFF compressed by {named}: save it without compression, or by LZW")
    if tags.get(_KIND, 1) == 3:
        raise Unreadable("pixels are floating-point numbers: save it with 8 or 16 bits a colour")
    # More than 16 bits, or signed integers.
    if tags.get(_BITS, 1) > 16 or tags.get(_KIND, 1) == 2:
        raise Unreadable(NO_COLOUR)
    if tags.get(_BITS, 1) == 16 and tags.get(_PLANAR, 1) == 2 and how != 1:
        raise Unreadable(PLANES)


# 16 bits a colour, of which Pillow gives only the high byte


def _of_deep(opened: ImageFile.ImageFile, pruned: _Pruned, limits: Limits) -> tuple[Image.Image, int, int]:
    """Convert a picture of 16 bits a colour to 8: the highest eight of the bits in use.

    Returns:
        The picture, how many bits were taken to be in use, and how many it uses itself.
    """
    high, low = _bytes_of(opened, pruned)
    colours = high.split()[:3] if high.mode == "RGBA" else high.split()
    most = max(band.getextrema()[1] for band in colours)
    own = next(bits for bits in _RANGES if most < 2 ** (bits - 8))
    # A single picture may be dark, so without `limits.bits` it counts as one of 8, 12 or 16 bits.
    used = max(own, limits.bits) if limits.bits else {10: 12, 14: 16}.get(own, own)
    if used == 16 or low is None:
        return high, 16, own
    upper = high.point(lambda value: min(value << (16 - used), 255))
    lower = low.point(lambda value: value >> (used - 8))
    return ImageChops.add(upper, lower), used, own


def _bytes_of(opened: ImageFile.ImageFile, pruned: _Pruned) -> tuple[Image.Image, Image.Image | None]:
    """The high and the low bytes of all colours; the low ones are None if Pillow cannot give them."""
    if opened.mode.startswith("I;16"):
        first, second = (Image.frombytes("L", opened.size, opened.tobytes()[at::2]) for at in (0, 1))
        return (first, second) if opened.mode.endswith("B") else (second, first)
    if pruned.tags.get(_PLANAR, 1) == 2:
        order = "L" if pruned.content.startswith(b"II") else "B"
        _set_raw_mode(opened, lambda mode: f"{mode[0]};16{order}")
    with Image.open(io.BytesIO(pruned.content), formats=FORMATS) as again:
        again.tile = opened.tile
        swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
        _set_raw_mode(again, lambda mode: mode[:-1] + swapped[mode[-1]])
        opened.load()
        try:
            return opened, again.copy()
        except ValueError:
            return opened, None


def _set_raw_mode(image: ImageFile.ImageFile, to: Callable[[str], str]) -> None:
    """Change how Pillow unpacks each tile: `to` gives the new raw mode for the old one."""
    image.tile = [
        tile._replace(
            args=to(tile.args) if isinstance(tile.args, str) else (to(str(tile.args[0])), *tile.args[1:])  # type: ignore[index]
        )
        for tile in image.tile
    ]


# Pruning: only what these functions keep reaches Pillow


def _pruned(encoded: bytes) -> _Pruned:
    """Remove the parts of a file that are not read."""
    if encoded.startswith(PNG):
        content = _pruned_png(encoded)
        return _Pruned(content, tags={_BITS: content[24]})
    if encoded.startswith(JPEG):
        return _Pruned(_pruned_jpeg(encoded))
    return _pruned_tiff(encoded) if encoded.startswith(TIFF) else _Pruned(encoded)


def _pruned_png(encoded: bytes) -> bytes:
    """Keep only the chunks that the pixels need, and the first EXIF chunk, for the orientation."""
    kept, at, turned = [encoded[:8]], 8, False
    while at + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        turning = kind == b"eXIf" and size <= _MOST_METADATA and not turned
        turned |= turning
        # The name of a chunk that every reader must read starts with a capital letter.
        if kind[:1].isupper() or kind == b"tRNS" or turning:
            kept.append(encoded[at : at + 12 + size])
        at += 12 + size
    return b"".join(kept)


def _pruned_jpeg(encoded: bytes) -> bytes:
    """Keep only the segments that the pixels need (two give the colour space), and the first EXIF segment."""
    kept, at, seen = [encoded[:2]], 2, set()
    while (at := encoded.find(b"\xff", at)) >= 0 and at + 4 <= len(encoded):
        marker, size = encoded[at + 1], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker == 0xDA:
            break
        if marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1
            continue
        segment = encoded[at : at + 2 + size]
        wanted = marker in (0xE0, 0xEE) or (marker == 0xE1 and segment[4:8] == b"Exif")
        if (wanted and marker not in seen) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
            seen.add(marker)
        at += 2 + size
    return b"".join([*kept, encoded[at:] if at >= 0 else b""])


def _pruned_tiff(encoded: bytes) -> _Pruned:
    """Keep only the first page, with the tags that its pixels need, each once, and its orientation."""
    order, big = "<" if encoded[:2] == b"II" else ">", encoded[2:4] in (b"+\0", b"\0+")
    count, pointer, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    room = struct.calcsize(pointer)

    def at(kind: str, place: int) -> int:
        return int(struct.unpack_from(order + kind, encoded, place)[0])

    start = first = at(pointer, 8 if big else 4)
    seen = set[int]()
    # If the list of pages leads outside the file, the first page may still be whole.
    with suppress(struct.error, OverflowError):
        while start and start not in seen and len(seen) < _MOST_PAGES:
            end = start + struct.calcsize(count) + size * at(count, start)
            seen.add(start)
            start = at(pointer, end)
    kept, tags = dict[int, bytes](), dict[int, int]()
    for number in range(at(count, first)):
        place = first + struct.calcsize(count) + size * number
        tag, kind = at("H", place), at("H", place + 2)
        length = at(pointer, place + 4) * _TAG_BYTES.get(kind, 8)
        wanted = tag in _PIXELS_OF_TIFF or (tag == _ORIENTATION and length <= _MOST_METADATA)
        if not wanted or tag in kept or len(encoded) < place + size:
            continue
        kept[tag] = encoded[place : place + size]
        value = place + 4 + room
        if kind in (3, 4):
            tags[tag] = at("H" if kind == 3 else "I", value if length <= room else at(pointer, value))
    table = struct.pack(order + count, len(kept)) + b"".join(kept.values()) + bytes(room)
    return _Pruned(encoded[:first] + table + encoded[first + len(table) :], max(len(seen), 1), tags)
