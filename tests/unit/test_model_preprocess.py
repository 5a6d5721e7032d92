import io

import numpy as np
import pytest
from PIL import Image

from components.data.decoding.decode import ImageLimits
from components.errors import ConfigurationError
from components.model.images import preprocess
from components.model.images.preprocess import PreprocessSpec, decode_and_resize, prepare, resize
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
    contents = [png(np.random.default_rng(n).integers(0, 255, (40 + n, 30, 3), np.uint8)) for n in range(3)]
    prepared = prepare(contents, spec(), LIMITS)
    assert (prepared.pixels == np.stack([decode_and_resize(content, spec(), LIMITS) for content in contents])).all()
    assert prepared.accepted == [0, 1, 2]
    assert prepared.statistics[:, IMAGE_STATISTICS.index("bytes")].tolist() == [len(content) for content in contents]
    assert prepared.statistics[:, IMAGE_STATISTICS.index("height")].tolist() == [40, 41, 42]


def test_prepare_sets_aside_what_is_no_image_and_keeps_the_rest():
    good = png(np.zeros((5, 5), np.uint8))
    prepared = prepare([b"<html>", good, b""], spec(), LIMITS)
    assert prepared.accepted == [1]
    assert prepared.pixels.shape == (1, 8, 8, 1)
    assert {place: error.reason for place, error in prepared.refused.items()} == {0: "not-an-image", 2: "empty"}
    nothing = prepare([b""], spec(), LIMITS)
    assert nothing.pixels.shape == (0, 8, 8, 1)
    assert nothing.statistics.shape == (0, len(IMAGE_STATISTICS))
