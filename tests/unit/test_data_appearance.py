import numpy as np
import pytest

from components.data.appearance import APPEARANCE, apply
from components.errors import ConfigurationError


def picture(channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (28, 20) if channels == 1 else (28, 20, channels)
    return rng.integers(60, 180, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", APPEARANCE)
def test_severity_0_changes_nothing_and_1_changes_the_picture(kind, channels):
    image = picture(channels)
    np.testing.assert_array_equal(apply(kind, image, 0.0, np.random.default_rng(1)), image)
    changed = apply(kind, image, 1.0, np.random.default_rng(1))
    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    assert (changed != image).mean() > 0.5


@pytest.mark.parametrize("kind", ["brightness", "contrast", "blur", "noise", "rotate"])
def test_a_stronger_shift_moves_the_pixels_further(kind):
    x, y = np.meshgrid(np.arange(20), np.arange(28))
    image = (90 + 60 * np.sin(x / 2) * np.cos(y / 3)).astype(np.uint8)

    def moved(severity: float) -> float:
        return float(np.abs(apply(kind, image, severity, np.random.default_rng(1)) - image.astype(float)).mean())

    assert 0 < moved(0.3) < moved(0.6) < moved(0.9)


def test_each_kind_does_what_its_name_says():
    image, rng = picture(), np.random.default_rng(1)
    assert apply("brightness", image, 0.5, rng).mean() == pytest.approx(0.6 * image.mean(), abs=1)
    assert apply("contrast", image, 0.5, rng).std() == pytest.approx(0.55 * image.std(), rel=0.05)
    assert apply("noise", image, 0.25, rng).astype(float).std() == pytest.approx(np.hypot(20, image.std()), rel=0.1)
    assert apply("blur", image, 1.0, rng).std() < 0.5 * image.std()
    np.testing.assert_array_equal(apply("invert", image, 1.0, rng), 255 - image)
    np.testing.assert_array_equal(apply("new_style", image, 1.0, rng), 255 - image[:, ::-1])


@pytest.mark.parametrize("kind", ["invert", "new_style"])
def test_a_new_look_comes_in_the_severity_share_of_cases(kind):
    image, rng = picture(), np.random.default_rng(2)
    changed = [not np.array_equal(apply(kind, image, 0.3, rng), image) for _ in range(2000)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("kind", ["class_prior", "relabel", "novel_class", "smudge"])
def test_a_kind_that_changes_no_pixels_is_refused(kind):
    with pytest.raises(ConfigurationError, match="brightness"):
        apply(kind, picture(), 0.5, np.random.default_rng(0))
