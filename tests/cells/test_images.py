"""Reading an image: formats, kinds of pixels, files that are refused, and the process that decodes."""

import contextlib
import io
import multiprocessing
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from malaria.cells import decoding, images, sandbox
from malaria.errors import UserError

LIMITS = images.Limits(min_side=16, max_pixels=4_000_000)
RED = (200, 30, 40)
# First bytes: none, PNG, JPEG, TIFF of both byte orders, GIF, WebP.
HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF"]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def blank_png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def deep_tiff(samples: np.ndarray, order: str = "<", planes: bool = False, compression: int = 1) -> bytes:
    """A TIFF of uint16 samples (h, w, 3), 16 bits a colour, which Pillow cannot write."""
    height, width, _ = samples.shape
    data = (samples.transpose(2, 0, 1) if planes else samples).astype(f"{order}u2").tobytes()
    strips = 3 if planes else 1
    end = 8 + 2 + 10 * 12 + 4
    at = end + 6 + 8 * strips
    offsets = [at + number * len(data) // strips for number in range(strips)]
    shorts = [
        (256, width),
        (257, height),
        (259, compression),
        (262, 2),
        (277, 3),
        (278, height),
        (284, 1 + planes),
    ]
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts]
    entries.append(struct.pack(f"{order}HHII", 258, 3, 3, end))
    for tag, values, place in (
        (273, offsets, end + 6),
        (279, [len(data) // strips] * strips, end + 6 + 4 * strips),
    ):
        entries.append(struct.pack(f"{order}HHII", tag, 4, strips, values[0] if strips == 1 else place))
    entries.sort(key=lambda entry: struct.unpack(f"{order}H", entry[:2]))
    sizes = struct.pack(f"{order}{2 * strips}I", *offsets, *[len(data) // strips] * strips)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 10)
    return head + b"".join(entries) + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + sizes + data


def deep_png(samples: np.ndarray) -> bytes:
    """A PNG of uint16 samples (h, w, 3), 16 bits a colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "big_tiff": True}),
    ],
)
def test_a_lossless_image_gives_its_pixels(kind, options):
    crop = images.read(encoded(noise(), kind, **options), LIMITS)
    np.testing.assert_array_equal(crop.pixels, np.asarray(noise()))


def test_a_bmp_of_sixteen_bits_a_pixel_gives_its_colours():
    header = struct.pack("<IiiHHIIiiII3I", 40, 20, 20, 1, 16, 3, 0, 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)
    start = b"BM" + struct.pack("<IHHI", 14 + len(header) + 800, 0, 0, 14 + len(header))
    crop = images.read(start + header + struct.pack("<H", 0xF800) * 400, LIMITS)
    assert np.unique(crop.pixels.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_a_lossy_image_gives_nearly_its_pixels():
    crop = images.read(encoded(Image.new("RGB", (40, 30), RED), "JPEG"), LIMITS)
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_rotation_is_applied(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.read(encoded(noise(40, 30), kind, exif=exif), LIMITS).pixels.shape == (40, 30, 3)


def test_of_several_frames_the_first_counts():
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, "blue")]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    crop = images.read(content, LIMITS)
    assert crop.pixels[0, 0].tolist() == list(RED)
    assert crop.notes == ("page 1 of 2",)


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
        (encoded(Image.new("F", (20, 20)), "TIFF"), "floating-point numbers"),
        (encoded(Image.new("I", (20, 20)), "TIFF"), "no 8-bit or 16-bit colours"),
        # Tag 339, SampleFormat 2: signed integers.
        (
            encoded(Image.new("RGB", (20, 20)), "TIFF", tiffinfo={339: (2, 2, 2)}),
            "no 8-bit or 16-bit colours",
        ),
        (deep_tiff(np.zeros((20, 20, 3), np.uint16), compression=33003), "TIFF compressed by JPEG 2000"),
        (encoded(noise(), "PPM"), "no PNG, JPEG"),
        (encoded(noise(), "GIF"), "no PNG, JPEG"),
        (encoded(noise(), "WEBP"), "no PNG, JPEG"),
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


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    "write",
    [
        deep_png,
        # Some tools write a text before the header, which has to come first.
        lambda samples: deep_png(samples).replace(b"\x1a\n", b"\x1a\n" + chunk(b"tEXt", bytes(20)), 1),
        deep_tiff,
        lambda samples: deep_tiff(samples, ">"),
        lambda samples: deep_tiff(samples, planes=True),
        lambda samples: deep_tiff(samples, ">", planes=True),
    ],
    ids=["png", "text first", "tiff", "big-endian", "planes", "big-endian planes"],
)
def test_of_sixteen_bits_those_in_use_count(write, bits):
    eight = np.asarray(noise()).copy()
    eight[0, 0] = 255
    fine = np.random.default_rng(2).integers(0, 2 ** (bits - 8), eight.shape, dtype=np.uint16)
    crop = images.read(write((eight.astype(np.uint16) << (bits - 8)) + fine), LIMITS)
    np.testing.assert_array_equal(crop.pixels, eight)
    assert crop.notes == (() if bits == 16 else (f"{bits} of 16 bits are used",))


@pytest.mark.parametrize("write", [deep_png, deep_tiff])
def test_a_dark_picture_of_a_set_is_read_by_the_range_of_the_set(write):
    dark = np.full((20, 20, 3), 200, np.uint16)
    limits = images.Limits(16, 1000, bits=12)
    assert np.unique(images.read(write(dark), limits).pixels).tolist() == [200 >> 4]
    assert np.unique(images.read(write(dark), images.Limits(16, 1000)).pixels).tolist() == [200]


def test_sixteen_bits_in_compressed_planes_are_refused_by_name():
    with pytest.raises(images.Unreadable, match="16-bit colours in compressed planes"):
        images.read(deep_tiff(np.zeros((20, 20, 3), np.uint16), planes=True, compression=5), LIMITS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_without_its_end_is_read_where_all_pixels_are_there(options):
    whole = encoded(noise(), "JPEG", **options)
    expected = images.read(whole, LIMITS).pixels
    for cut in (1, 2):
        np.testing.assert_array_equal(images.read(whole[:-cut], LIMITS).pixels, expected)
    for cut in (40, 200):
        with pytest.raises(images.Unreadable, match="damaged"):
            images.read(whole[:-cut], LIMITS)


def test_other_metadata_never_reaches_the_decoder():
    turning = Image.Exif()
    turning[0x0112] = 6
    png = encoded(noise(), exif=turning)
    at = 8 + 25
    stuffed = (
        png[:at]
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22)))
        + chunk(b"iCCP", bytes(99))
        + png[at:]
    )
    jpeg = encoded(noise(), "JPEG", exif=turning)
    segments = (b"\xff\xe2" + struct.pack(">H", 65_535) + bytes(65_533)) * 20
    for plain, more in ((png, stuffed), (jpeg, jpeg[:2] + segments + jpeg[2:])):
        kept = decoding._prune(more).content
        assert kept == decoding._prune(plain).content
        np.testing.assert_array_equal(images.read(more, LIMITS).pixels, images.read(plain, LIMITS).pixels)


def test_a_turn_in_metadata_beyond_64_kb_is_not_looked_for_and_the_picture_is_read():
    png = encoded(noise(40, 30))
    turned = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(2**16)
    large = png[:33] + chunk(b"eXIf", turned) + png[33:]
    small = png[:33] + chunk(b"eXIf", turned[:1000]) + png[33:]
    assert images.read(large, LIMITS).pixels.shape == (30, 40, 3)
    assert images.read(small, LIMITS).pixels.shape == (40, 30, 3)


def busy_png() -> bytes:
    """A PNG with a million empty chunks, which takes a while to decode."""
    return encoded(noise())[:-12] + chunk(b"aaAa", b"") * 10**6


def test_a_file_whose_decoder_is_killed_stops_the_run_by_its_name():
    images.read(encoded(noise()), LIMITS)
    server = psutil.Process(sandbox._fork_server._process.pid)
    others = set(server.children())
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(images.read, busy_png(), LIMITS, "a/cell.png")
        while not (own := set(server.children()) - others):
            assert not reading.done()
        (decoder,) = own
        # Only a process that has said that it is there counts as one that decodes: this one is at work.
        while decoder.cpu_times().user < 0.05:
            assert not reading.done()
        decoder.kill()
        with pytest.raises(UserError, match=r"a/cell\.png ended the process that decodes it"):
            reading.result()
    assert images.read(encoded(noise()), LIMITS).width == 40


def test_the_fork_server_has_no_threading_whose_work_would_slow_every_fork():
    code = sandbox._CODE.format(path=sys.path, control=0).partition("fork_server.serve")[0]
    asked = [sys.executable, "-I", "-S", "-c", f"{code}print('threading' in sys.modules)"]
    assert subprocess.check_output(asked, text=True) == "False\n"


def test_a_fork_server_that_was_killed_is_started_anew():
    images.read(encoded(noise()), LIMITS)
    process = sandbox._fork_server._process
    process.kill()
    process.wait()
    decoder = sandbox.Decoder(LIMITS)
    assert decoder.read(encoded(noise())).width == 40
    decoder.close()


def brightness(level: int) -> int:
    """Encode and read a picture of one grey level; return the level that was read."""
    return int(images.read(encoded(Image.new("L", (40, 30), level)), LIMITS).pixels[5, 5, 0])


# Python warns against forks, although they are multiprocessing's default on Linux before 3.14.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_forks_of_a_process_that_has_read_a_picture_get_their_own_answers():
    brightness(7)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map_async(brightness, range(200), chunksize=1).get(60) == list(range(200))


def test_pictures_are_read_where_the_system_bounds_processor_time():
    read = (
        "import sys; from malaria.cells import images; "
        "print(images.read(sys.stdin.buffer.read(), images.Limits(16, 10**6)).width)"
    )
    command = ["bash", "-c", f"ulimit -t 1000 && exec {sys.executable} -c '{read}'"]
    if os.geteuid() == 0:
        # Root may raise limits, except without this capability.
        command = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", *command]
    done = subprocess.run(command, input=encoded(noise()), stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"40\n"


def in_own_process(prepare: str, act: str) -> str:
    """What `act` prints in a new Python where `prepare` has run; both may use `image`, a PNG."""
    code = (
        "import os, resource, signal, sys; from malaria.cells import images, sandbox; "
        f"image = sys.stdin.buffer.read(); limits = images.Limits(16, 10**6)\n{prepare}\n{act}"
    )
    image = encoded(noise())[:-12] + chunk(b"aaAa", b"") * 10**6
    done = subprocess.run([sys.executable, "-c", code], input=image, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_the_limits_hold_where_the_parent_ignores_their_signals():
    bounds = sandbox.Bounds(seconds=0, total=0, memory=1024, wait=0)
    act = (
        "image += image[-12 * 10**6 :] * 5\n"
        f"try: print(sandbox.Decoder(limits, sandbox.{bounds}).read(image).width)\n"
        "except sandbox.DecoderEnded: print('costly')"
    )
    assert in_own_process("signal.signal(signal.SIGXCPU, signal.SIG_IGN)", act) == "costly\n"


def test_a_system_that_starts_no_process_is_told_apart_from_a_costly_picture():
    act = "try: images.read(image, limits)\nexcept Exception as error: print(type(error).__name__, error)"
    said = in_own_process("resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))", act)
    assert said.startswith("UnavailableError No process that decodes pictures can be started")


def test_processor_time_ends_a_decoder():
    decoder = sandbox.Decoder(LIMITS, sandbox.Bounds(seconds=0, total=1, memory=1024, wait=0))
    with pytest.raises(sandbox.DecoderEnded):
        decoder.read(encoded(noise())[:-12] + chunk(b"aaAa", b"") * 6 * 10**6)
    decoder.close()


def test_each_fork_is_of_a_process_that_decoded_nothing():
    """The pixels that one decoder has read are not in the memory of a decoder that reads after it."""
    secret = np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one, other = sandbox.Decoder(LIMITS), sandbox.Decoder(LIMITS)
    one.read(encoded(Image.fromarray(secret), "BMP"))
    other.read(encoded(noise()))
    marked = secret.tobytes()[600:632]
    assert [marked in memory_of(decoder._pid) for decoder in (one, other)] == [True, False]
    one.close()
    other.close()


def memory_of(process: int) -> bytes:
    """The content of all writable memory of a process (Linux only)."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs /proc")
    found = []
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            start, end = (int(place, 16) for place in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


def test_a_decoder_at_its_limit_of_memory_is_replaced():
    bounds = sandbox.Bounds(seconds=60, total=0, memory=64, wait=0)
    decoder = sandbox.Decoder(LIMITS, bounds)
    large = encoded(Image.new("RGB", (2000, 2000), RED))
    with pytest.raises(sandbox.DecoderEnded):
        decoder.read(large)
    assert decoder.read(encoded(noise())).width == 40
    decoder.close()


@pytest.mark.parametrize(
    "answer",
    [
        '{"size": [0, 5], "notes": [], "pages": 1, "bits": 0}',
        '{"size": [Infinity, 5], "notes": [], "pages": 1, "bits": 0}',
        "[" * 50_000,
        "[]",
        '{"reason": "none", "width": "wide", "height": 5}',
    ],
)
def test_a_decoder_that_answers_nonsense_has_ended(answer):
    decoder = sandbox.Decoder(LIMITS)
    decoder.read(encoded(noise()))
    decoder.close()
    decoder._connection, other = multiprocessing.Pipe()
    other.send_bytes(f"{answer}\n".encode())
    with other, pytest.raises(sandbox.DecoderEnded):
        decoder.read(b"hostile")


def test_a_decoder_is_killed_once_nobody_waits():
    decoder = sandbox.Decoder(LIMITS, sandbox.Bounds(seconds=60, total=0, memory=1024, wait=0))
    with pytest.raises(sandbox.DecoderEnded):
        decoder.read(busy_png(), gone=lambda: True)
    decoder.close()


NAMED = {
    "p_avif.avif": "no PNG, JPEG",
    "p_dicom.dcm": "no PNG, JPEG",
    "p_jp2.jp2": "no PNG, JPEG",
    "p_tiff_float01.tif": "floating-point",
    "p_tiff_jpeg2000.tif": "JPEG 2000",
}


def test_a_real_cell_is_read_alike_in_every_format_or_refused_by_name(shared_cases):
    files = sorted((shared_cases / "formats").iterdir())
    read = {file.name: images.read(file, LIMITS).pixels for file in files if file.name not in NAMED}
    # Each page of this file has one channel.
    del read["p_ome_3ch_pages.ome.tif"]
    for name, pixels in read.items():
        assert abs(pixels.mean() - read["p_tiff_lzw.tif"].mean()) < 0.5, name
    for name, reason in NAMED.items():
        with pytest.raises(images.Unreadable, match=reason):
            images.read(shared_cases / "formats" / name, LIMITS)


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
    # Pillow truncates where images.resize rounds.
    truncated = np.asarray(image.transform((50, 50), Image.Transform.EXTENT, box, bilinear)).astype(int)
    difference = images.resize(np.asarray(image), 50) - truncated
    assert difference.min() >= 0
    assert difference.max() <= 1


def test_resize_rounds_to_the_nearest_level():
    ramp = np.repeat(np.array([[[0], [3]]], dtype=np.uint8), 3, axis=2)
    # Half-pixel centres put the four new pixels at -0.25, 0.25, 0.75 and 1.25 of the old two.
    assert images.resize(ramp, 4)[0, :, 0].tolist() == [0, 1, 2, 3]
