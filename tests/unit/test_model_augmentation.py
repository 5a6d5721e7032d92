import numpy as np
import pytest
import torch
from PIL import Image

from components.model.training.augmentation import augment
from components.model.training.contact_sheet import write_contact_sheet
from components.params import Augment

STILL = {"shift": 0.0}


def images(number: int, channels: int = 3, size: int = 24) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (number, size, size, channels), dtype=np.uint8))


def varied(rules: Augment, channels: int = 3, seed: int = 1) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return augment(images(40, channels), rules)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "rule",
    [{"policy": "trivial"}, {"policy": "rand"}, {"crop": 0.6}, {"erase": 0.4}, {"saturation": 0.5}, {"hue": 0.2}],
)
def test_every_change_keeps_shape_and_range_and_follows_the_seed(rule, channels):
    plain = images(40, channels).permute(0, 3, 1, 2) / 255
    one, same, other = (varied(Augment(**STILL, **rule), channels, seed) for seed in (1, 1, 2))
    assert one.shape == plain.shape
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert torch.equal(one, same)
    if channels == 3 or not rule.keys() & {"saturation", "hue"}:  # grey images have no colour to change
        assert not torch.equal(one, other)
        assert not torch.allclose(one, plain)
    else:
        assert torch.allclose(one, plain)


def test_images_of_a_batch_are_changed_apart():
    alike = images(1).repeat(20, 1, 1, 1)
    for rules in (Augment(**STILL, policy="rand"), Augment(**STILL, crop=0.5), Augment(**STILL, erase=0.4)):
        out = augment(alike, rules)
        assert len({tuple(image.flatten().tolist()) for image in out}) > 10


def test_an_erased_square_has_the_asked_size_at_most_and_nothing_else_changes():
    plain = images(200).permute(0, 3, 1, 2) / 255
    out = augment(images(200), Augment(**STILL, erase=0.25))
    changed = (out != plain).any(dim=1).flatten(1).sum(dim=1)
    assert int(changed.max()) == 36  # 6 by 6 of 24 by 24
    assert int(changed.min()) >= 9  # a corner's quarter
    grey = out[(out != plain)]
    assert torch.allclose(grey, plain.mean(), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_contact_sheet_shows_images_as_they_are_and_as_training_sees_them(tmp_path, channels):
    shown = images(20, channels, 28).numpy()
    state = torch.random.get_rng_state()
    write_contact_sheet(shown, Augment(flip=True, cutmix=0.5), 7, tmp_path / "a" / "sheet.png")
    assert torch.equal(state, torch.random.get_rng_state())
    sheet = np.array(Image.open(tmp_path / "a" / "sheet.png"))
    assert sheet.shape == (8 * 50 + 2, 9 * 50 + 2, 3)
    first = sheet[2:50, 2:50]
    expected = np.array(Image.fromarray(shown[0].squeeze()).resize((48, 48), 0).convert("RGB"))
    assert np.array_equal(first, expected)
    assert not np.array_equal(sheet[2:50, 52:100], expected)
