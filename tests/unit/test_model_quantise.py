"""INT8 on real images: a small network that has learnt scikit-learn's digits."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from components.errors import DataError, RefusedError
from components.evaluation.lighter import judge_lighter
from components.evaluation.metrics.one_class import Answers
from components.model.artifact import ONNX_FILE, ModelSpec, file_sha256, write_spec
from components.model.calibration import expected_calibration_error, fit_temperature, softmax
from components.model.images.inputs import Normalise
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.networks.small import SmallNetwork
from components.model.serving.export import to_onnx
from components.model.serving.predictor import Predictor
from components.model.serving.quantise import quantise, set_calibration

DIGITS = load_digits()
SIDE = 16  # the digits doubled: two quantised convolutions
PIXELS = (DIGITS.images * 15.9).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]
LABELS = DIGITS.target.astype(np.int64)
LEARNT, HELD = slice(0, 1000), slice(1000, None)
SPEC = ModelSpec(tuple("0123456789"), PreprocessSpec(SIDE, 1, "stretch", 1.0, "box", (0.3,), (0.37,)), "small_cnn")
RULES = {"max_loss": 0.01, "max_class_loss": 0.02, "ece_bins": 15}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    made = build("small_cnn", classes=10, channels=1, size=SIDE, dropout=0.2, pretrained="none", seed=1).train()
    images = Normalise(SPEC.preprocess)(torch.from_numpy(PIXELS[LEARNT]))
    labels = torch.from_numpy(LABELS[LEARNT])
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(6):
            for chosen in torch.randperm(len(labels), generator=generator).split(50):
                optimizer.zero_grad()
                functional.cross_entropy(made(images[chosen]), labels[chosen]).backward()
                optimizer.step()
    return made.eval()


def exported(network: torch.nn.Module, folder: Path) -> Path:
    folder.mkdir()
    to_onnx(network, SPEC, folder / ONNX_FILE)
    return signed(folder)


def signed(folder: Path) -> Path:
    write_spec(folder, SPEC.exported(1.0, 0.7, file_sha256(folder / ONNX_FILE)))
    return folder


@pytest.fixture(scope="module")
def both(network, tmp_path_factory) -> tuple[Predictor, Predictor, Path, Path]:
    """The fp32 file, the INT8 file made of it, and their folders."""
    root = tmp_path_factory.mktemp("models")
    full, light = exported(network, root / "full"), root / "light"
    light.mkdir()
    quantise(full / ONNX_FILE, light / ONNX_FILE, PIXELS[LEARNT][:256], SPEC)
    return Predictor(full, threads=1), Predictor(signed(light), threads=1), full, light


def answers(predictor: Predictor) -> Answers:
    return Answers.of(predictor.predict(PIXELS[HELD])[0], LABELS[HELD], temperature=1.0)


def test_int8_answers_nearly_as_the_fp32_file(both):
    full, light, _, _ = both
    verdict = judge_lighter(answers(full), answers(light), SPEC.classes, **RULES)
    assert answers(full).right.mean() > 0.9
    assert verdict.passed, verdict.reasons
    assert np.abs(full.predict(PIXELS[HELD])[0] - light.predict(PIXELS[HELD])[0]).max() > 0


def test_int8_file_is_a_fraction_of_the_fp32_file(both):
    _, _, full, light = both
    assert (light / ONNX_FILE).stat().st_size <= 0.35 * (full / ONNX_FILE).stat().st_size


def test_no_class_gains_or_loses_on_average_on_the_images_it_was_calibrated_on(both):
    full, light, _, _ = both
    differ = full.predict(PIXELS[LEARNT][:256])[0] - light.predict(PIXELS[LEARNT][:256])[0]
    assert np.abs(differ.mean(axis=0)).max() < 1e-4 < np.abs(differ).max()


def test_first_convolution_and_a_depthwise_one_after_it_stay_in_fp32(both, tmp_path):
    def floats(path: Path) -> list[str]:
        model = onnx.load(path)
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        return [made_by.get(node.input[1], "fp32") for node in model.graph.node if node.op_type == "Conv"]

    assert floats(both[3] / ONNX_FILE) == ["fp32", "DequantizeLinear"]
    spec = replace(SPEC, backbone="tf_efficientnet_lite0", preprocess=replace(SPEC.preprocess, size=32))
    made = build(spec.backbone, classes=10, channels=1, size=32, dropout=0.0, pretrained="none").eval()
    to_onnx(made, spec, tmp_path / "full.onnx")
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1), dtype=np.uint8)
    quantise(tmp_path / "full.onnx", tmp_path / "light.onnx", images, spec)
    assert floats(tmp_path / "light.onnx") == ["fp32"] * 2 + ["DequantizeLinear"] * 47
    assert (tmp_path / "light.onnx").stat().st_size <= 0.3 * (tmp_path / "full.onnx").stat().st_size


def test_input_and_outputs_stay_as_they_were(both):
    full, light, full_folder, light_folder = both
    before, after = (onnx.load(folder / ONNX_FILE) for folder in (full_folder, light_folder))
    onnx.checker.check_model(after)
    for ours, theirs in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        assert [(v.name, v.type.tensor_type.elem_type) for v in ours] == [
            (v.name, v.type.tensor_type.elem_type) for v in theirs
        ]
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert [len(light.predict(PIXELS[:n])[0]) for n in (1, 2, 7)] == [1, 2, 7]
    ours, theirs = full.embed(PIXELS[HELD]), light.embed(PIXELS[HELD])
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.99


def test_logits_are_not_rounded_to_256_steps(both):
    logits = both[1].predict(PIXELS[HELD])[0]
    assert len(np.unique(logits)) > 0.9 * logits.size


def test_same_weights_and_images_give_the_same_bytes(both, tmp_path):
    _, _, full, light = both
    quantise(full / ONNX_FILE, tmp_path / ONNX_FILE, PIXELS[LEARNT][:256], SPEC)
    assert (tmp_path / ONNX_FILE).read_bytes() == (light / ONNX_FILE).read_bytes()


def test_file_names_no_place_of_the_machine_and_the_tool_is_silent(both, tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO):
        quantise(both[2] / ONNX_FILE, tmp_path / ONNX_FILE, PIXELS[:64], SPEC)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert str(tmp_path).encode() not in (tmp_path / ONNX_FILE).read_bytes()
    assert b"perennial-int8" not in (tmp_path / ONNX_FILE).read_bytes()
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("exported_with", [1.0, 2.5])
def test_probabilities_follow_the_temperature_that_is_set(network, tmp_path, exported_with):
    to_onnx(network, replace(SPEC, temperature=exported_with), tmp_path / ONNX_FILE)
    once = (tmp_path / ONNX_FILE).stat().st_size
    for temperature in (0.5, 0.9, 1.7):
        set_calibration(tmp_path / ONNX_FILE, replace(SPEC, temperature=temperature))
    assert (tmp_path / ONNX_FILE).stat().st_size < once + 500  # what was set before is gone
    logits, probabilities = Predictor(signed(tmp_path), threads=1).predict(PIXELS[HELD])
    assert np.allclose(probabilities, softmax(logits, 1.7), atol=1e-6)


def test_refitted_temperature_keeps_confidence_true(both, tmp_path):
    full, light, _, _ = both
    temperature = fit_temperature(light.predict(PIXELS[HELD])[0], LABELS[HELD])
    of_full = fit_temperature(full.predict(PIXELS[HELD])[0], LABELS[HELD])
    before, after = (
        expected_calibration_error(softmax(one.predict(PIXELS[HELD])[0], degrees), LABELS[HELD])
        for one, degrees in ((full, of_full), (light, temperature))
    )
    assert after < before + 0.01


def test_a_real_network_whose_channels_differ_by_magnitudes_is_refused(network, both, tmp_path):
    """The same function in fp32: one channel is blown up and the next layer takes it back; 8 bits cannot."""
    blown = build("small_cnn", classes=10, channels=1, size=SIDE, dropout=0.0, pretrained="none").eval()
    blown.load_state_dict(network.state_dict())
    with torch.no_grad():
        blown.body.norm0.weight[3] *= 1e4
        blown.body.norm0.bias[3] *= 1e4
        blown.body.conv1.weight[:, 3] /= 1e4
    folder, light = exported(blown, tmp_path / "full"), tmp_path / "light"
    light.mkdir()
    quantise(folder / ONNX_FILE, light / ONNX_FILE, PIXELS[LEARNT][:256], SPEC)
    same, worse = answers(Predictor(folder, threads=1)), answers(Predictor(signed(light), threads=1))
    assert np.array_equal(same.predicted, answers(both[0]).predicted)
    verdict = judge_lighter(same, worse, SPEC.classes, **RULES)
    assert not verdict.passed
    assert "more than export.max_loss 0.01" in verdict.reasons[0]


def test_too_few_images_or_of_another_shape_are_refused(both, tmp_path):
    source = both[2] / ONNX_FILE
    with pytest.raises(DataError, match=r"15 training images to calibrate INT8 on; 16 are needed"):
        quantise(source, tmp_path / ONNX_FILE, PIXELS[:15], SPEC)
    with pytest.raises(DataError, match="calibration takes uint8"):
        quantise(source, tmp_path / ONNX_FILE, PIXELS[:20, :8], SPEC)


def test_a_network_of_one_layer_has_nothing_to_quantise(tmp_path):
    one = SmallNetwork(torch.nn.Sequential(), SIDE * SIDE, 10, dropout=0.0).eval()
    to_onnx(one, SPEC, tmp_path / "one.onnx")
    with pytest.raises(RefusedError, match="no second layer"):
        quantise(tmp_path / "one.onnx", tmp_path / "light.onnx", PIXELS[:20], SPEC)
