"""Reading one image: every format and kind of pixels, every way a file can be no cell crop."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from malaria.cells import images

LIMITS = images.Limits(min_side=16, max_pixels=4_000_000)
RED = (200, 30, 40)
# What a PNG, a JPEG, both kinds of TIFF, a GIF and a WebP begin with.
HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF"]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def blank_png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_a_lossless_image_gives_its_pixels(kind, options):
    crop = images.read(encoded(noise(), kind, **options), LIMITS)
    np.testing.assert_array_equal(crop.pixels, np.asarray(noise()))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_a_lossy_image_gives_nearly_its_pixels(kind):
    crop = images.read(encoded(Image.new("RGB", (40, 30), RED), kind), LIMITS)
    assert np.abs(crop.pixels.astype(int) - RED).max() <= 3


def test_a_crop_is_rgb_bytes_with_its_size():
    crop = images.read(encoded(noise(40, 30)), LIMITS)
    assert (crop.pixels.dtype, crop.pixels.shape) == (np.uint8, (30, 40, 3))
    assert (crop.width, crop.height) == (40, 30)


def test_a_path_a_stream_and_bytes_read_the_same(tmp_path):
    content = encoded(noise())
    path = tmp_path / "cell.png"
    path.write_bytes(content)
    crops = [images.read(source, LIMITS) for source in (path, io.BytesIO(content), content)]
    assert len({crop.pixels.tobytes() for crop in crops}) == 1


def test_the_format_is_told_by_content_and_not_by_name(tmp_path):
    path = tmp_path / "cell.png"
    path.write_bytes(encoded(noise(), "BMP"))
    assert images.read(path, LIMITS).width == 40


def test_a_greyscale_image_becomes_three_equal_channels():
    crop = images.read(encoded(Image.new("L", (20, 20), 77)), LIMITS)
    assert np.unique(crop.pixels).tolist() == [77]


def test_a_palette_image_takes_its_colours():
    crop = images.read(encoded(Image.new("RGB", (20, 20), RED).quantize(4)), LIMITS)
    assert crop.pixels[0, 0].tolist() == list(RED)


def test_of_sixteen_bits_the_high_byte_counts():
    grey = np.full((20, 20), 0x5AFF, dtype=np.uint16)
    crop = images.read(encoded(Image.fromarray(grey)), LIMITS)
    assert crop.pixels.shape == (20, 20, 3)
    assert np.unique(crop.pixels).tolist() == [0x5A]


def test_cmyk_becomes_rgb():
    crop = images.read(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"), LIMITS)
    assert crop.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("alpha", "expected"), [(0, [0, 0, 0]), (255, list(RED)), (128, [100, 15, 20])])
def test_alpha_lies_over_black(alpha, expected):
    crop = images.read(encoded(Image.new("RGBA", (20, 20), (*RED, alpha))), LIMITS)
    assert np.abs(crop.pixels[0, 0].astype(int) - expected).max() <= 1


def test_a_transparent_palette_colour_becomes_black():
    palette = Image.new("RGB", (20, 20), RED).quantize(4)
    crop = images.read(encoded(palette, transparency=palette.getpixel((0, 0))), LIMITS)
    assert not crop.pixels.any()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.read(encoded(noise(40, 30), kind, exif=exif), LIMITS).pixels.shape == (40, 30, 3)


def test_of_several_frames_the_first_counts():
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, "blue")]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert images.read(content, LIMITS).pixels[0, 0].tolist() == list(RED)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is a letter, not a cell", "no PNG, JPEG"),
        (encoded(noise())[:-200], "damaged or cut short"),
        (encoded(noise())[:20], "damaged or cut short"),
        (encoded(noise(), "JPEG")[:-200], "damaged or cut short"),
        (encoded(noise(), "TIFF", compression="tiff_lzw")[:-200], "damaged or cut short"),
        (encoded(Image.new("RGB", (1, 1))), "a side under 16 px"),
        (encoded(Image.new("F", (20, 20)), "TIFF"), "no 8-bit or 16-bit colours"),
        (encoded(noise(), "PPM"), "no PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG"),
    ],
)
def test_what_is_no_cell_crop_says_why(content, reason):
    with pytest.raises(images.Unreadable, match=reason):
        images.read(content, LIMITS)


@pytest.mark.parametrize(
    ("width", "height", "taken"), [(16, 100, True), (15, 100, False), (40, 30, True), (40, 31, False)]
)
def test_a_crop_may_reach_its_limits(width, height, taken):
    limits = images.Limits(min_side=16, max_pixels=1600 if height == 100 else 1200)
    expected = contextlib.nullcontext() if taken else pytest.raises(images.Unreadable, match=r"under|larger")
    with expected:
        images.read(encoded(noise(width, height)), limits)


def test_a_decompression_bomb_is_refused_without_decoding():
    # Decoding would fail on the missing pixels and give another reason.
    with pytest.raises(images.Unreadable, match="larger than 4,000,000 pixels") as refusal:
        images.read(blank_png(12_000, 12_000), LIMITS)
    assert (refusal.value.width, refusal.value.height) == (12_000, 12_000)


def test_a_bomb_beyond_pillows_own_limit_is_refused_alike():
    with pytest.raises(images.Unreadable, match="larger than 4,000,000 pixels"):
        images.read(blank_png(30_000, 30_000), LIMITS)


def test_a_file_far_beyond_its_pixels_is_not_read_whole():
    with pytest.raises(images.Unreadable, match="file larger than 17 MB"):
        images.read(io.BytesIO(bytes(2**24 + 2**15)), images.Limits(min_side=16, max_pixels=1200))


def test_a_path_that_cannot_be_opened_is_unreadable(tmp_path):
    with pytest.raises(images.Unreadable, match="cannot be opened: Is a directory"):
        images.read(tmp_path, LIMITS)


@given(content=st.binary(max_size=300), head=st.sampled_from([*HEADS, blank_png(20, 20)]))
def test_any_bytes_are_read_or_refused(content, head):
    try:
        crop = images.read(head + content, LIMITS)
    except images.Unreadable:
        return
    assert crop.pixels.dtype == np.uint8


def test_resize_keeps_what_has_the_size():
    pixels = np.asarray(noise(50, 50))
    np.testing.assert_array_equal(images.resize(pixels, 50), pixels)


@pytest.mark.parametrize(("width", "height"), [(133, 121), (394, 46), (20, 31), (1, 1), (2, 500)])
def test_resize_is_bilinear_with_half_pixel_centres_and_no_antialiasing(width, height):
    image = noise(width, height)
    box, bilinear = (0, 0, width, height), Image.Resampling.BILINEAR
    # Pillow truncates where this rounds.
    truncated = np.asarray(image.transform((50, 50), Image.Transform.EXTENT, box, bilinear)).astype(int)
    difference = images.resize(np.asarray(image), 50) - truncated
    assert difference.min() >= 0
    assert difference.max() <= 1


def test_resize_rounds_to_the_nearest_level():
    ramp = np.repeat(np.array([[[0], [3]]], dtype=np.uint8), 3, axis=2)
    # Half-pixel centres put the four new pixels at -0.25, 0.25, 0.75 and 1.25 of the old two.
    assert images.resize(ramp, 4)[0, :, 0].tolist() == [0, 1, 2, 3]
