from pathlib import Path

import pytest

from components.data.ingestion.class_changes import Merge, Rename, Split
from components.operations.retraining.attempt import Attempt
from components.operations.retraining.written_params import carry_classes, note_change, note_mix, set_restart
from components.params import Mix, SuspectedChange, load_params

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


@pytest.mark.parametrize(
    "before",
    [
        TEMPLATE.read_text(encoding="utf-8"),
        "train: {seed: 3}\n",
        "changes:\n  - since: 2025-01\n    classes: [x]\ntrain: {seed: 3}  # kept\n",
        "changes:\n- {since: 2025-01, classes: [x]}\n\ntrain: {seed: 3}\n",
        "changes: [{since: 2025-01, classes: [x]}]",
    ],
)
def test_a_suspected_change_is_added_and_everything_else_stays(tmp_path: Path, before: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    params = load_params(path)
    note_change(path, "2026-07", ["Boot", "Bag"])
    changed = load_params(path)
    assert changed.changes == (*params.changes, SuspectedChange(since="2026-07", classes=("Bag", "Boot")))
    assert changed.model_copy(update={"changes": params.changes}) == params
    assert path.read_text(encoding="utf-8").count("changes:") == 1
    once = path.read_text(encoding="utf-8")
    note_change(path, "2026-07", ["Bag"])
    assert path.read_text(encoding="utf-8") == once


def test_the_same_class_falling_again_within_half_a_year_is_the_same_change(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {seed: 3}\n", encoding="utf-8")
    note_change(path, "2026-07", ["Boot"])
    note_change(path, "2026-09", ["Boot", "Bag: a #hash"])
    note_change(path, "2026-10", ["Coat"])
    note_change(path, "2027-04", ["Boot"])
    assert [(change.since, change.classes) for change in load_params(path).changes] == [
        ("2026-07", ("Bag: a #hash", "Boot")),
        ("2026-10", ("Coat",)),
        ("2027-04", ("Boot",)),
    ]


def test_a_mix_is_noted_and_taken_out_again(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    note_mix(path, "2026-10", {"yes": 0.25, "no": 0.75})
    assert load_params(path).mix == Mix(window="2026-10", shares={"yes": 0.25, "no": 0.75})
    note_mix(path, "", {})
    assert load_params(path) == load_params(TEMPLATE)


def test_a_change_in_a_day_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {seed: 3}\n", encoding="utf-8")
    note_change(path, "2026-07-05", ["Boot"])
    assert load_params(path).changes == (SuspectedChange(since="2026-07-05", classes=("Boot",)),)


def test_equal_inputs_of_a_request_share_a_run_and_each_candidate_has_its_own() -> None:
    first = Attempt(request=3, number=1, worker="w", cause="accuracy", reason="r", alarmed={})
    again = Attempt.from_json(first.as_json() | {"number": 2, "worker": "another"})
    second = Attempt.from_json(first.as_json() | {"candidate": 1})
    assert first.run_key(b"data", b"params").startswith("request-3-")
    assert first.run_key(b"data", b"params") == again.run_key(b"data", b"params")
    keys = [first.run_key(b"data", b"params"), first.run_key(b"data", b"other"), first.run_key(b"dat", b"aparams")]
    assert len({*keys, second.run_key(b"data", b"params")}) == 4
    assert second.run_key(b"data", b"params") == keys[0] + "-candidate-2"


@pytest.mark.parametrize(
    "declared",
    [
        "  classes: [boot, sandal, 'a # b']   # ours\n",
        "  classes:   # ours\n    - boot\n    - sandal   # open ones\n    - 'a # b'\n",
        "  classes:\n  - boot\n  - sandal\n  - 'a # b'   # ours\n",
    ],
)
def test_a_changed_class_list_is_written_where_params_name_classes_and_nowhere_else(tmp_path, declared):
    path = tmp_path / "params.yaml"
    before = TEMPLATE.read_text(encoding="utf-8")
    line = next(line for line in before.splitlines(keepends=True) if line.startswith("  classes:"))
    path.write_text(before.replace(line, declared), encoding="utf-8")
    note_change(path, "2026-07", ["sandal", "boot"])
    others = [
        n for n in path.read_text(encoding="utf-8").splitlines() if not any(w in n for w in ("boot", "sandal", "a # b"))
    ]

    carry_classes(path, Rename("sandal", "a: [b"), ("boot", "a: [b", "a # b"))
    params = load_params(path)
    assert params.data.classes == ("boot", "a: [b", "a # b")
    assert params.changes[0].classes == ("a: [b", "boot")
    text = path.read_text(encoding="utf-8")
    assert "# ours" in text
    assert set(others) <= {*text.splitlines()}

    carry_classes(path, Merge(("boot", "a # b"), "boot"), ("boot", "a: [b"))
    carry_classes(path, Split("boot", ("clog",), "boot", {}), ("boot", "a: [b", "clog"))
    params = load_params(path)
    assert params.data.classes == ("boot", "a: [b", "clog")
    assert params.changes[0].classes == ("a: [b", "boot", "clog")


def test_a_changed_class_list_leaves_params_alone_that_name_no_class(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(TEMPLATE.read_bytes())
    carry_classes(path, Rename("boot", "sandal"), ("sandal",))
    assert path.read_bytes() == TEMPLATE.read_bytes()
