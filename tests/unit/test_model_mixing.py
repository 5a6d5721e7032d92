"""Mixup and CutMix: each mixture says truly how much of it is whose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.model.training.objectives.mixing import mix
from components.params import Augment


def batch(number: int = 6, side: int = 8) -> torch.Tensor:
    """Return images of which each is one grey level of its own."""
    return torch.arange(1, number + 1).float()[:, None, None, None].expand(number, 3, side, side) / number


def test_without_rules_nothing_is_mixed() -> None:
    assert mix(batch(), Augment()) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]))
def test_the_mean_of_a_mixture_is_the_share_of_its_parts(seed: int, rules: dict[str, float]) -> None:
    pixels = batch()
    before = pixels.clone()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixed = mix(pixels, Augment(**rules))
    assert mixed is not None
    assert 0 <= mixed.share <= 1
    assert sorted(mixed.other.tolist()) == list(range(6))
    expected = mixed.share * before + (1 - mixed.share) * before[mixed.other]
    torch.testing.assert_close(mixed.pixels.mean(dim=(1, 2, 3)), expected.mean(dim=(1, 2, 3)))
    assert torch.equal(pixels, before)


def test_cutmix_pastes_one_rectangle_and_mixes_no_pixel() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mixed = mix(batch(), Augment(cutmix=1.0))
    assert mixed is not None
    own = mixed.pixels == batch()
    other = mixed.pixels == batch()[mixed.other]
    assert bool((own | other).all())
    rows = [n for n in range(6) if mixed.other[n] != n]
    assert float((~own[rows]).float().mean()) == pytest.approx(1 - mixed.share)
