import json

import pytest

from components.errors import ConfigurationError, IntegrityError, RefusedError
from components.model.artifact import SPEC_FILE, ModelSpec, read_spec, write_spec
from components.model.images import preprocess
from components.model.images.preprocess import PreprocessSpec

RULES = PreprocessSpec(28, 1, "stretch", 1.0, "bilinear", (0.286041,), (0.353024,))
SPEC = ModelSpec(("Träger", "'); DROP TABLE", "c"), RULES, "small_cnn", 1.234567890123, 0.7, "ab" * 32)


def test_specification_survives_the_file(tmp_path):
    write_spec(tmp_path, SPEC)
    assert read_spec(tmp_path) == SPEC


def test_same_specification_gives_the_same_bytes(tmp_path):
    write_spec(tmp_path, SPEC)
    first = (tmp_path / SPEC_FILE).read_bytes()
    write_spec(tmp_path, SPEC)
    assert (tmp_path / SPEC_FILE).read_bytes() == first


def test_model_of_other_preprocessing_code_is_refused(tmp_path, monkeypatch):
    write_spec(tmp_path, SPEC)
    monkeypatch.setattr(preprocess, "DECODER_RULES", 999)
    with pytest.raises(RefusedError, match="retrain"):
        read_spec(tmp_path)


def test_edited_preprocessing_is_refused(tmp_path):
    write_spec(tmp_path, SPEC)
    content = json.loads((tmp_path / SPEC_FILE).read_text())
    content["preprocess"]["mean"] = [0.5]
    (tmp_path / SPEC_FILE).write_text(json.dumps(content))
    with pytest.raises(RefusedError):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c | {"extra": 1},
        lambda c: {k: v for k, v in c.items() if k != "temperature"},
        lambda c: c | {"format": 2},
        lambda c: c | {"temperature": -1.0},
        lambda c: c | {"classes": ["one", "one"]},
        lambda c: c | {"preprocess": c["preprocess"] | {"gamma": 2}},
        lambda c: [c],
    ],
)
def test_malformed_file_is_an_integrity_error_naming_it(tmp_path, edit):
    write_spec(tmp_path, SPEC)
    content = edit(json.loads((tmp_path / SPEC_FILE).read_text()))
    (tmp_path / SPEC_FILE).write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=r"model\.json"):
        read_spec(tmp_path)


def test_missing_or_truncated_file_is_an_integrity_error(tmp_path):
    with pytest.raises(IntegrityError, match="not a complete model"):
        read_spec(tmp_path)
    (tmp_path / SPEC_FILE).write_text('{"format": 1, ')
    with pytest.raises(IntegrityError, match="damaged"):
        read_spec(tmp_path)


def test_one_class_is_no_classifier():
    with pytest.raises(ConfigurationError, match="two or more"):
        ModelSpec(("only",), RULES, "small_cnn")
