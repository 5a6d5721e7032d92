import numpy as np
import pytest
import torch

from components.errors import DataError
from components.model.images.inputs import ImageSet, Normalise, channel_statistics
from components.model.images.preprocess import PreprocessSpec
from components.model.training.augmentation import augment
from components.model.training.batches import WholeBatches
from components.params import Augment

STILL = Augment(shift=0.0)


def images(number: int, size: int = 6, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, size, size, channels), dtype=np.uint8)


def numbered(number: int) -> ImageSet:
    return ImageSet(images(number), np.arange(number), np.ones(number, np.float32))


def test_shuffled_pass_gives_every_row_once_and_the_next_another_order():
    batches = WholeBatches(numbered(10), 4, seed=1)
    first, second = (torch.cat([labels for _, labels, _ in batches]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_same_seed_gives_the_same_orders():
    one, two = WholeBatches(numbered(10), 4, seed=1), WholeBatches(numbered(10), 4, seed=1)
    for _ in range(2):
        assert [b[1].tolist() for b in one] == [b[1].tolist() for b in two]


def test_without_a_seed_the_order_is_kept_and_nothing_left_out():
    assert [b[1].tolist() for b in WholeBatches(numbered(5), 2)] == [[0, 1], [2, 3], [4]]


def test_a_lone_last_training_image_is_left_out_because_batch_norm_cannot_use_it():
    batches = WholeBatches(numbered(9), 4, seed=1)
    assert [len(b[1]) for b in batches] == [4, 4]
    assert len(batches) == 2


def test_rows_that_do_not_match_and_useless_weights_are_refused():
    with pytest.raises(DataError, match="do not match"):
        ImageSet(images(2), np.arange(3), np.ones(3, np.float32))
    for weight in (0.0, -1.0, np.nan):
        with pytest.raises(DataError, match="weight"):
            ImageSet(images(1), np.arange(1), np.array([weight], np.float32))


def test_channel_statistics_are_numpys():
    pixels = images(50, channels=3)
    mean, std = channel_statistics(pixels)
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), abs=1e-6)
    assert std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), abs=1e-6)


def test_constant_channel_is_not_divided_by_zero():
    assert channel_statistics(np.full((2, 3, 3, 1), 9, np.uint8))[1] == (1.0,)
    with pytest.raises(DataError, match="no images"):
        channel_statistics(images(0))


def test_normalise_gives_channels_first_with_mean_and_std_taken_out():
    spec = PreprocessSpec(6, 3, "stretch", 1.0, "box", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = images(2, channels=3)
    expected = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    assert np.allclose(Normalise(spec)(torch.from_numpy(pixels)).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_no_rules_leave_the_pixels_alone():
    pixels = images(3)
    assert torch.equal(augment(torch.from_numpy(pixels), STILL), torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


def test_shift_moves_whole_pixels_and_repeats_the_edge():
    ramp = np.tile(np.arange(10, dtype=np.uint8) * 20, (64, 10, 1))[..., None]
    torch.manual_seed(0)
    moved = (augment(torch.from_numpy(ramp), Augment(shift=0.2)) * 255).numpy()[:, 0, 0]
    expected = {tuple(np.clip(np.arange(10) + by, 0, 9) * 20) for by in range(-2, 3)}
    assert {tuple(np.rint(row).astype(int)) for row in moved} == expected
    assert np.abs(moved - np.rint(moved)).max() < 1e-3


def test_flip_mirrors_about_half_of_the_images():
    pixels = torch.from_numpy(np.repeat(images(1), 200, axis=0))
    torch.manual_seed(0)
    out = augment(pixels, Augment(shift=0.0, flip=True))
    plain = pixels.permute(0, 3, 1, 2) / 255
    kept = (out - plain).abs().amax(dim=(1, 2, 3)) < 1e-4
    mirrored = (out - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert (kept | mirrored).all()
    assert 60 < int(mirrored.sum()) < 140


def test_brightness_and_contrast_stay_in_range_and_vary():
    torch.manual_seed(0)
    out = augment(torch.from_numpy(images(50)), Augment(shift=0.0, brightness=0.5, contrast=0.5))
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert float(out.mean(dim=(1, 2, 3)).std()) > 0.05


def test_quarter_turns_at_most_rotate_within_the_frame():
    pixels = torch.full((8, 10, 10, 1), 200, dtype=torch.uint8)
    assert torch.allclose(augment(pixels, Augment(shift=0.0, rotate=45)), torch.tensor(200 / 255), atol=1e-5)
