"""Resizing gives Pillow's pixels."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.pictures.resample import INTERPOLATIONS, resize

SIZES = [
    (1, 1, 5, 5),
    (8, 8, 32, 32),
    (32, 32, 8, 8),
    (37, 53, 24, 24),
    (50, 20, 20, 50),
    (7, 90, 90, 7),
    (64, 48, 33, 64),
]


def pictures(height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height * 1000 + width)
    smooth = np.clip(rng.normal(128, 40, (height, width, 3)), 0, 255).astype(np.uint8)
    return [smooth, (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_equals_pillow(size: tuple[int, int, int, int], interpolation: str) -> None:
    image = pytest.importorskip("PIL.Image")
    height, width, out_height, out_width = size
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}
    for pixels in pictures(height, width):
        # One axis after the other: which comes first is Pillow's affair, and changes with its versions.
        across = np.asarray(image.fromarray(pixels).resize((out_width, height), filters[interpolation]))
        expected = np.asarray(image.fromarray(across).resize((out_width, out_height), filters[interpolation]))
        found = resize(pixels, (out_height, out_width), interpolation)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
        if interpolation in ("nearest", "box", "bilinear"):  # in one step, within one level
            whole = np.asarray(image.fromarray(pixels).resize((out_width, out_height), filters[interpolation]))
            assert np.abs(found.astype(int) - whole).max() <= (0 if interpolation == "nearest" else 1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_window_is_that_part_of_the_whole(interpolation: str) -> None:
    (pixels, _) = pictures(40, 60)
    for size in ((13, 90), (80, 17), (40, 60), (40, 30)):
        whole = resize(pixels, size, interpolation)
        top, left, height, width = 3, 5, 7, 9
        part = resize(pixels, size, interpolation, (top, left, height, width))
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_a_window_of_a_huge_result_is_cheap() -> None:
    pixels = np.arange(60000, dtype=np.uint32).astype(np.uint8).reshape(60000, 1, 1)
    found = resize(pixels, (60000 * 224, 224), "bilinear", (30000 * 224, 0, 224, 224))
    assert found.shape == (224, 224, 1)


def test_the_same_size_is_the_same_picture() -> None:
    (pixels, _) = pictures(9, 11)
    for interpolation in INTERPOLATIONS:
        np.testing.assert_array_equal(resize(pixels, (9, 11), interpolation), pixels)
