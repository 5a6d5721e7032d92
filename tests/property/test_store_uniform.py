from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.store.scored.chunks import uniform_of, uniforms_of


@given(st.text(max_size=80), st.lists(st.integers(0, 2**31 - 1), max_size=40))
def test_u_depends_on_batch_and_item_alone(batch_id: str, items: list[int]) -> None:
    together = uniforms_of(batch_id, np.array(items, np.int64))
    assert ((together >= 0) & (together < 1)).all()
    assert together.tolist() == [uniform_of(batch_id, item) for item in items]
