from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from components.records import ClassState
from components.store.scored.chunks import uniform_of, uniforms_of
from components.store.values import clean_text, jsonable


def test_values_become_plain_json() -> None:
    given = {
        "nan": math.nan,
        "infinite": np.float64("inf"),
        "array": np.array([[1.5, math.nan]]),
        "integer": np.int64(3),
        "flag": np.bool_(True),
        "time": datetime(2026, 11, 1, tzinfo=UTC),
        "state": ClassState.OK,
        5: ("a\x00", None),
        "set": {1},
    }
    assert jsonable(given) == {
        "nan": None,
        "infinite": None,
        "array": [[1.5, None]],
        "integer": 3,
        "flag": True,
        "time": "2026-11-01T00:00:00+00:00",
        "state": "ok",
        "5": ["a\\x00", None],
        "set": [1],
    }


@pytest.mark.parametrize("value", [object(), b"bytes"])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        jsonable({"key": value})


def test_undecodable_names_are_written_out() -> None:
    assert clean_text("a\x00b\udcffc") == "a\\x00b\\udcffc"
    assert clean_text("ungültig ✓") == "ungültig ✓"


def test_u_is_the_same_for_ever() -> None:
    assert uniform_of("b1", 0) == 0.8698383466791286
    assert uniform_of("b1", 17) == 0.35448341277912887


def test_u_looks_uniform_and_differs_between_batches() -> None:
    many = uniforms_of("b1", np.arange(200_000))
    counts = np.bincount((many * 100).astype(int), minlength=100)
    assert np.square(counts - 2000).sum() / 2000 < 150  # chi-square, 99 degrees: p = .0007
    assert abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(many, uniforms_of("b2", np.arange(200_000)))[0, 1]) < 0.01
    assert len(np.unique(many)) == len(many)
