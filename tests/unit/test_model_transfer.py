from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from components.errors import ConfigurationError
from components.model.answering import predict_logits
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.model.training.objectives.distillation import Teaching
from components.model.training.progress import MetricsLog
from components.model.training.transfer import choose_strategy, fit_head, train
from components.params import Augment, Train, Transfer

SPEC = PreprocessSpec(8, 1, "stretch", 1.0, "bilinear", (0.5,), (0.3,))
STILL = Augment(shift=0.0)


def stripes(number: int, seed: int = 0) -> ImageSet:
    """Noise with a bright row (class 0), a bright column (1) or neither (2)."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (number, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(number) % 3
    images[labels == 0, 3, :] = 250
    images[labels == 1, :, 3] = 250
    return ImageSet(images, labels.astype(np.int64), np.ones(number, np.float32))


def params(strategy: str, **transfer: float) -> Train:
    return Train(
        epochs=4, batch_size=16, precision="fp32", augment=STILL, pretrained="weights.pt",
        transfer=Transfer(strategy=strategy, **transfer),
    )  # fmt: skip


def pretrained() -> torch.nn.Module:
    """A network that has learnt to see the stripes, and has forgotten what they are called."""
    network = build("small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained="none", seed=1)
    fit(network, stripes(300), None, spec=SPEC, params=params("full"))
    torch.nn.init.normal_(network.classifier.weight, generator=torch.Generator().manual_seed(3))
    return network


def accuracy(network: torch.nn.Module, data: ImageSet) -> float:
    return float((predict_logits(network, data.images, SPEC).argmax(axis=1) == data.labels).mean())


def log(folder) -> MetricsLog:
    return MetricsLog(folder / "metrics.jsonl", lambda: datetime(2026, 11, 20, tzinfo=UTC))


def test_a_hidden_layer_is_trained_on_frozen_features_and_nothing_else_moves(tmp_path):
    network, data = pretrained(), stripes(300, seed=5)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    network = build(
        "small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained=str(tmp_path / "weights.pt"), head="mlp"
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rules = params("head", head_epochs=20)
    fitted = fit_head(network, data, stripes(60, seed=6), spec=SPEC, params=rules, checkpoints=tmp_path / "c")
    assert accuracy(fitted.network, stripes(300, seed=7)) > 0.95
    after = fitted.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if "classifier" not in name)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_network_answers_as_its_head_did_on_scaled_features(tmp_path, head):
    network, held_back = pretrained(), stripes(60, seed=6)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    network = build(
        "small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained=str(tmp_path / "weights.pt"), head=head
    )
    rules = params("head", head_epochs=3)
    fitted = fit_head(network, stripes(300, seed=5), held_back, spec=SPEC, params=rules, checkpoints=tmp_path / "c")
    logits = torch.from_numpy(predict_logits(fitted.network, held_back.images, SPEC))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(held_back.labels))
    assert float(loss) == pytest.approx(fitted.validation["validation_loss"], rel=0.02)


@pytest.mark.parametrize(
    ("images", "strategy"), [(4_999, "head"), (5_000, "two_phase"), (100_000, "two_phase"), (100_001, "full")]
)
def test_the_number_of_images_decides_and_the_reason_is_said(images, strategy):
    plan = choose_strategy(params("auto"), images)
    assert plan.strategy == strategy
    assert str(images) in plan.reason


def test_without_pretrained_weights_every_layer_learns_and_a_frozen_backbone_is_refused():
    assert choose_strategy(Train(), 10).strategy == "full"
    for strategy in ("head", "two_phase"):
        with pytest.raises(ConfigurationError, match=f"strategy {strategy} freezes pre-trained layers"):
            choose_strategy(Train(transfer=Transfer(strategy=strategy)), 10)


def test_a_rate_that_would_destroy_pretrained_layers_is_refused():
    with pytest.raises(ConfigurationError, match="destroys them"):
        choose_strategy(params("full").model_copy(update={"learning_rate": 0.02}), 10)
    with pytest.raises(ConfigurationError, match="destroys them"):
        choose_strategy(params("two_phase", body_rate=0.02), 10)


def test_a_head_learns_and_nothing_else_moves(tmp_path):
    network = pretrained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fitted = fit_head(network, stripes(90), stripes(60, 1), spec=SPEC, params=params("head"), checkpoints=tmp_path)
    assert accuracy(fitted.network, stripes(200, 2)) > 0.95
    moved = {name for name, value in fitted.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    # What was measured of the head on scaled features is what the whole network answers.
    assert accuracy(fitted.network, stripes(60, 1)) == pytest.approx(fitted.validation["validation_accuracy"])


@pytest.mark.parametrize("kept", ["fine_tuned", "head"])
def test_fine_tuning_is_kept_only_where_it_beats_its_own_head(tmp_path, kept):
    # Of a body that lets nothing through no head can learn; of one that sees all there is, the head is right already.
    network, validation = pretrained(), stripes(60, 1)
    if kept == "fine_tuned":
        torch.nn.init.zeros_(network.body.norm0.weight)
        torch.nn.init.ones_(network.body.norm0.bias)
    before = {name: value.clone() for name, value in network.body.state_dict().items()}
    rules = params("two_phase", head_rate=0.01, body_rate=0.01).model_copy(update={"epochs": 8})
    trained = train(
        network, stripes(300), validation, spec=SPEC, params=rules, log=log(tmp_path), checkpoints=tmp_path / "c"
    )
    phases = trained.phases
    assert phases["kept"] == kept
    assert (phases["fine_tuned"] > phases["head"]) == (kept == "fine_tuned")
    of_before = [torch.equal(value, before[name]) for name, value in trained.fitted.network.body.state_dict().items()]
    assert all(of_before) == (kept == "head")
    best = max(phases["fine_tuned"], phases["head"])
    assert trained.fitted.validation["validation_macro_f1"] == pytest.approx(best)
    assert accuracy(trained.fitted.network, validation) == pytest.approx(
        trained.fitted.validation["validation_accuracy"]
    )


def test_a_taught_network_learns_what_its_teacher_says_and_not_its_labels(tmp_path):
    data, others = stripes(300), stripes(200, 2)
    misled = ImageSet(data.images, (data.labels + 1) % 3, data.weights)
    taught = Teaching(10 * np.eye(3, dtype=np.float32)[data.labels], alpha=1.0, temperature=1.0)
    rules = params("full")
    student = build("small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained="none", seed=1)
    trained = train(
        student, misled, stripes(60, 1), spec=SPEC, params=rules, log=log(tmp_path), checkpoints=tmp_path / "c",
        teaching=taught,
    )  # fmt: skip
    assert accuracy(trained.fitted.network, others) > 0.95
    with pytest.raises(ConfigurationError, match="networks that learn whole"):
        train(
            student, misled, stripes(60, 1), spec=SPEC, params=params("head"), log=log(tmp_path),
            checkpoints=tmp_path / "c", teaching=taught,
        )  # fmt: skip


def test_a_network_without_a_linear_last_layer_has_no_head_to_train(tmp_path):
    network = build("small_cnn", classes=3, channels=1, size=8, dropout=0.1, pretrained="none")
    network.classifier = torch.nn.Sequential(network.classifier, torch.nn.Tanh())
    with pytest.raises(ConfigurationError, match="no linear one"):
        fit_head(network, stripes(30), stripes(30), spec=SPEC, params=params("head"), checkpoints=tmp_path)
