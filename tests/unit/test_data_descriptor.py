"""Descriptors: near for copies of one picture, far for different ones, whatever the size, contrast and colour."""

import io

import numpy as np
import pytest
from PIL import Image

from components.data.descriptor import CELLS, DESCRIPTOR_BYTES, LEAST_CONTRAST, SQUARED_WEIGHTS, descriptor
from components.data.ingestion.near_duplicates import NEAR

LUMA = slice(0, CELLS**2)
COLOUR = slice(CELLS**2, -1)


def scene(seed: int, shape: tuple[int, int] = (96, 128), channels: int = 3) -> np.ndarray:
    """A smooth picture of random blobs, (H, W) or (H, W, 3), like no other seed's."""
    rng = np.random.default_rng(seed)
    blobs = 0.7 * rng.integers(0, 256, (7, 9, 1)) + 0.3 * rng.integers(0, 256, (7, 9, channels))
    return np.asarray(Image.fromarray(blobs.astype(np.uint8).squeeze()).resize(shape[::-1], Image.Resampling.BICUBIC))


def grey(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    return scene(seed, shape, 1)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def distance(one: Image.Image, other: Image.Image) -> float:
    apart = descriptor(one).astype(int) - descriptor(other)
    return float(np.sqrt(apart**2 @ SQUARED_WEIGHTS))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (96, 128), (131, 377)])
def test_copies_are_near_and_other_pictures_far(shape, channels):
    image = Image.fromarray(scene(1, shape, channels))
    width, height = image.size
    copies = {
        "JPEG 75": jpeg(image, 75),
        "JPEG 90": jpeg(image, 90),
        "doubled": image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC),
        "lighter": image.point(lambda value: min(255, value + 3)),
        "darker": image.point(lambda value: max(0, value - 3)),
        "halved": image.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
    }
    far = {name: round(distance(image, copy), 1) for name, copy in copies.items() if distance(image, copy) > NEAR}
    assert not far or (shape == (28, 28) and set(far) == {"halved"})
    for seed in range(2, 22):
        assert distance(image, Image.fromarray(scene(seed, shape, channels))) > 10 * NEAR


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 30), (47, 49), (96, 97)])
def test_an_image_and_its_exact_double_give_the_same(size):
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8))
    double = image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)
    one, other = descriptor(image).astype(int), descriptor(double).astype(int)
    assert one.shape == (DESCRIPTOR_BYTES,)
    assert descriptor(image).dtype == np.uint8
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("size", [(1000, 13), (500, 501), (1000, 1333), (99, 3000)])
def test_a_large_image_and_its_double_are_near(size):
    image = Image.fromarray(scene(3, size))
    double = image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)
    assert distance(image, double) < NEAR / 4


def test_a_grey_image_gives_the_same_in_either_mode():
    image = Image.fromarray(grey(4))
    one, other = descriptor(image).astype(int), descriptor(image.convert("RGB")).astype(int)
    assert np.abs(one - other).max() <= 1
    assert (one[COLOUR] == 128).all()


def test_colour_alone_tells_images_apart():
    image = Image.fromarray(scene(5))
    red, green, blue = image.split()
    assert distance(image, Image.merge("RGB", (blue, green, red))) > NEAR
    assert distance(image, image.convert("L")) > NEAR
    for one, other in (((110, 128), (146, 128)), ((128, 110), (128, 146))):  # Cb alone, Cr alone
        tiles = [Image.new("YCbCr", (32, 32), (100, *colour)).convert("RGB") for colour in (one, other)]
        assert distance(*tiles) > 10 * NEAR


def test_pale_pictures_are_told_apart_as_bright_ones_are():
    for seed in range(10):
        one, other = grey(2 * seed).astype(float), grey(2 * seed + 1).astype(float)
        pale = [
            Image.fromarray(np.rint(215 + 0.12 * (image - image.mean())).astype(np.uint8)) for image in (one, other)
        ]
        assert distance(*pale) > 5 * NEAR
        assert distance(pale[0], jpeg(pale[0], 90)) <= NEAR


def test_blank_sheets_with_a_little_noise_are_near_but_not_a_light_and_a_dark_one():
    rng = np.random.default_rng(6)
    sheets = [Image.fromarray(np.rint(rng.normal(200, 2, (200, 150))).astype(np.uint8)) for _ in range(10)]
    assert max(distance(sheets[0], sheet) for sheet in sheets[1:]) <= NEAR
    assert distance(Image.new("L", (50, 50), 60), Image.new("L", (50, 50), 90)) > NEAR


def test_contrast_is_divided_out_down_to_the_least():
    wave = np.sin(np.arange(96) / 7)[:, None] * np.cos(np.arange(96) / 9)[None]
    strong, weak, least = (
        descriptor(Image.fromarray(np.rint(128 + scale * wave).astype(np.uint8))).astype(int) for scale in (110, 40, 4)
    )
    assert np.abs(strong[LUMA] - weak[LUMA]).max() <= 2
    assert np.abs(least[LUMA] - 128).max() < 32 * 4 / LEAST_CONTRAST


def test_the_last_byte_is_the_mean_luma():
    assert descriptor(Image.new("RGB", (30, 20), (255, 0, 0)))[-1] == 76
    assert descriptor(Image.new("L", (300, 200), 201))[-1] == 201


def test_every_pixel_counts_also_at_the_edges_of_sizes_that_do_not_divide():
    for side in (13, 50, 97, 101):
        pixels = np.zeros((side, side), np.uint8)
        pixels[-1, -1] = pixels[0, 0] = 255
        cells = descriptor(Image.fromarray(pixels))[LUMA].astype(int).reshape(CELLS, CELLS)
        assert cells[0, 0] > 128
        assert abs(cells[0, 0] - cells[-1, -1]) <= 8
