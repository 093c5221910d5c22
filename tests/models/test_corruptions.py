"""Corruptions: what they do to pictures, beside Pillow, scipy and matplotlib, and the stream made of them."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.calibrate.metrics.uncertainty import accuracy_drop
from edgeexit.errors import DataError
from recipes.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted_stream

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")


def pictures(n: int = 8, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """Smooth colours with noise, black and white included."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(height)[:, None] / 5 + rng.random((n, 3, 1, 1)) * 6 + np.arange(width) / 7)
    return np.clip(128 + 140 * waves + rng.normal(0, 20, (n, 3, height, width)), 0, 255).astype(np.uint8)


def far(a: NDArray[Any], b: NDArray[Any]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_all_corruptions_keep_the_shape_repeat_themselves_and_grow(name: str) -> None:
    x = pictures()
    kept = x.copy()
    harm = []
    for severity in SEVERITIES:
        found = corrupt(x, name, severity, seed=3)
        assert found.dtype == np.uint8 and found.shape == x.shape
        assert np.array_equal(found, corrupt(x, name, severity, seed=3))
        assert np.array_equal(found, corrupt(x, name, severity, seed=4)) == (name not in NOISES)
        harm.append(float(((found.astype(float) - x) ** 2).mean()))
    assert harm == sorted(harm) and harm[0] > 0
    assert np.array_equal(x, kept)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_other_sizes_and_one_channel(name: str) -> None:
    x = pictures(3, 9, 14)[:, :1]
    assert corrupt(x, name, 5).shape == (3, 1, 9, 14)
    assert corrupt(x[:0], name, 5).shape == (0, 1, 9, 14)


def test_many_pictures_are_one_stream_of_chance() -> None:
    x = np.full((1001, 1, 2, 2), 128, np.uint8)
    found = corrupt(x, "gaussian_noise", 1)
    assert not np.array_equal(found[:500], found[500:1000])
    assert len({row.tobytes() for row in found}) > 900


def test_noise_has_the_published_size() -> None:
    grey = np.full((40, 3, 32, 32), 102, np.uint8)  # 0.4
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        noise = corrupt(grey, "gaussian_noise", severity) / 255
        assert noise.std() == pytest.approx(deviation, rel=0.02) and noise.mean() == pytest.approx(0.398, abs=0.002)
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        noise = corrupt(grey, "shot_noise", severity) / 255
        assert noise.std() == pytest.approx((0.4 / photons) ** 0.5, rel=0.04)
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        noise = corrupt(grey, "impulse_noise", severity)
        assert (noise == 255).mean() == pytest.approx(share / 2, rel=0.1)
        assert (noise == 0).mean() == pytest.approx(share / 2, rel=0.1)
        assert ((noise == 102) | (noise == 0) | (noise == 255)).all()
    hit = corrupt(grey, "impulse_noise", 5) != 102
    assert not np.array_equal(hit[:, 0], hit[:, 1])  # values, not pixels


def test_brightness_adds_to_the_value_of_hsv() -> None:
    x = pictures(1, 8, 8)
    x[0, :, 0, 0] = 0
    for severity, amount in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1):
        found = corrupt(x, "brightness", severity)
        for row, column in np.ndindex(8, 8):
            hue, saturation, value = colorsys.rgb_to_hsv(*(x[0, :, row, column] / 255))
            wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))) * 255
            assert (np.abs(found[0, :, row, column] - np.floor(wanted)) <= 1).all()


def test_contrast_shrinks_to_the_mean_of_picture_and_channel() -> None:
    x = pictures()
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        mean = x.mean((2, 3), keepdims=True)
        assert far(corrupt(x, "contrast", severity), np.floor(np.clip((x - mean) * factor + mean, 0, 255))) <= 1


def test_blur_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = pictures(3, 20, 32)
    for severity, deviation in enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1):
        wanted = ndimage.gaussian_filter(x / 255, (0, 0, deviation, deviation), mode="nearest", truncate=4.0) * 255
        found = corrupt(x, "gaussian_blur", severity)
        assert (found != np.clip(wanted, 0, 255).astype(np.uint8)).mean() < 1e-3 and far(found, wanted) <= 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (24, 50), (1, 3)])
def test_pixelate_is_pillows(height: int, width: int) -> None:
    image = pytest.importorskip("PIL.Image")
    x = pictures(4, height, width)
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), 1):
        found = corrupt(x, "pixelate", severity)
        small = (max(int(width * share), 1), max(int(height * share), 1))
        for picture, ours in zip(x, found, strict=True):
            whole = image.fromarray(picture.transpose(1, 2, 0))
            box = image.Resampling.BOX
            theirs = np.asarray(whole.resize(small, box).resize((width, height), box)).transpose(2, 0, 1)
            assert np.array_equal(ours, theirs)


def test_a_stream_has_a_fifth_of_every_severity() -> None:
    x = np.zeros((500, 1, 4, 4), np.uint8)  # black shows brightness' severity
    y = np.arange(500)
    found, labels = corrupted_stream(x, y, "brightness", seed=1)
    assert np.array_equal(labels, y) and found.shape == x.shape and found.dtype == np.uint8
    levels = np.floor(np.array([0.05, 0.1, 0.15, 0.2, 0.3]) * 255).astype(np.uint8)
    severity = np.searchsorted(levels, found[:, 0, 0, 0])
    assert np.bincount(severity).tolist() == [100] * 5
    assert all(3 < count < 40 for part in severity.reshape(5, 100) for count in np.bincount(part))  # well mixed
    assert np.array_equal(found, corrupted_stream(x, y, "brightness", seed=1)[0])
    assert not np.array_equal(found, corrupted_stream(x, y, "brightness", seed=2)[0])
    seven = corrupted_stream(x[:7], y[:7], "brightness")[0][:, 0, 0, 0]
    assert np.bincount(np.searchsorted(levels, seven)).tolist() == [2, 2, 1, 1, 1]


def test_rows_of_a_stream_are_their_own_pictures() -> None:
    x = pictures(50)
    found, _ = corrupted_stream(x, np.arange(50), "contrast")
    for before, after in zip(x, found, strict=True):
        assert any(np.array_equal(corrupt(before[None], "contrast", s)[0], after) for s in SEVERITIES)


def test_streams_are_what_the_accuracy_drop_protocol_takes() -> None:
    """A classifier of bright against dark whose confidence is the distance from middle grey."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    x = np.clip(rng.normal(np.where(y, 150, 110), 14, (3, 8, 8, 600)), 0, 255).astype(np.uint8).transpose(3, 0, 1, 2)

    def stream(z: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean = z.mean((1, 2, 3))
        return np.abs(mean - 130) / 130, (mean > 130) == y

    found = accuracy_drop(stream(x), [stream(corrupted_stream(x, y, "brightness")[0])])
    assert 0 <= found.auprc <= 1 and found.undropped == 0


def test_what_does_not_fit_is_refused() -> None:
    x, y = pictures(6), np.zeros(6, int)
    with pytest.raises(DataError, match="unknown corruption 'fog': choose one of gaussian_noise"):
        corrupt(x, "fog", 1)
    with pytest.raises(DataError, match="unknown corruption 'fog'"):
        corrupted_stream(x, y, "fog")
    for severity in (0, 6, 1.5):
        with pytest.raises(DataError, match="choose 1, 2, 3, 4 or 5"):
            corrupt(x, "contrast", severity)
    for wrong in (x / 255, x.astype(np.int64), x[0], x[:, :, :0]):
        with pytest.raises(DataError, match="as uint8, got"):
            corrupt(wrong, "contrast", 1)
    for labels in (y[:5], y[:, None]):
        with pytest.raises(DataError, match="as many classes"):
            corrupted_stream(x, labels, "contrast")
    with pytest.raises(DataError, match="at least 5"):
        corrupted_stream(x[:4], y[:4], "contrast")
