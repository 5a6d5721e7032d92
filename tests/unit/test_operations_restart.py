from pathlib import Path

import pytest

from components.operations.attempt import Attempt
from components.operations.written_params import set_restart
from components.params import load_params

TEMPLATE = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.mark.parametrize(
    "before",
    [
        TEMPLATE.read_text(encoding="utf-8"),
        "train:\n  seed: 3\n",
        "train: {seed: 3}\nrestart: {number: 4}",
        "restart: {number: 4}\ntrain:\n  seed: 3  # kept\n",
        "train: {seed: 3}\nrestart:\n  # why\n\n  number: 4\nscore: {batch_size: 5}\n",
    ],
)
def test_the_restart_is_written_and_everything_else_stays(tmp_path: Path, before: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    params = load_params(path)
    set_restart(path, 1)
    changed = load_params(path)
    assert changed.restart.number == 1
    assert changed.model_copy(update={"restart": params.restart}) == params
    comments = [line for line in before.splitlines() if "#" in line and "why" not in line and "number" not in line]
    assert set(comments) <= set(path.read_text(encoding="utf-8").splitlines())
    assert path.read_text(encoding="utf-8").count("restart:") == 1
    set_restart(path, 0)
    assert load_params(path).restart.number == 0


def test_nothing_is_written_where_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {seed: 3}\n", encoding="utf-8")
    set_restart(path, 0)
    assert path.read_text(encoding="utf-8") == "train: {seed: 3}\n"


def test_equal_inputs_of_a_request_share_a_run_and_each_candidate_has_its_own() -> None:
    first = Attempt(request=3, number=1, worker="w", cause="accuracy", reason="r", alarmed={})
    again = Attempt.from_json(first.as_json() | {"number": 2, "worker": "another"})
    second = Attempt.from_json(first.as_json() | {"candidate": 1})
    assert first.run_key(b"data", b"params").startswith("request-3-")
    assert first.run_key(b"data", b"params") == again.run_key(b"data", b"params")
    keys = [first.run_key(b"data", b"params"), first.run_key(b"data", b"other"), first.run_key(b"dat", b"aparams")]
    assert len({*keys, second.run_key(b"data", b"params")}) == 4
    assert second.run_key(b"data", b"params") == keys[0] + "-candidate-2"
