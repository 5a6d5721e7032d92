import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.special import logsumexp

from components.errors import DataError, IntegrityError, RefusedError, ServiceError
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.calibration import softmax
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.serving import predictor as module
from components.model.serving.export import embedding_parity, parity, to_onnx
from components.model.serving.predictor import Predictor, energy

SPEC = ModelSpec(
    ("a", "b", "c"), PreprocessSpec(8, 3, "stretch", 1.0, "box", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), "small_cnn", 2.5
)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


def network():
    return build("small_cnn", classes=3, channels=3, size=8, dropout=0.2, pretrained="none", seed=1).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    to_onnx(network(), SPEC, folder / ONNX_FILE)
    write_spec(folder, SPEC.exported(2.5, 0.7, file_sha256(folder / ONNX_FILE)))
    return folder


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "model")


def test_exported_file_answers_as_the_network(exported):
    assert parity(network(), Predictor(exported, threads=1), IMAGES, IMAGES) < 1e-4


def test_other_pixels_show_in_the_parity(exported):
    assert parity(network(), Predictor(exported, threads=1), IMAGES, 255 - IMAGES) > 1e-2


@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_any_number_of_images_is_answered(exported, number):
    logits, probabilities = Predictor(exported, threads=1).predict(IMAGES[:number])
    assert logits.shape == probabilities.shape == (number, 3)
    assert logits.dtype == probabilities.dtype == np.float32
    assert np.allclose(probabilities, softmax(logits, 2.5), atol=1e-6)


def test_answer_does_not_depend_on_the_batch(exported):
    predictor = Predictor(exported, threads=1)
    alone = np.concatenate([predictor.predict(IMAGES[n : n + 1])[0] for n in range(7)])
    assert np.allclose(alone, predictor.predict(IMAGES)[0], atol=1e-5)


def test_embedding_is_what_the_last_layer_is_given(exported):
    predictor = Predictor(exported, threads=1)
    embeddings, last = predictor.embed(IMAGES), network().classifier
    logits = embeddings @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert embeddings.shape == (7, last.in_features)
    assert embeddings.dtype == np.float32
    assert logits == pytest.approx(predictor.predict(IMAGES)[0], abs=1e-4)
    assert predictor.embed(IMAGES[:0]).shape[0] == 0


def test_embeddings_are_held_against_the_networks_too(exported):
    predictor = Predictor(exported, threads=1)
    assert embedding_parity(network(), predictor, IMAGES, IMAGES) < 1e-4
    assert embedding_parity(network(), predictor, IMAGES, 255 - IMAGES) > 1e-2


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_a_timm_model_is_exported_with_the_embedding_of_its_head(tmp_path, backbone):
    side = 224 if backbone.startswith("vit") else 32
    spec = ModelSpec(("a", "b", "c"), PreprocessSpec(side, 3, "stretch", 1.0, "box", (0.5,) * 3, (0.3,) * 3), backbone)
    made = build(backbone, classes=3, channels=3, size=side, dropout=0.2, pretrained="none", seed=1).eval()
    to_onnx(made, spec, tmp_path / ONNX_FILE)
    write_spec(tmp_path, spec.exported(1.0, 0.7, file_sha256(tmp_path / ONNX_FILE)))
    predictor = Predictor(tmp_path, threads=1)
    images = np.random.default_rng(1).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    assert parity(made, predictor, images, images) < 1e-4
    last = made.get_classifier()
    logits = predictor.embed(images) @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert logits == pytest.approx(predictor.predict(images)[0], abs=1e-3)


def test_file_of_an_earlier_version_scores_and_says_that_it_embeds_nothing(folder):
    before = Predictor(folder, threads=1).predict(IMAGES)
    without_embedding(folder)
    predictor = Predictor(folder, threads=1)
    assert not predictor.embeds
    for old, new in zip(before, predictor.predict(IMAGES), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(RefusedError, match="exported without embeddings; `perennial retrain` makes one"):
        predictor.embed(IMAGES)


def without_embedding(folder: Path) -> None:
    model = onnx.load(folder / ONNX_FILE)
    del model.graph.output[2:]
    onnx.save(model, folder / ONNX_FILE)
    write_spec(folder, SPEC.exported(2.5, 0.7, file_sha256(folder / ONNX_FILE)))


@pytest.mark.parametrize(
    "images", [IMAGES.astype(np.float32), IMAGES[..., :1], IMAGES[0], IMAGES[:, :4], IMAGES.transpose(0, 3, 1, 2)]
)
def test_images_of_another_shape_or_type_are_refused(exported, images):
    with pytest.raises(DataError, match=r"uint8 images of shape \(N, 8, 8, 3\)"):
        Predictor(exported, threads=1).predict(images)
    with pytest.raises(DataError, match=r"uint8 images of shape \(N, 8, 8, 3\)"):
        Predictor(exported, threads=1).embed(images)


def test_one_flipped_byte_stops_the_use(folder):
    content = bytearray((folder / ONNX_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / ONNX_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        Predictor(folder)


def test_missing_file_and_model_that_was_never_exported_are_refused(folder):
    (folder / ONNX_FILE).unlink()
    with pytest.raises(IntegrityError, match="does not exist"):
        Predictor(folder)
    write_spec(folder, SPEC)
    with pytest.raises(IntegrityError, match="export stage"):
        Predictor(folder)


def test_file_that_is_no_model_is_a_named_failure(folder):
    (folder / ONNX_FILE).write_bytes(b"hostile" * 99)
    write_spec(folder, SPEC.exported(1.0, 0.7, file_sha256(folder / ONNX_FILE)))
    with pytest.raises(ServiceError, match="does not load"):
        Predictor(folder)


def test_file_names_no_place_of_the_machine_that_made_it(exported):
    content = (exported / ONNX_FILE).read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_file_is_one_valid_model_with_a_free_batch(exported):
    model = onnx.load(exported / ONNX_FILE, load_external_data=False)
    onnx.checker.check_model(model)
    first = model.graph.input[0]
    assert first.name == "images"
    assert first.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert first.type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in model.graph.output] == ["logits", "probabilities", "embedding"]
    assert not any(tensor.data_location for tensor in model.graph.initializer)


def test_device_is_what_onnx_runtime_really_uses(exported, monkeypatch):
    monkeypatch.setattr(module, "_nvidia_driver", lambda: False)
    predictor = Predictor(exported, threads=1)
    assert predictor.device == "cpu"
    assert predictor.providers == ("CPUExecutionProvider",)
    assert "no NVIDIA driver" in predictor.device_reason


def test_energy_is_the_negative_scaled_log_sum():
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 100
    assert energy(logits, 1.7) == pytest.approx(-1.7 * logsumexp(logits / 1.7, axis=1), rel=1e-5)


def test_unsure_answers_have_the_higher_energy():
    assert energy(np.array([[0.0, 0.0]]), 1.0) > energy(np.array([[9.0, 0.0]]), 1.0)
