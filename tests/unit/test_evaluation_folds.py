import numpy as np
import pytest

from components.errors import ConfigurationError
from components.evaluation.training.folds import cross_validated
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.params import Params, Train, parse_strictly

SPEC = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.3,), (0.25,))


def test_every_fold_is_judged_by_a_network_that_did_not_see_it():
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 2
    pixels = generator.integers(0, 80, (240, 8, 8, 1)) + 120 * labels[:, None, None, None]
    data = ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), np.ones(240, np.float32))
    train = Train(epochs=3, batch_size=32, precision="fp32")
    groups = [f"g{n // 2}" for n in range(240)]
    found = cross_validated(data, groups, 2, spec=SPEC, train=train, folds=3)
    assert sum(row["images"] for row in found["folds"]) == 240
    assert found["accuracy"]["mean"] > 0.95
    # Labels that the pixels do not tell are right by chance: nothing leaked.
    noise = ImageSet(data.images, generator.permutation(data.labels), data.weights)
    assert 0.3 < cross_validated(noise, groups, 2, spec=SPEC, train=train, folds=3)["accuracy"]["mean"] < 0.7
    rows = [row["accuracy"] for row in found["folds"]]
    assert found["accuracy"]["deviation"] == pytest.approx(np.std(rows, ddof=1), abs=1e-4)


def test_a_single_fold_is_refused():
    with pytest.raises(ConfigurationError, match="leaves nothing to learn from"):
        parse_strictly(Params, {"evaluate": {"folds": 1}}, "params.yaml")
