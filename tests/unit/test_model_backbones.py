import pytest
import torch

from components.errors import ConfigurationError, IntegrityError
from components.model.artifact import WEIGHTS_FILE, ModelSpec, write_spec
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build, embed_and_answer, recorded_statistics, restore


def small(**changes):
    rules = {"classes": 5, "channels": 1, "size": 28, "dropout": 0.3, "pretrained": "none"}
    return build("small_cnn", **(rules | changes))


@pytest.mark.parametrize("size", [8, 9, 13, 28, 32, 45, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_cnn_answers_at_every_size(size, channels):
    network = small(size=size, channels=channels).eval()
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 5)


def test_small_cnn_does_at_most_six_million_multiply_adds_on_fashion_mnist():
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        places = output.shape[2] * output.shape[3] if output.ndim == 4 else 1
        counted += module.weight.numel() * places

    network = small(classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, 28, 28))
    assert 5e6 < counted < 6e6


def test_first_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = small(seed=1), small(seed=1), small(seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.body.conv0.weight, same.body.conv0.weight)
    assert not torch.equal(one.body.conv0.weight, other.body.conv0.weight)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ConfigurationError, match="resnet18"):
        build("resnet_18", classes=2, channels=3, size=32, dropout=0.0, pretrained="none")


def test_timm_backbone_takes_one_channel():
    network = build("resnet10t", classes=4, channels=1, size=32, dropout=0.1, pretrained="none").eval()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_pretrained_file_is_taken_by_name_except_a_classifier_of_other_classes(tmp_path):
    torch.save(small(seed=1).state_dict(), tmp_path / "w.pt")
    network = small(seed=2, classes=7, pretrained=str(tmp_path / "w.pt"))
    assert torch.equal(network.body.conv1.weight, small(seed=1).body.conv1.weight)
    assert network.classifier.out_features == 7


def test_pretrained_file_with_other_names_is_taken_by_position(tmp_path):
    torch.save({f"other{n}": v for n, v in enumerate(small(seed=1).state_dict().values())}, tmp_path / "w.pt")
    assert torch.equal(
        small(seed=2, pretrained=str(tmp_path / "w.pt")).body.conv2.weight, small(seed=1).body.conv2.weight
    )


def test_pretrained_file_of_another_architecture_is_refused(tmp_path):
    torch.save({"body.conv0.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigurationError, match="another architecture"):
        small(pretrained=str(tmp_path / "w.pt"))


def test_missing_pretrained_file_and_online_weights_of_small_cnn_are_refused():
    with pytest.raises(ConfigurationError, match="existing file"):
        small(pretrained="nowhere.pt")
    with pytest.raises(ConfigurationError, match="no weights for small_cnn"):
        small(pretrained="timm")


def test_statistics_come_from_the_weights_record():
    assert recorded_statistics("small_cnn", 1) is None
    assert recorded_statistics("tf_efficientnet_lite0", 3) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert recorded_statistics("tf_efficientnet_lite0", 1) == ((0.5,), (0.5,))


def test_restored_network_answers_as_the_saved_one(tmp_path):
    spec = ModelSpec(tuple("abcde"), PreprocessSpec(28, 1, "stretch", 1.0, "box", (0.5,), (0.5,)), "small_cnn")
    network = small(seed=3).eval()
    torch.save(network.state_dict(), tmp_path / WEIGHTS_FILE)
    write_spec(tmp_path, spec)
    found, found_spec = restore(tmp_path)
    images = torch.rand(3, 1, 28, 28)
    assert found_spec == spec
    assert torch.equal(found(images), network(images))


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_damaged_weights_are_an_integrity_error(tmp_path, content):
    spec = ModelSpec(tuple("abcde"), PreprocessSpec(28, 1, "stretch", 1.0, "box", (0.5,), (0.5,)), "small_cnn")
    write_spec(tmp_path, spec)
    if content is not None:
        (tmp_path / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.pt"):
        restore(tmp_path)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    spec = ModelSpec(tuple("abcde"), PreprocessSpec(28, 1, "stretch", 1.0, "box", (0.5,), (0.5,)), "small_cnn")
    write_spec(tmp_path, spec)
    torch.save({"conv0.weight": Hostile()}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(IntegrityError):
        restore(tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(("backbone", "size"), [("small_cnn", 8), ("resnet10t", 32)])
def test_a_hidden_layer_answers_from_the_same_embedding_and_comes_back_with_its_weights(tmp_path, backbone, size):
    plain, network = (
        build(backbone, classes=3, channels=3, size=size, dropout=0.5, pretrained="none", seed=2, head=head).eval()
        for head in ("linear", "mlp")
    )
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    seen, answers = embed_and_answer(network, images)
    assert torch.equal(seen, embed_and_answer(plain, images)[0])
    assert answers.shape == (4, 3)
    hidden = network.get_classifier()
    assert torch.allclose(answers, hidden[3](torch.relu(hidden[0](seen))), atol=1e-6)
    spec = ModelSpec(
        ("a", "b", "c"), PreprocessSpec(size, 3, "stretch", 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3), backbone,
        head="mlp",
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "model.pt")
    write_spec(tmp_path, spec)
    again, found = restore(tmp_path)
    assert found.head == "mlp"
    assert torch.equal(again(images), network(images))


def test_weights_with_other_names_are_taken_by_position_under_a_hidden_layer_too(tmp_path):
    network = build("small_cnn", classes=3, channels=1, size=8, dropout=0.0, pretrained="none", seed=1)
    named = {f"other.{name}": value for name, value in network.state_dict().items()}
    torch.save(named, tmp_path / "weights.pt")
    taken = build(
        "small_cnn", classes=3, channels=1, size=8, dropout=0.0, pretrained=str(tmp_path / "weights.pt"), head="mlp"
    )
    assert torch.equal(taken.state_dict()["body.conv0.weight"], network.state_dict()["body.conv0.weight"])
