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

# The orientation is the only metadata that is parsed, and only up to this size.
_MAX_METADATA_BYTES = 2**16
_MAX_PAGES = 10_000

# TIFF tags that the pixels need (some hold long lists), and below the tags that this module reads itself.
_PIXEL_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338,
               339, 347, *range(512, 522), 529, 530, 531, 532}  # fmt: skip
_ORIENTATION, _BITS, _COMPRESSION, _PLANAR, _SAMPLE_FORMAT = 274, 258, 259, 284, 339
_READABLE_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
_COMPRESSION_NAMES = {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
                      34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
                      52546: "JPEG XL"}  # fmt: skip

# Bytes of one value, by the number of its TIFF type.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

# The operation that turns a picture upright, by its EXIF orientation.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The bit depths of cameras: how many of 16 bits a picture may use.
_BIT_DEPTHS = (8, 10, 12, 14, 16)


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
            pruned = _prune(encoded)
            _check_kind(pruned.tags)
            return _decode_whole(pruned, limits)
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


def _decode_whole(pruned: _Pruned, limits: Limits) -> Decoded:
    """Decode a file; a JPEG that lacks only its end still counts as whole."""
    try:
        return _rgb(pruned, limits)
    except OSError:
        # A JPEG without its last bytes may have all its pixels: then any filling gives the same image.
        if not pruned.content.startswith(JPEG) or pruned.content.endswith(b"\xff\xd9"):
            raise
    cut = pruned.content.removesuffix(b"\xff")
    first, second = (_rgb(_Pruned(cut + filler * 64 + b"\xff\xd9"), limits) for filler in (b"\0", b"\x55"))
    if first.image.tobytes() != second.image.tobytes():
        raise Unreadable(DAMAGED)
    return first


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
            image, used_bits, bits = _to_8_bits(opened, pruned, limits)
            notes += (f"{used_bits} of 16 bits are used",) if used_bits < 16 else ()
        image.load()
        transpose = _TRANSPOSES.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
        upright = image if transpose is None else image.transpose(transpose)
        return Decoded(_opaque(upright), pruned.pages, bits, notes)


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
    compression = tags.get(_COMPRESSION, 1)
    if compression not in _READABLE_COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(compression, f"way {compression}")
        raise Unreadable(f"TIFF compressed by {name}: save it without compression, or by LZW")
    if tags.get(_SAMPLE_FORMAT, 1) == 3:
        raise Unreadable("pixels are floating-point numbers: save it with 8 or 16 bits a colour")
    # More than 16 bits, or signed integers.
    if tags.get(_BITS, 1) > 16 or tags.get(_SAMPLE_FORMAT, 1) == 2:
        raise Unreadable(NO_COLOUR)
    if tags.get(_BITS, 1) == 16 and tags.get(_PLANAR, 1) == 2 and compression != 1:
        raise Unreadable(PLANES)


# 16 bits a colour, of which Pillow gives only the high byte


def _to_8_bits(opened: ImageFile.ImageFile, pruned: _Pruned, limits: Limits) -> tuple[Image.Image, int, int]:
    """Convert a picture of 16 bits a colour to 8: the highest eight of the bits in use.

    Returns:
        The picture, how many bits count as in use, and how many the picture itself uses.
    """
    high, low = _byte_planes(opened, pruned)
    colours = high.split()[:3] if high.mode == "RGBA" else high.split()
    brightest = max(band.getextrema()[1] for band in colours)
    bits = next(depth for depth in _BIT_DEPTHS if brightest < 2 ** (depth - 8))
    # A single picture may be dark, so without `limits.bits` it counts as one of 8, 12 or 16 bits.
    used_bits = max(bits, limits.bits) if limits.bits else {10: 12, 14: 16}.get(bits, bits)
    if used_bits == 16 or low is None:
        return high, 16, bits
    upper = high.point(lambda value: min(value << (16 - used_bits), 255))
    lower = low.point(lambda value: value >> (used_bits - 8))
    return ImageChops.add(upper, lower), used_bits, bits


def _byte_planes(opened: ImageFile.ImageFile, pruned: _Pruned) -> tuple[Image.Image, Image.Image | None]:
    """The high and the low bytes of all colours; the low ones are None if Pillow cannot give them."""
    if opened.mode.startswith("I;16"):
        first, second = (Image.frombytes("L", opened.size, opened.tobytes()[start::2]) for start in (0, 1))
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


def _set_raw_mode(image: ImageFile.ImageFile, change: Callable[[str], str]) -> None:
    """Change how Pillow unpacks each tile: `change` gives the new raw mode for the old one."""
    tiles = []
    for tile in image.tile:
        mode, *others = [tile.args] if isinstance(tile.args, str) else tile.args  # type: ignore[misc]
        tiles.append(tile._replace(args=(change(mode), *others)))
    image.tile = tiles


# Pruning: only what these functions keep reaches Pillow


def _prune(encoded: bytes) -> _Pruned:
    """Remove the parts of a file that are not read."""
    if encoded.startswith(PNG):
        content = _prune_png(encoded)
        return _Pruned(content, tags={_BITS: content[24]})
    if encoded.startswith(JPEG):
        return _Pruned(_prune_jpeg(encoded))
    return _prune_tiff(encoded) if encoded.startswith(TIFF) else _Pruned(encoded)


def _prune_png(encoded: bytes) -> bytes:
    """Keep only the chunks that the pixels need, and the first EXIF chunk, for the orientation."""
    chunks, offset, has_exif = [encoded[:8]], 8, False
    while offset + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, offset)
        first_exif = kind == b"eXIf" and size <= _MAX_METADATA_BYTES and not has_exif
        has_exif |= first_exif
        # The name of a chunk that every reader must read starts with a capital letter.
        if kind[:1].isupper() or kind == b"tRNS" or first_exif:
            chunks.append(encoded[offset : offset + 12 + size])
        offset += 12 + size
    return b"".join(chunks)


def _prune_jpeg(encoded: bytes) -> bytes:
    """Keep only the segments that the pixels need (two give the colour space), and the first EXIF segment."""
    segments, offset, markers = [encoded[:2]], 2, set()
    while (offset := encoded.find(b"\xff", offset)) >= 0 and offset + 4 <= len(encoded):
        marker, size = encoded[offset + 1], int.from_bytes(encoded[offset + 2 : offset + 4], "big")
        if marker == 0xDA:
            break
        if marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD8:
            offset += 1
            continue
        segment = encoded[offset : offset + 2 + size]
        once = marker in (0xE0, 0xEE) or (marker == 0xE1 and segment[4:8] == b"Exif")
        if (once and marker not in markers) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            segments.append(segment)
            markers.add(marker)
        offset += 2 + size
    return b"".join([*segments, encoded[offset:] if offset >= 0 else b""])


def _prune_tiff(encoded: bytes) -> _Pruned:
    """Keep only the first page, with the tags that its pixels need, each once, and its orientation."""
    order, big = "<" if encoded[:2] == b"II" else ">", encoded[2:4] in (b"+\0", b"\0+")
    count, pointer, entry_size = ("Q", "Q", 20) if big else ("H", "I", 12)
    count_size, pointer_size = struct.calcsize(count), struct.calcsize(pointer)

    def number_at(offset: int, form: str) -> int:
        return int(struct.unpack_from(order + form, encoded, offset)[0])

    page = first = number_at(8 if big else 4, pointer)
    pages = set[int]()
    # If the list of pages leads outside the file, the first page may still be whole.
    with suppress(struct.error, OverflowError):
        while page and page not in pages and len(pages) < _MAX_PAGES:
            end = page + count_size + entry_size * number_at(page, count)
            pages.add(page)
            page = number_at(end, pointer)
    entries, tags = dict[int, bytes](), dict[int, int]()
    start = first + count_size
    for entry in range(start, start + entry_size * number_at(first, count), entry_size):
        tag, kind = number_at(entry, "H"), number_at(entry + 2, "H")
        length = number_at(entry + 4, pointer) * _VALUE_BYTES.get(kind, 8)
        needed = tag in _PIXEL_TAGS or (tag == _ORIENTATION and length <= _MAX_METADATA_BYTES)
        if not needed or tag in entries or len(encoded) < entry + entry_size:
            continue
        entries[tag] = encoded[entry : entry + entry_size]
        value = entry + 4 + pointer_size
        if kind in (3, 4):
            offset = value if length <= pointer_size else number_at(value, pointer)
            tags[tag] = number_at(offset, "H" if kind == 3 else "I")
    table = struct.pack(order + count, len(entries)) + b"".join(entries.values()) + bytes(pointer_size)
    return _Pruned(encoded[:first] + table + encoded[first + len(table) :], max(len(pages), 1), tags)
