import io
import os
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import ExifTags, Image

from copytrace.errors import MediaError, StorageError
from copytrace.media import sources
from copytrace.media.decode import decode_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}, "PPM": {}, "JPEG2000": {}}
SAVED_AS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("WEBP", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("AVIF", {}),
    ("JPEG2000", {}),
]


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth picture with noise, so that no format compresses it to nothing."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 97], axis=2)
    noise = np.random.default_rng(0).normal(0, 5, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def save(tmp_path):
    """Write bytes, or an image in a format, to a file, and return its path as text."""

    def write(content: bytes | Image.Image, kind: str = "PNG", name: str = "file", **options) -> str:
        data = content if isinstance(content, bytes) else encoded(content, kind, **options)
        path: Path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def reason(path: str, **options) -> str:
    with pytest.raises(MediaError) as caught:
        decode_image(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_very_pixels(save, kind):
    decoded = decode_image(save(photo(), kind, **LOSSLESS[kind]))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(photo()))
    assert (decoded.width, decoded.height) == (48, 32)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP", "GIF"])
def test_lossy_formats_give_nearly_the_pixels(save, kind):
    decoded = decode_image(save(photo(), kind))
    assert np.abs(decoded.pixels.astype(int) - np.asarray(photo())).mean() < 20


def test_pixels_are_a_writable_contiguous_uint8_array(save):
    for short_side in (None, 16, 400):
        pixels = decode_image(save(photo(), "JPEG"), short_side=short_side).pixels
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable and pixels.flags.c_contiguous


def test_a_file_is_read_by_its_content_whatever_its_name(save):
    assert decode_image(save(photo(), "PNG", name="photo.jpg")).pixels.shape == (32, 48, 3)


def test_of_an_animation_the_first_frame_is_read(save):
    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, GREEN)]
    for kind in ("GIF", "WEBP", "TIFF"):
        path = save(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode_image(path).pixels[5, 5, 0] > 250


def test_an_animation_that_begins_with_a_plain_frame_is_read_where_it_shows_most(save):
    fade = [Image.fromarray((np.asarray(photo()) * share).astype(np.uint8)) for share in (0, 0.3, 1, 0.5)]
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        pixels = decode_image(save(fade[0], kind, save_all=True, append_images=fade[1:])).pixels
        assert np.abs(pixels.astype(int) - np.asarray(photo())).mean() < 20, kind


def test_a_uri_is_opened_by_fsspec():
    fsspec.filesystem("memory").pipe("/decode/a.png", encoded(photo(), "PNG"))
    np.testing.assert_array_equal(decode_image("memory://decode/a.png").pixels, np.asarray(photo()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(save, kind, orientation):
    upright = Image.new("RGB", (40, 24), WHITE)
    upright.paste(RED, (0, 0, 16, 8))
    # What a camera stores, so that the turn named by the orientation gives the upright picture back.
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(stored_by[orientation]) if orientation in stored_by else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    decoded = decode_image(save(stored, kind, exif=exif))
    assert (decoded.width, decoded.height) == (40, 24)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(upright)).mean() < 3


def test_damaged_exif_is_ignored_without_a_warning_that_names_no_file(save, recwarn):
    path = save(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12" * 20)
    assert decode_image(path).pixels.shape == (32, 48, 3)
    assert not recwarn.list


def test_transparent_pixels_lie_on_white(save):
    for mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (0, 0, 5, 10))
        image.putpixel((9, 9), (0, 0, 0, 51))
        pixels = decode_image(save(image.convert(mode), "PNG")).pixels
        assert pixels[0, 0].tolist() == [0, 0, 0]
        assert pixels[0, 9].tolist() == [255, 255, 255]
        assert pixels[9, 9].tolist() == [204, 204, 204]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_lies_on_white(save, kind):
    image = Image.new("P", (10, 10), 0)
    image.putpalette([*GREEN, *BLUE])
    image.paste(1, (0, 0, 5, 10))
    pixels = decode_image(save(image, kind, transparency=0)).pixels
    assert (pixels[0, 0].tolist(), pixels[0, 9].tolist()) == ([*BLUE], [*WHITE])


def test_a_transparent_colour_of_an_rgb_or_grey_png_lies_on_white(save):
    for mode, colour in (("RGB", GREEN), ("L", 90)):
        pixels = decode_image(save(Image.new(mode, (10, 10), colour), "PNG", transparency=colour)).pixels
        assert pixels[0, 0].tolist() == [*WHITE]


def test_cmyk_jpeg_and_tiff_become_rgb(save):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        assert np.abs(decode_image(save(image, kind)).pixels[8, 8].astype(int) - RED).max() < 6


def test_one_bit_images_become_black_and_white(save):
    image = Image.new("1", (10, 10), 1)
    image.putpixel((0, 0), 0)
    for kind in ("PNG", "TIFF", "BMP"):
        assert decode_image(save(image, kind)).pixels[0, :2, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("mode", "dtype", "kind"), [("I;16", "<u2", "PNG"), ("I;16", "<u2", "TIFF"), ("I;16B", ">u2", "TIFF")]
)
def test_sixteen_bit_grey_is_scaled_and_not_clipped(save, mode, dtype, kind):
    values = np.full((8, 8), 32768, dtype)
    values[0, :3] = [0, 255, 65535]
    image = Image.frombytes(mode, (8, 8), values.tobytes())
    assert decode_image(save(image, kind)).pixels[0, :4].tolist() == [[0] * 3, [0] * 3, [255] * 3, [128] * 3]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_grey_of_fewer_bits_in_a_file_of_sixteen_is_scaled_to_what_it_holds(save, kind, bits):
    values = np.full((8, 8), 1 << (bits - 1), "<u2")
    values[0, :2] = [0, (1 << bits) - 1]
    image = Image.frombytes("I;16", (8, 8), values.tobytes())
    assert decode_image(save(image, kind)).pixels[0, :3, 0].tolist() == [0, 255, 128]


def test_grey_in_a_narrow_band_of_its_range_is_stretched(save):
    values = np.linspace(30_000, 31_000, 64).astype("<u2").reshape(8, 8)
    pixels = decode_image(save(Image.frombytes("I;16", (8, 8), values.tobytes()))).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_sixteen_bit_colour_is_scaled(save):
    values = np.zeros((8, 8, 3), ">u2")
    values[..., 0], values[..., 1] = 65535, 32768
    path = save(b"P6 8 8 65535\n" + values.tobytes())
    assert decode_image(path).pixels[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 0], [0, 255, 0]),
        ([0, 51, 255], [0, 51, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 100_000, 200_000], [0, 128, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([-5, -5, -5], [0, 0, 0]),
        ([0, 512, 1023], [0, 128, 255]),
    ],
)
def test_thirty_two_bit_values_are_scaled_from_the_range_that_holds_them(save, values, expected):
    for dtype in (np.int32, np.float32):
        grey = np.full((8, 8), values[0], dtype)
        grey[0, :3] = values
        assert decode_image(save(Image.fromarray(grey), "TIFF")).pixels[0, :3, 1].tolist() == expected


def test_floats_that_are_not_finite_are_black(save):
    grey = np.full((8, 8), 0.5, np.float32)
    grey[0, :3] = [np.nan, np.inf, -np.inf]
    assert decode_image(save(Image.fromarray(grey), "TIFF")).pixels[0, :4, 0].tolist() == [0, 0, 0, 128]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "short_side", "shape"),
    [
        ((600, 400), 100, (100, 150)),
        ((400, 601), 399, (599, 399)),
        ((600, 400), 400, (400, 600)),
        ((600, 400), 401, (400, 600)),
        ((1001, 9), 8, (8, 890)),
    ],
)
def test_the_short_side_is_reduced_exactly_and_never_enlarged(save, kind, size, short_side, shape):
    decoded = decode_image(save(photo(*size), kind), short_side=short_side)
    assert decoded.pixels.shape == (*shape, 3)
    assert (decoded.width, decoded.height) == size


def test_reducing_averages_areas(save):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    pixels = decode_image(save(Image.fromarray(stripes), "PNG"), short_side=16).pixels
    assert np.unique(pixels).tolist() == [100]


def test_a_large_jpeg_reduced_looks_like_the_full_one_reduced(save):
    path = save(photo(900, 640), "JPEG", quality=95)
    full = Image.fromarray(decode_image(path).pixels).resize((135, 96), Image.Resampling.BOX)
    reduced = decode_image(path, short_side=96).pixels
    assert np.abs(reduced.astype(int) - np.asarray(full)).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_extreme_shapes_are_decoded(save, kind):
    for size in ((20_000, 8), (8, 20_000)):
        decoded = decode_image(save(Image.new("RGB", size, RED), kind), short_side=300)
        assert decoded.pixels.shape == (size[1], size[0], 3)


def test_a_side_below_eight_pixels_is_refused(save):
    assert decode_image(save(Image.new("RGB", (8, 8)))).width == 8
    assert reason(save(Image.new("RGB", (7, 900)))) == (
        "7x900 pixels is too small; the shorter side must be at least 8"
    )


def test_a_bomb_is_refused_from_its_header_alone(save):
    # A PNG whose header says 64,000 x 64,000 pixels, with the data of 8 x 8 behind it.
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = (64_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert reason(save(bytes(data))) == "4.1 gigapixels is above the limit of 0.2 (media.max_pixels)"


def test_the_pixel_limit_is_the_one_given_and_not_pillows(save, recwarn):
    path = save(Image.new("L", (10_000, 9_500)), "JPEG")  # above the 89 megapixels from which Pillow warns
    assert decode_image(path, short_side=8).width == 10_000
    assert reason(path, max_pixels=50_000_000) == "0.095 gigapixels is above the limit of 0.05 (media.max_pixels)"
    assert not recwarn.list


def test_an_empty_file_a_text_and_a_folder_say_so(save, tmp_path):
    assert reason(save(b"")) == "empty file"
    assert reason(save(b"Dear reader, this is no picture.")) == "no image"
    assert reason(save(b"<html>not found</html>", name="a.JPG")) == "no image, though its name ends in .jpg"
    assert reason(str(tmp_path)) == "a folder, not a file"


def test_a_missing_file_says_so(tmp_path):
    assert reason(str(tmp_path / "nope.jpg")) == "file not found"
    assert reason("memory://decode/nope.jpg") == "file not found"
    assert reason("nul\0byte.jpg") == "cannot be opened: embedded null byte"


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(str(tmp_path / "pipe.jpg")) == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(save):
    path = save(photo())
    Path(path).chmod(0)
    assert reason(path) == "permission denied"


def test_an_unreachable_store_is_no_fault_of_the_file(monkeypatch):
    monkeypatch.setattr(sources, "PAUSES", (0.0,))
    with pytest.raises(StorageError) as caught:
        decode_image("ftp://reader:s3cret@127.0.0.1:1/a.jpg")
    assert str(caught.value).startswith("ftp://127.0.0.1:1/a.jpg cannot be read now (ConnectionRefusedError), though")


@pytest.mark.parametrize(("kind", "options"), SAVED_AS)
def test_a_file_cut_in_half_is_refused_or_used_in_part_and_never_half_grey(save, kind, options):
    data = encoded(photo(48, 64), kind, **options)
    path = save(data[: len(data) // 2])
    try:
        decoded = decode_image(path)
    except MediaError as error:
        assert str(error) in {f"truncated {kind}", f"corrupt {kind}"}
    else:
        assert decoded.damage in {f"truncated {kind}", f"corrupt {kind}"}
        assert np.ptp(decoded.pixels[-1]) > 8


def test_a_good_magic_number_before_rubbish_is_called_corrupt(save):
    rubbish = np.random.default_rng(1).bytes(400)
    assert reason(save(b"\x89PNG\r\n\x1a\n" + rubbish)) == "corrupt PNG"


@pytest.mark.parametrize(("kind", "options"), SAVED_AS)
def test_flipped_bytes_give_pixels_or_a_media_error_and_nothing_else(save, kind, options):
    whole = encoded(photo(), kind, **options)
    rng = np.random.default_rng(7)
    for trial in range(150):
        data = bytearray(whole)
        # Half of the flips go to the first bytes, where the header's sizes and offsets are.
        reach = min(len(data), 120) if trial % 2 else len(data)
        for position in rng.integers(0, reach, rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        if trial % 5 == 0:
            del data[rng.integers(1, len(data)) :]
        try:
            decoded = decode_image(save(bytes(data)), short_side=16, max_pixels=1_000_000)
        except MediaError as error:
            assert "\n" not in str(error) and "0x" not in str(error)
        else:
            assert decoded.pixels.dtype == np.uint8
            assert decoded.pixels.ndim == 3
