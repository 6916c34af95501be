"""Damaged pictures: what could be decoded of them is used, and the damage told."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from copytrace.errors import MediaError
from copytrace.media.decode import DecodedImage, decode_image

PHOTO = Image.fromarray(data.chelsea()[:, :400])  # 300 rows of 400 pixels


def encode(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PHOTO.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def cut(tmp_path: Path):
    """A function that decodes a picture of which only the first bytes are left."""

    def decode(whole: bytes, left: int, **options: int) -> DecodedImage:
        path = tmp_path / "cut"
        path.write_bytes(whole[:left])
        return decode_image(str(path), **options)

    return decode


def difference(decoded: DecodedImage, whole: bytes) -> float:
    """Mean difference in levels between the upper, or lower, part of a picture and the same part of the whole."""
    pixels, rows = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")).astype(int), len(decoded.pixels)
    parts = (pixels[:rows], pixels[-rows:])
    return min(float(np.abs(decoded.pixels.astype(int) - part).mean()) for part in parts)


@pytest.mark.parametrize("lost", [2, 300])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "optimize": True}])
def test_a_jpeg_without_its_last_bytes_is_used_and_called_truncated(cut, lost: int, options: dict[str, object]) -> None:
    whole = encode("JPEG", quality=85, **options)
    decoded = cut(whole, len(whole) - lost)
    assert decoded.damage == "truncated JPEG"
    assert (decoded.width, decoded.height) == (400, len(decoded.pixels))
    assert decoded.height >= 270
    assert difference(decoded, whole) < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "GIF"])
def test_of_a_picture_cut_in_half_the_upper_half_is_used_and_nothing_that_stands_in_for_the_rest(
    cut, kind: str
) -> None:
    whole = encode(kind, **({"interlace": 0} if kind == "GIF" else {}))
    decoded = cut(whole, len(whole) // 2)
    assert decoded.damage == f"truncated {kind}"
    assert 100 < decoded.height < 200
    assert difference(decoded, whole) < 2


def test_a_damaged_jpeg_is_reduced_like_a_whole_one(cut) -> None:
    whole = encode("JPEG")
    decoded = cut(whole, len(whole) // 2, short_side=50)
    assert decoded.pixels.shape[0] == 50
    assert 100 < decoded.height < 200


def test_half_of_a_progressive_jpeg_is_the_whole_picture_less_sharp(cut) -> None:
    whole = encode("JPEG", progressive=True)
    decoded = cut(whole, len(whole) // 2)
    assert decoded.height == 300
    assert difference(decoded, whole) < 12


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {"interlace": 1}), ("WEBP", {}), ("AVIF", {}), ("GIF", {"interlace": 1})]
)
def test_a_picture_that_is_not_stored_from_top_to_bottom_is_refused_if_cut(cut, kind: str, options: dict) -> None:
    whole = encode(kind, **options) if kind != "PNG" else interlaced()
    with pytest.raises(MediaError, match=kind):
        cut(whole, len(whole) // 2)


def interlaced() -> bytes:
    """A PNG whose header says that it is interlaced; Pillow does not write such."""
    whole = bytearray(encode("PNG"))
    whole[28] = 1
    whole[29:33] = zlib.crc32(bytes(whole[12:29])).to_bytes(4, "big")
    return bytes(whole)


def test_a_picture_of_which_too_little_is_left_is_refused(cut) -> None:
    whole = encode("JPEG")
    with pytest.raises(MediaError, match="truncated JPEG"):
        cut(whole, len(whole) // 16)


def test_a_whole_picture_has_no_damage(cut) -> None:
    whole = encode("JPEG")
    assert cut(whole, len(whole)).damage is None
