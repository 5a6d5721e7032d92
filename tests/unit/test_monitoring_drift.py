"""Drift: the test with a smallest effect of interest, against scipy and on shifts of known size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from components.monitoring.drift.binning import bin_counts, edges_from_quantiles, quantile_edges
from components.monitoring.drift.findings import benjamini_hochberg, findings, minimum_effect_test, undecided
from components.params import Monitor

RULES = Monitor()


def test_the_statistic_and_plain_p_value_are_scipys_two_sample_chi_square():
    before, now = np.array([520, 310, 170, 40]), np.array([900, 700, 420, 130])
    test = minimum_effect_test(before, now, 0.05)
    oracle = stats.chi2_contingency([before, now], correction=False)
    assert test.plain_p_value == pytest.approx(oracle.pvalue)
    harmonic = before.sum() * now.sum() / (before.sum() + now.sum())
    assert test.v == pytest.approx(np.sqrt((oracle.statistic - 3) / harmonic) / 2)
    assert test.p_value == pytest.approx(stats.ncx2.sf(oracle.statistic, 3, 4 * harmonic * 0.05**2))


def shifted(points, size, rng):
    base, moved = np.full(10, 0.1), np.full(10, 0.1)
    moved[0] += points / 100
    moved[1] -= points / 100
    return rng.multinomial(size, base), rng.multinomial(size, moved)


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_small_shifts_pass_at_every_size_and_five_points_do_not(size):
    rng = np.random.default_rng(size)

    def flagged(points):
        results = [minimum_effect_test(*shifted(points, size, rng), RULES.drift_v).p_value for _ in range(100)]
        return sum(p < RULES.drift_alpha for p in results)

    assert [flagged(points) <= 2 for points in (0, 0.5, 2)] == [True] * 3
    assert flagged(5) >= 98


def test_plain_chi_square_would_flag_half_a_point_at_a_million_rows():
    rng = np.random.default_rng(1)
    test = minimum_effect_test(*shifted(0.5, 1_000_000, rng), RULES.drift_v)
    assert test.plain_p_value < 1e-6
    assert test.p_value > 0.5


def test_v_does_not_depend_on_how_many_rows_there_are():
    rng = np.random.default_rng(2)
    values = [minimum_effect_test(*shifted(5, size, rng), 0.05).v for size in (20_000, 200_000, 2_000_000)]
    assert np.ptp(values) < 0.02


def test_a_thousand_classes_in_a_quiet_month_are_quiet_and_ten_points_are_not():
    rng = np.random.default_rng(3)
    base = 1 / (np.arange(1000) + 250.0)
    base /= base.sum()
    moved = base * np.where(np.arange(1000) % 2, 0.8, 1.2)
    moved /= moved.sum()
    quiet = [minimum_effect_test(rng.multinomial(10_000, base), rng.multinomial(10_000, base), 0.05) for _ in range(50)]
    assert sum(test.p_value < 0.01 for test in quiet) <= 2
    loud = minimum_effect_test(rng.multinomial(100_000, base), rng.multinomial(100_000, moved), 0.05)
    assert loud.p_value < 1e-6


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        ([100, 100], [100, float("nan")], "not a finite number"),
        ([100, 100], [100, float("inf")], "not a finite number"),
        ([100, 100], [100, -1], "not a finite number"),
        ([100, 100], [100, 100, 1], "2 cells, the window 3"),
        ([1000], [1000], "constant"),
        ([1000, 0], [1000, 0], "constant"),
        ([100, 100], [10, 10], "20 rows on one side"),
        ([0, 0], [100, 100], "0 rows on one side"),
        ([], [], "0 rows on one side"),
    ],
)
def test_what_cannot_be_decided_is_a_state_not_an_exception(before, now, state):
    test = minimum_effect_test(before, now, 0.05)
    assert state in test.state
    assert test.p_value is None
    assert test.v is None


def test_an_unseen_class_and_a_missing_class_are_decided():
    appeared = minimum_effect_test([500, 500, 0], [400, 400, 200], 0.05)
    gone = minimum_effect_test([400, 400, 200], [500, 500, 0], 0.05)
    assert appeared.state == gone.state == "ok"
    assert appeared.p_value == pytest.approx(gone.p_value)
    assert appeared.p_value < 0.01


def test_one_row_of_an_unseen_class_is_no_drift():
    test = minimum_effect_test([500, 500, 0], [500, 499, 1], 0.05)
    assert test.p_value > 0.9
    assert test.v == 0


def test_rare_cells_are_pooled_until_they_are_expected_five_times():
    before, now = np.array([500, 500, *[1] * 12]), np.array([500, 500, *[1] * 12])
    merged = minimum_effect_test(before, now, 0.05)
    assert merged.plain_p_value == pytest.approx(stats.chi2.sf(0, 2))


def test_a_column_constant_before_and_different_now_drifts():
    edges = quantile_edges(np.full(1000, 28.0), 20)
    before, now = bin_counts(np.full(1000, 28.0), edges), bin_counts(np.full(1000, 32.0), edges)
    assert minimum_effect_test(before, now, 0.05).p_value < 1e-6
    assert "constant" in minimum_effect_test(before, before, 0.05).state


def test_twenty_quantiles_fill_their_cells_equally():
    values = np.random.default_rng(4).normal(size=20_000)
    edges = quantile_edges(values, 20)
    assert len(edges) == 19
    assert bin_counts(values, edges).tolist() == pytest.approx([1000] * 20, abs=2)


def test_a_value_that_fills_several_quantiles_gets_a_cell_of_its_own():
    values = np.concatenate([np.full(600, 0.5), np.linspace(0.6, 1, 400)])
    counts = bin_counts(values, quantile_edges(values, 20))
    assert 600 in counts
    assert counts.sum() == 1000


def test_values_that_are_not_finite_fall_into_no_cell():
    assert bin_counts([0.1, np.nan, np.inf, 0.9], np.array([0.5])).tolist() == [1, 1]
    assert quantile_edges([np.nan, np.inf], 20).size == 0
    assert edges_from_quantiles([]).size == 0


def test_findings_keep_the_order_and_decide_over_all_columns():
    quiet, loud = ([500, 500], [505, 495]), ([500, 500], [900, 100])
    found = findings({"brightness": quiet, "width": ([1000, 0], [1000, 0]), "confidence": loud}, RULES)
    assert [f.column for f in found] == ["brightness", "width", "confidence"]
    assert [f.drifted for f in found] == [False, False, True]
    assert found[1].p_value is None
    assert found[2].rows == found[2].reference_rows == 1000


def test_an_uncountable_column_says_why():
    assert undecided("width", "no reference yet").state == "undecided: no reference yet"
    assert not undecided("width", "no reference yet").drifted


def test_the_step_up_procedure_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(5)
    for _ in range(50):
        p = rng.beta(0.4, 1, rng.integers(1, 12)).tolist()
        assert benjamini_hochberg(p, 0.05) == multipletests(p, 0.05, "fdr_bh")[0].tolist()
    assert benjamini_hochberg([], 0.05) == []
