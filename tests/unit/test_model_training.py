import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from components.errors import DataError
from components.model.answering import predict_logits
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.model.training.hardware import choose_precision
from components.model.training.objectives.imbalance import remedy_for
from components.model.training.progress import MetricsLog
from components.params import Augment, Imbalance, Train

SPEC = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.3,))
PARAMS = Train(epochs=4, batch_size=16, precision="fp32", augment=Augment(shift=0.0))


def stripes(number: int, seed: int = 0) -> ImageSet:
    """Noise with a bright row (class 0), a bright column (1) or neither (2)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (number, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(number) % 3
    images[labels == 0, 3, :] = 250
    images[labels == 1, :, 3] = 250
    return ImageSet(images, labels.astype(np.int64), np.ones(number, np.float32))


def network(seed: int = 0) -> torch.nn.Module:
    return build("small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained="none", seed=seed)


def accuracy(fitted, data: ImageSet) -> float:
    return float((predict_logits(fitted.network, data.images, SPEC).argmax(axis=1) == data.labels).mean())


def test_learns_what_can_be_learnt_and_keeps_the_best_epoch(tmp_path):
    validation = stripes(60, seed=1)
    fitted = fit(network(), stripes(300), validation, spec=SPEC, params=PARAMS, checkpoints=tmp_path)
    assert accuracy(fitted, stripes(200, seed=2)) > 0.95
    assert accuracy(fitted, validation) == pytest.approx(fitted.validation["validation_accuracy"])
    assert not fitted.network.training
    assert len(list(tmp_path.glob("*.ckpt"))) == 3


def test_an_epoch_that_was_better_than_the_last_is_kept(tmp_path):
    data, validation = stripes(300), stripes(60, seed=1)
    taught = fit(network(), data, None, spec=SPEC, params=PARAMS).network
    misled = ImageSet(data.images, (data.labels + 1) % 3, data.weights)
    params = PARAMS.model_copy(update={"learning_rate": 0.0003, "patience": 10, "epochs": 8})
    fitted = fit(taught, misled, validation, spec=SPEC, params=params, checkpoints=tmp_path)
    assert fitted.epoch < fitted.epochs - 1
    assert accuracy(fitted, validation) == pytest.approx(fitted.validation["validation_accuracy"])
    assert accuracy(fitted, validation) > 0.5


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # what ran before must not matter
        params = PARAMS.model_copy(update={"seed": seed, "augment": Augment(shift=0.2)})
        fitted = fit(network(), stripes(64), None, spec=SPEC, params=params, epochs=1)
        return torch.cat([p.flatten() for p in fitted.network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_training_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    fit(network(), stripes(32), None, spec=SPEC, params=PARAMS, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_heavy_image_outweighs_the_contradicting_light_ones():
    data = stripes(240)
    row = data.labels == 0
    data.images[row] = data.images[0]  # alike, so that only the weights can tell which label wins
    labels = data.labels.copy()
    labels[row] = np.arange(row.sum()) % 4 == 0  # a quarter of the rows is called 1, the rest 0
    heavy = np.where(row & (labels == 1), 20.0, 1.0).astype(np.float32)
    answers = {}
    for name, weights in (("heavy", heavy), ("equal", np.ones(240, np.float32))):
        fitted = fit(network(), ImageSet(data.images, labels, weights), None, spec=SPEC, params=PARAMS)
        answers[name] = int(predict_logits(fitted.network, data.images[:1], SPEC).argmax())
    assert answers == {"heavy": 1, "equal": 0}


def test_loss_that_is_not_finite_stops_with_step_rate_and_batch():
    broken = network()
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"nan at step 0, epoch 0, batch 0, learning rate .*lower train\.learning_rate"):
        fit(broken, stripes(32), None, spec=SPEC, params=PARAMS)


def test_early_stopping_ends_a_run_that_does_not_improve(tmp_path):
    params = PARAMS.model_copy(update={"epochs": 30, "patience": 2, "learning_rate": 1e-9})
    fitted = fit(network(), stripes(48), stripes(30, seed=1), spec=SPEC, params=params, checkpoints=tmp_path)
    assert fitted.epochs < 12


def test_too_few_images_and_an_empty_validation_set_are_refused(tmp_path):
    with pytest.raises(DataError, match="1 images to train on"):
        fit(network(), stripes(1), None, spec=SPEC, params=PARAMS)
    with pytest.raises(DataError, match="validation"):
        fit(network(), stripes(8), stripes(0), spec=SPEC, params=PARAMS, checkpoints=tmp_path)


def test_metrics_are_written_every_fifty_steps_and_every_epoch(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", lambda: datetime(2026, 11, 20, tzinfo=UTC))
    params = PARAMS.model_copy(update={"epochs": 2, "batch_size": 4})
    fit(network(), stripes(120), stripes(12), spec=SPEC, params=params, log=log, checkpoints=tmp_path / "c")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [30, 50, 60]
    assert all(line["time"] == "2026-11-20T00:00:00+00:00" for line in lines)
    assert {"train_loss", "learning_rate"} < lines[1].keys()
    assert {"epoch_train_loss", "validation_macro_f1", "validation_loss"} < lines[2].keys()
    assert [line["epoch"] for line in lines] == [0, 1, 1]


def test_a_run_prints_and_logs_nothing(capfd, caplog, tmp_path):
    fit(network(), stripes(32), stripes(12), spec=SPEC, params=PARAMS, epochs=1, checkpoints=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_learning_rate_warms_up_and_falls_to_nothing(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", lambda: datetime(2026, 11, 20, tzinfo=UTC))
    params = PARAMS.model_copy(update={"epochs": 20, "batch_size": 2, "warmup_fraction": 0.5})
    fit(network(), stripes(20), None, spec=SPEC, params=params, log=log)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}
    assert rates[50] == pytest.approx(params.learning_rate * 51 / 100, rel=0.05)
    assert rates[100] == pytest.approx(params.learning_rate, rel=0.05)
    assert rates[200] < 0.01 * params.learning_rate


def test_asked_precision_is_taken_and_auto_chooses_one():
    assert choose_precision("bf16") == "bf16"
    assert choose_precision("fp32") == "fp32"
    assert choose_precision("auto") in ("bf16", "fp32")


def test_bf16_learns_too():
    params = PARAMS.model_copy(update={"precision": "bf16"})
    fitted = fit(network(), stripes(300), None, spec=SPEC, params=params)
    assert fitted.precision == "bf16"
    assert accuracy(fitted, stripes(200, seed=2)) > 0.9


def test_no_images_have_no_logits():
    assert predict_logits(network(), stripes(0).images, SPEC).shape == (0, 3)


def hardly_apart(number: int, rare: float, seed: int) -> ImageSet:
    """Noise, a little brighter where it is of class 1, which is `rare`."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(number) < rare * number).astype(np.int64)
    images = generator.normal(100 + 6 * labels[:, None, None, None], 30, (number, 8, 8, 1)).clip(0, 255)
    return ImageSet(images.astype(np.uint8), labels, np.ones(number, np.float32))


def found_of_the_rare(kind: str) -> float:
    """Return the recall of the rare class, of a linear network that learnt with a remedy."""
    data, even = hardly_apart(600, 0.05, seed=0), hardly_apart(400, 0.5, seed=1)
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    remedy = remedy_for(data.labels, data.weights, ("dark", "bright"), Imbalance(remedy=kind, gamma=1.0))
    params = PARAMS.model_copy(update={"epochs": 20, "batch_size": 60, "learning_rate": 0.01})
    fitted = fit(linear, data, None, spec=SPEC, params=params, remedy=remedy)
    answers = predict_logits(fitted.network, even.images, SPEC).argmax(axis=1)
    return float((answers[even.labels == 1] == 1).mean())


def test_each_remedy_finds_more_of_a_rare_class():
    found = {kind: found_of_the_rare(kind) for kind in ("none", "class-weights", "focal", "sampling")}
    assert min(found[kind] for kind in found if kind != "none") > found["none"] + 0.1, found


@pytest.mark.parametrize("rules", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixtures_teach(rules):
    params = PARAMS.model_copy(update={"augment": Augment(shift=0.0, **rules), "epochs": 10})
    fitted = fit(network(), stripes(300), None, spec=SPEC, params=params)
    assert accuracy(fitted, stripes(200, seed=2)) > 0.9
