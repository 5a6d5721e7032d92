import numpy as np
import pytest

from components.errors import ConfigurationError
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.facts import BackboneFacts
from components.model.training.selection import Tried, choose, try_backbones
from components.params import Augment, Shortlist, Train

SPEC = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.3,))


def tried(name: str, accuracy: float, macs: int, latency_ms: float = 1.0) -> Tried:
    return Tried(BackboneFacts(name, 1000, macs, 0, "", "none"), accuracy, 1.0, latency_ms)


def reasons(told: list[Tried]) -> dict[str, str]:
    return {one.facts.name: one.reason for one in told}


def test_the_least_work_among_those_as_accurate_as_the_best_is_chosen():
    shortlist = [tried("large", 0.900, 900), tried("middle", 0.895, 50), tried("small", 0.80, 5)]
    name, told = choose(shortlist, 1_000, 0)  # one standard error: 0.95 points
    assert name == "middle"
    assert reasons(told)["large"] == "as accurate, and more work"
    assert reasons(told)["small"] == "10.0 points below the best"
    assert choose(shortlist, 100_000, 0)[0] == "large"  # a tenth of the error


def test_what_answers_too_slowly_is_passed_over_and_where_all_do_that_is_said():
    shortlist = [tried("large", 0.95, 900, latency_ms=30), tried("small", 0.80, 5, latency_ms=2)]
    name, told = choose(shortlist, 1_000, 10)
    assert name == "small"
    assert reasons(told)["large"] == "takes 30.0 ms for an image, more than 10"
    with pytest.raises(ConfigurationError, match=r"within 1 ms.*the quickest, small, takes 2\.0"):
        choose(shortlist, 1_000, 1)


def test_backbones_are_tried_on_the_images_and_timed_as_exported():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (300, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(300) % 3
    images[labels == 0, 3, :] = 250
    images[labels == 1, :, 3] = 250
    data = ImageSet(images, labels.astype(np.int64), np.ones(300, np.float32))
    params = Train(
        batch_size=16, precision="fp32", augment=Augment(shift=0.0),
        shortlist=Shortlist(backbones=("medium_cnn", "small_cnn"), images=200, epochs=4),
    )  # fmt: skip
    name, told = try_backbones(data, data, ("a", "b", "c"), lambda _: SPEC, params)
    assert name == "small_cnn"  # both learn it all, and this one has less to do
    by_name = {one.facts.name: one for one in told}
    assert by_name["small_cnn"].facts.macs < by_name["medium_cnn"].facts.macs
    assert all(one.accuracy > 0.9 and one.latency_ms > 0 for one in told)
    assert by_name["small_cnn"].as_json()["reason"].startswith("chosen")
