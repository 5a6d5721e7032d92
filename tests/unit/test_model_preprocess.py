import io

import numpy as np
import pytest
from PIL import Image

from components.data.decode import ImageLimits, ImageRejected
from components.errors import ConfigurationError
from components.model import preprocess
from components.model.preprocess import PreprocessSpec, decode_and_resize, image_statistics, prepare, resize
from components.params import Preprocess
from components.records import IMAGE_STATISTICS

LIMITS = ImageLimits(1_000_000, 1_000_000, 1)


def spec(**changes: object) -> PreprocessSpec:
    rules: dict = {
        "size": 8,
        "channels": 1,
        "resize": "stretch",
        "crop_fraction": 1.0,
        "filter": "bilinear",
        "mean": (0.5,),
        "std": (0.5,),
    }
    return PreprocessSpec(**(rules | changes))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_image_of_the_right_size_keeps_its_pixels():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (decode_and_resize(png(pixels), spec(), LIMITS)[:, :, 0] == pixels).all()


def test_one_channel_image_becomes_three_equal_ones():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    out = decode_and_resize(png(pixels), spec(channels=3, mean=(0.5,) * 3, std=(0.5,) * 3), LIMITS)
    assert out.shape == (8, 8, 3)
    assert (out == pixels[:, :, None]).all()


def test_crop_keeps_the_centre_square_and_stretch_keeps_all():
    pixels = np.zeros((16, 48), np.uint8)
    pixels[:, 16:32] = 200
    assert (resize(Image.fromarray(pixels), spec(resize="crop", filter="box")) == 200).all()
    assert resize(Image.fromarray(pixels), spec()).min() == 0


def test_crop_fraction_leaves_the_border_out():
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:24, 8:24] = 90
    assert (resize(Image.fromarray(pixels), spec(resize="crop", crop_fraction=0.5, filter="box")) == 90).all()


def test_crop_of_an_extremely_long_image_needs_little_memory():
    assert resize(Image.new("L", (4, 200_000), 7), spec(size=1024, resize="crop")).shape == (1024, 1024, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 9},
        {"resize": "crop"},
        {"crop_fraction": 0.9},
        {"filter": "box"},
        {"mean": (0.4,)},
        {"std": (0.4,)},
        {"channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    ],
)
def test_digest_changes_with_every_rule(change):
    assert spec(**change).digest() != spec().digest()


@pytest.mark.parametrize("name", ["DECODER_RULES", "RESIZER_RULES"])
def test_digest_changes_with_the_code_rules(name, monkeypatch):
    before = spec().digest()
    monkeypatch.setattr(preprocess, name, 999)
    assert spec().digest() != before


@pytest.mark.parametrize(
    "change",
    [
        {"mean": ()},
        {"std": (0.0,)},
        {"std": (float("nan"),)},
        {"resize": "squash"},
        {"filter": "x"},
        {"channels": 2},
        {"size": 0},
        {"crop_fraction": 0.0},
    ],
)
def test_impossible_rules_are_refused(change):
    with pytest.raises(ConfigurationError, match="preprocess"):
        spec(**change)


def test_params_mean_wins_over_the_measured_one():
    assert PreprocessSpec.of(Preprocess(mean=(0.1,)), (0.2,), (0.3,)).mean == (0.1,)
    assert PreprocessSpec.of(Preprocess(), (0.2,), (0.3,)).std == (0.3,)


def test_prepare_gives_the_same_pixels_as_decode_and_resize_and_every_statistic():
    content = png(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
    pixels, statistics = prepare(content, spec(), LIMITS)
    assert (pixels == decode_and_resize(content, spec(), LIMITS)).all()
    assert tuple(statistics) == IMAGE_STATISTICS
    assert statistics["bytes"] == len(content)


def test_prepare_refuses_what_is_no_image():
    with pytest.raises(ImageRejected):
        prepare(b"<html>", spec(), LIMITS)


def test_statistics_of_known_images():
    white = image_statistics(Image.new("L", (30, 20), 255), 10)
    assert (white["brightness"], white["contrast"], white["sharpness"], white["saturation"]) == (1, 0, 0, 0)
    assert (white["width"], white["height"], white["aspect"]) == (30, 20, 1.5)
    red = image_statistics(Image.new("RGB", (300, 200), (255, 0, 0)), 10)
    assert red["saturation"] == pytest.approx(1)
    assert red["brightness"] == pytest.approx(0.299, abs=1e-3)
    half = np.zeros((20, 20), np.uint8)
    half[:, 10:] = 255
    assert image_statistics(Image.fromarray(half), 1)["contrast"] == pytest.approx(1, abs=1e-6)


def test_blurring_lowers_sharpness():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8))
    soft = noise.resize((10, 10)).resize((50, 50))
    assert image_statistics(soft, 1)["sharpness"] < 0.5 * image_statistics(noise, 1)["sharpness"]


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (500, 1), (64, 64), (65, 65)])
def test_statistics_stay_in_range_at_any_shape(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))
    found = image_statistics(image, 1)
    assert all(0 <= found[name] <= 1 for name in ("brightness", "contrast", "sharpness", "saturation"))
