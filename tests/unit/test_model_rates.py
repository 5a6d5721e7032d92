import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from components.errors import ConfigurationError
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import fit
from components.model.training.progress import MetricsLog
from components.model.training.rates import LayerGroups, Rates, factor_of_step, require_gentle
from components.params import Augment, Train

SPEC = PreprocessSpec(16, 3, "stretch", 1.0, "bilinear", (0.5,) * 3, (0.3,) * 3)
STILL = Augment(shift=0.0)


def images(number: int = 24) -> ImageSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)
    return ImageSet(pixels, np.arange(number) % 2, np.ones(number, np.float32))


@pytest.mark.parametrize("backbone", ["small_cnn", "medium_cnn", "resnet10t", "test_efficientnet", "test_vit"])
def test_layers_are_grouped_from_the_first_to_the_head_and_none_is_left_out(backbone):
    network = build(
        backbone, classes=3, channels=3, size=160 if "vit" in backbone else 32, dropout=0.0, pretrained="none"
    )
    layers = LayerGroups(network)
    grouped = [id(parameter) for group in layers.groups for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    head = {id(parameter) for parameter in network.get_classifier().parameters()}
    assert {id(parameter) for parameter in layers.groups[-1]} == head
    assert len(layers.groups) >= 3


def test_rates_fall_from_the_head_to_the_first_layers():
    network = build("small_cnn", classes=3, channels=3, size=32, dropout=0.0, pretrained="none")
    layers, rates = LayerGroups(network), Rates(head=1e-3, body=1e-4, decay=0.5)
    assert [layers.rate_of(number, rates) for number in range(4)] == pytest.approx([2.5e-5, 5e-5, 1e-4, 1e-3])


def test_frozen_layers_keep_weights_and_batch_statistics_until_their_epoch():
    network = build("resnet10t", classes=2, channels=3, size=16, dropout=0.0, pretrained="none")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    params = Train(epochs=2, batch_size=8, precision="fp32", augment=STILL)
    rates = Rates(head=1e-2, body=1e-2, unfreeze_every=2)  # from epoch 2 on, which never comes
    trained = fit(network, images(), None, spec=SPEC, params=params, rates=rates).network.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert moved == {"fc.weight", "fc.bias"}

    rates = Rates(head=1e-2, body=1e-2, unfreeze_every=1)
    trained = fit(network, images(), None, spec=SPEC, params=params, rates=rates).network.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("layer4") and "running_mean" in name for name in moved)
    assert not any(name.startswith(("conv1", "bn1", "layer1", "layer2", "layer3")) for name in moved)


def test_pretrained_layers_may_not_learn_too_fast():
    with pytest.raises(ConfigurationError, match=r"0\.02 on pre-trained layers.*train\.learning_rate"):
        require_gentle(Rates.same(0.02), pretrained=True)
    require_gentle(Rates.same(0.02), pretrained=False)
    require_gentle(Rates(head=0.5, body=0.01), pretrained=True)


def test_the_rate_warms_up_and_falls():
    cosine = factor_of_step(Train(warmup_fraction=0.1), 100)
    assert [cosine(step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert cosine(55) == pytest.approx(0.5)
    assert cosine(100) == pytest.approx(0.0)
    stepped = factor_of_step(Train(schedule="step", warmup_fraction=0.1), 100)
    assert [stepped(step) for step in (10, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau"])
def test_every_optimizer_trains_with_every_schedule(optimizer, schedule, tmp_path):
    network = build("small_cnn", classes=2, channels=3, size=16, dropout=0.0, pretrained="none")
    before = network.classifier.weight.clone()
    params = Train(epochs=2, batch_size=8, precision="fp32", augment=STILL, optimizer=optimizer, schedule=schedule)
    fitted = fit(network, images(), images(), spec=SPEC, params=params, checkpoints=tmp_path)
    assert not torch.equal(fitted.network.classifier.weight, before)


def test_a_plateau_lowers_the_rate_before_early_stopping_ends_the_run(tmp_path):
    log = MetricsLog(tmp_path / "log", lambda: datetime(2026, 11, 20, tzinfo=UTC))
    network = build("small_cnn", classes=2, channels=3, size=16, dropout=0.0, pretrained="none")
    params = Train(
        epochs=50, batch_size=2, precision="fp32", augment=STILL, schedule="plateau", plateau_patience=1, patience=4,
        learning_rate=1e-6, optimizer="sgd",
    )  # fmt: skip
    fit(network, images(100), images(20), spec=SPEC, params=params, checkpoints=tmp_path / "c", log=log)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "train_loss" in line]
    assert rates[0] == 1e-6
    assert min(rates) == pytest.approx(1e-7)


class Hungry(torch.nn.Module):
    """A network that has no room for more than four images at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and len(inputs) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(inputs)


def test_a_batch_too_large_for_the_memory_is_halved_and_the_step_stays_the_same(caplog):
    def weights(network: torch.nn.Module) -> torch.Tensor:
        params = Train(epochs=1, batch_size=16, precision="fp32", augment=STILL, label_smoothing=0.0)
        fitted = fit(network, images(16), None, spec=SPEC, params=params)
        sizes.append(fitted.batch_size)
        return fitted.network.inner[1].weight.detach().clone()

    sizes: list[int] = []
    torch.manual_seed(1)
    hungry = Hungry()
    modest = Hungry()
    modest.load_state_dict(hungry.state_dict())
    modest.forward = modest.inner.forward
    assert torch.allclose(weights(hungry), weights(modest), atol=1e-6)
    assert sizes == [4, 16]
    assert "batches of 4 images, the gradients of 4 added up" in caplog.text


def test_deterministic_arithmetic_is_asked_for_during_the_run_alone():
    asked = []
    network = build("small_cnn", classes=2, channels=3, size=16, dropout=0.0, pretrained="none")
    network.register_forward_hook(lambda *_: asked.append(torch.are_deterministic_algorithms_enabled()))
    fit(network, images(), None, spec=SPEC, params=Train(epochs=1, precision="fp32", deterministic=True))
    assert set(asked) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
