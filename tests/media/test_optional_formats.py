"""HEIC and JPEG XL, by packages that may be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from copytrace.errors import MediaError, NotMediumError
from copytrace.media.decode import decode_image
from copytrace.media.optional_formats import read_jpeg_xl_size
from copytrace.media.pictures import read_picture

PHOTO = np.ascontiguousarray(data.chelsea()[:200, :300])
HEIC_HEAD = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200)


def write(folder: Path, content: bytes) -> str:
    path = folder / "IMG_1.HEIC"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("module", "content", "told"),
    [
        ("pi_heif", HEIC_HEAD, "HEIF needs a package that is missing; install it: pip install 'copytrace[heif]'"),
        ("imagecodecs", b"\xff\x0a" + bytes(50), "JPEG XL needs a package that is missing; install it: pip install "),
    ],
)
def test_a_format_whose_package_is_missing_is_named_with_the_cure(
    module: str, content: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = write(tmp_path, content)
    with pytest.raises(MediaError) as caught, Path(path).open("rb") as stream:  # in this process, without the package
        next(read_picture(stream, path, {"short_side": None, "max_pixels": 1000, "threads": 1}))
    assert str(caught.value).startswith(told)
    assert caught.type is not NotMediumError


def test_a_damaged_heic_is_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    with pytest.raises(MediaError, match="corrupt HEIF"):
        decode_image(write(tmp_path, HEIC_HEAD))


@pytest.mark.parametrize("shape", [(200, 300), (64, 64), (9, 1000), (1080, 1920), (600, 500)])
def test_the_size_of_a_jpeg_xl_is_in_its_header(shape: tuple[int, int]) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    for container in (False, True):
        encoded = imagecodecs.jpegxl_encode(np.zeros((*shape, 3), np.uint8), usecontainer=container)
        assert read_jpeg_xl_size(encoded) == shape[::-1]


def test_a_jpeg_xl_is_decoded_as_what_it_holds(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    alpha = np.full((200, 300, 1), 255, np.uint8)
    for pixels in (PHOTO, PHOTO[..., 0], PHOTO.astype(np.uint16) << 8, np.concatenate([PHOTO, alpha], axis=2)):
        decoded = decode_image(write(tmp_path, imagecodecs.jpegxl_encode(pixels, lossless=True)))
        expected = PHOTO if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        assert (decoded.width, decoded.height) == (300, 200)
        np.testing.assert_array_equal(decoded.pixels, expected)


def test_a_jpeg_xl_that_is_cut_or_too_large_is_refused(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    encoded = imagecodecs.jpegxl_encode(PHOTO, lossless=True)
    for left in (4, len(encoded) // 2):
        with pytest.raises(MediaError, match=r"(corrupt|truncated) JPEG XL"):
            decode_image(write(tmp_path, encoded[:left]))
    with pytest.raises(MediaError, match="above the limit"):
        decode_image(write(tmp_path, encoded), max_pixels=50_000)


@pytest.mark.parametrize(
    ("head", "name"), [(b"8BPS\0\1", "Photoshop"), (b"P7\nWIDTH 8\n", "PAM"), (b"#?RADIANCE\n", "Radiance HDR")]
)
def test_an_image_of_a_format_that_is_not_read_is_told_as_such(head: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(head + bytes(500))
    with pytest.raises(NotMediumError, match=f"^an image of the format {name}, which is not read; save it as PNG"):
        decode_image(str(tmp_path / "a.img"))


def test_a_tiff_of_floating_colors_is_not_only_called_corrupt(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), PHOTO.astype(np.float32) / 255)
    with pytest.raises(MediaError, match=r"^corrupt TIFF, or of a kind that is not read; save it as PNG or JPEG$"):
        decode_image(str(tmp_path / "a.tif"))
