import numpy as np
import pytest
from PIL import Image

from components.model.images.image_statistics import Glance, image_statistics
from components.records import IMAGE_STATISTICS


def measured(image: Image.Image) -> dict[str, float]:
    return dict(zip(IMAGE_STATISTICS, image_statistics([Glance.at(image, 10)])[0].tolist(), strict=True))


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8))


def test_statistics_of_known_images():
    white = measured(Image.new("L", (30, 20), 255))
    assert (white["brightness"], white["contrast"], white["sharpness"], white["saturation"]) == (1, 0, 0, 0)
    assert (white["width"], white["height"], white["aspect"], white["bytes"]) == (30, 20, 1.5, 10)
    red = measured(Image.new("RGB", (300, 200), (255, 0, 0)))
    assert red["saturation"] == pytest.approx(1)
    assert red["brightness"] == pytest.approx(0.299, abs=1e-3)
    half = np.zeros((20, 20), np.uint8)
    half[:, 10:] = 255
    assert measured(Image.fromarray(half))["contrast"] == pytest.approx(1, abs=1e-6)
    edge = measured(Image.fromarray(half))["sharpness"]
    laplacian = np.zeros((18, 18))
    laplacian[:, 8], laplacian[:, 9] = 255, -255
    assert edge == pytest.approx(laplacian.std() / 1020, rel=1e-5)


def test_blurring_lowers_sharpness():
    soft = noise(50, 50).resize((10, 10)).resize((50, 50))
    assert measured(soft)["sharpness"] < 0.5 * measured(noise(50, 50))["sharpness"]


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (500, 1), (64, 64), (65, 65)])
def test_statistics_stay_in_range_at_any_shape(size):
    found = measured(noise(size[1], size[0], 3))
    assert all(0 <= found[name] <= 1 for name in ("brightness", "contrast", "sharpness", "saturation"))


def test_an_images_numbers_do_not_depend_on_its_company():
    images = [noise(28, 28), noise(28, 30, 3), noise(200, 100), noise(28, 28, 3), noise(28, 28).rotate(90)]
    glances = [Glance.at(image, number) for number, image in enumerate(images)]
    alone = np.concatenate([image_statistics([glance]) for glance in glances])
    np.testing.assert_array_equal(image_statistics(glances), alone)
    assert image_statistics([]).shape == (0, len(IMAGE_STATISTICS))
