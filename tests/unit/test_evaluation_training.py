import json

import numpy as np
import pytest

from components.errors import DataError
from components.evaluation.page.chart import line_chart
from components.evaluation.training.curve import Epoch, read_curves
from components.evaluation.training.diagnosis import Guess, State, diagnose

LABELS = np.arange(1000) % 10
RIGHT = np.where(np.arange(1000) < 900, LABELS, (LABELS + 1) % 10)


def curve(train, loss, accuracy) -> list[Epoch]:
    return [Epoch(n, *values, values[-1]) for n, values in enumerate(zip(train, loss, accuracy, strict=True))]


LEVELLED = curve([1.2, 0.8, 0.6, 0.5, 0.45, 0.42, 0.41, 0.4], [0.9, 0.6, 0.5, 0.4, 0.36, 0.34, 0.335, 0.335],
                 [0.7, 0.8, 0.85, 0.88, 0.89, 0.9, 0.9, 0.901])  # fmt: skip


def test_training_that_rose_and_levelled_off_is_fine():
    found = diagnose(LEVELLED, LABELS, RIGHT)
    assert (found.state, found.remedy) == (State.FINE, "")
    assert "from 70.0 % to 90.1 %" in found.words


def test_loss_that_stays_at_a_guess_is_stuck_whatever_the_smoothing_adds():
    flat = [np.log(10)] * 6
    for train in (flat, [loss + 0.4 for loss in flat]):
        found = diagnose(curve(train, flat, [0.1, 0.11, 0.1, 0.1, 0.09, 0.1]), LABELS, np.zeros(1000, np.int64))
        assert found.state == State.STUCK
        assert "learning_rate" in found.remedy


def test_answers_of_one_class_are_a_collapse_unless_the_images_are_of_it():
    falling = curve([2.3, 1.9, 1.7, 1.6], [2.1, 2.0, 1.9, 1.9], [0.15, 0.18, 0.19, 0.19])
    one = np.where(np.arange(1000) < 950, 3, LABELS)
    assert diagnose(falling, LABELS, one).state == State.COLLAPSED
    rare = np.where(np.arange(1000) < 30, 1, 0)
    found = diagnose(curve([0.2, 0.1, 0.08, 0.08], [0.13, 0.05, 0.03, 0.03], [0.97, 0.99, 0.999, 1]), rare, rare)
    assert found.state == State.FINE


def test_accuracy_of_the_commonest_class_is_no_success():
    falling = curve([2.3, 1.9, 1.7, 1.6], [2.1, 2.0, 1.9, 1.9], [0.1, 0.11, 0.1, 0.11])
    spread = (LABELS + np.arange(1000) // 10) % 10
    assert diagnose(falling, LABELS, spread).state == State.COLLAPSED


def test_validation_that_gets_worse_while_training_gets_better_is_overfitted():
    train = [1.0, 0.6, 0.4, 0.2, 0.1, 0.05]
    levelled, falling = [0.7, 0.8, 0.82, 0.82, 0.82, 0.82], [0.7, 0.8, 0.85, 0.83, 0.82, 0.8]
    risen = diagnose(curve(train, [0.7, 0.5, 0.45, 0.5, 0.6, 0.7], levelled), LABELS, RIGHT)
    fallen = diagnose(curve(train, [0.7, 0.5, 0.45, 0.46, 0.46, 0.46], falling), LABELS, RIGHT)
    assert [one.state for one in (risen, fallen)] == [State.OVERFITTED] * 2
    assert "From epoch 3 on the validation loss rose by 56 %" in risen.words
    assert "augment" in risen.remedy


def test_worse_validation_without_better_training_is_not_overfitted():
    unlucky = curve([0.5] * 6, [0.5, 0.45, 0.4, 0.5, 0.45, 0.46], [0.8, 0.82, 0.85, 0.8, 0.82, 0.81])
    assert diagnose(unlucky, LABELS, RIGHT).state == State.FINE


def test_gains_in_the_last_quarter_call_for_more_epochs():
    accuracy = [0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8]
    found = diagnose(curve(np.linspace(2, 0.8, 8), np.linspace(1.9, 0.7, 8), accuracy), LABELS, RIGHT)
    assert (found.state, "train.epochs" in found.remedy) == (State.CUT_SHORT, True)
    assert "10.0 points in the last 2 of 8 epochs" in found.words


def test_too_few_epochs_say_nothing():
    assert diagnose(LEVELLED[:2], LABELS, RIGHT).state == State.UNKNOWN
    assert diagnose([Epoch(n, 1.0) for n in range(9)], LABELS, RIGHT).state == State.UNKNOWN


def test_a_guess_is_the_commonest_class_and_the_entropy_of_the_labels():
    guess = Guess.of(np.array([0, 0, 0, 2]))
    assert guess.reached == 0.75
    assert guess.loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


TRUTH = (np.random.default_rng(0).random((2000, 4)) < [0.5, 0.3, 0.2, 0.05]).astype(np.int64)
SHARES = TRUTH.mean(axis=0)
ENTROPY = float(-(SHARES * np.log(SHARES) + (1 - SHARES) * np.log(1 - SHARES)).mean())


def of_sets(train, loss, mean_precision) -> list[Epoch]:
    rows = zip(train, loss, mean_precision, strict=True)
    return [Epoch(n, a, b, mean_precision=c, exact_match=c / 2) for n, (a, b, c) in enumerate(rows)]


def test_a_guess_at_label_sets_is_each_label_s_share_and_the_mean_entropy():
    guess = Guess.of(TRUTH)
    assert guess.loss == pytest.approx(ENTROPY)
    assert guess.reached == pytest.approx(SHARES.mean(), abs=0.01)
    assert 0 < guess.error < 0.05
    assert guess.measure == "mAP"


def test_label_sets_are_diagnosed_by_their_ranking():
    flat = [ENTROPY] * 5
    stuck = diagnose(of_sets(flat, flat, [0.27, 0.26, 0.27, 0.27, 0.26]), TRUTH)
    assert stuck.state == State.STUCK
    falling = of_sets([0.6, 0.5, 0.4, 0.3, 0.25], [0.55, 0.5, 0.48, 0.48, 0.47], [0.27, 0.26, 0.27, 0.27, 0.26])
    collapsed = diagnose(falling, TRUTH)
    assert collapsed.state == State.COLLAPSED
    assert "Validation mAP never rose above 27.0 %; ranking at random gives" in collapsed.words
    learnt = of_sets([0.6, 0.3, 0.2, 0.1, 0.05], [0.5, 0.3, 0.3, 0.35, 0.4], [0.5, 0.7, 0.72, 0.72, 0.72])
    assert diagnose(learnt, TRUTH).state == State.OVERFITTED
    fine = diagnose(
        of_sets([0.6, 0.3, 0.25, 0.24, 0.23], [0.5, 0.3, 0.28, 0.27, 0.27], [0.5, 0.9, 0.95, 0.95, 0.95]), TRUTH
    )
    assert fine.state == State.FINE
    assert "Validation mAP rose from 50.0 % to 95.0 %" in fine.words


def test_curve_is_read_by_epoch_and_a_new_count_is_a_new_phase(tmp_path):
    rows = [
        {"step": 50, "epoch": 0, "time": "t", "train_loss": 2.0, "learning_rate": 0.1},
        {"step": 60, "epoch": 0, "epoch_train_loss": 1.0, "validation_loss": 0.9, "validation_accuracy": 0.5},
        {"step": 120, "epoch": 1, "time": "t", "epoch_train_loss": 0.8},
        {"step": 60, "epoch": 0, "time": "t", "epoch_train_loss": 0.7, "validation_loss": float("nan")},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_curves(path) == ((Epoch(0, 1.0, 0.9, 0.5), Epoch(1, 0.8)), (Epoch(0, 0.7),))
    assert read_curves(tmp_path / "none.jsonl") == ()
    of_label_sets = {"epoch": 0, "epoch_train_loss": 1.0, "validation_loss": 0.5, "validation_map": 0.8}
    path.write_text(json.dumps(of_label_sets | {"validation_exact_match": 0.6}) + "\n")
    ((epoch,),) = read_curves(path)
    assert (epoch.reached, epoch.exact_match, epoch.accuracy) == (0.8, 0.6, None)
    path.write_text('{"epoch_train_loss": 1}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:1"):
        read_curves(path)


def test_chart_keeps_every_point_inside_and_a_far_level_out():
    values = [2.3, 1.0, 0.52, 0.51]
    chart = line_chart("loss", {"training": values, "validation": [None, 1.1, 0.9, 0.8]}, level=(2.5, "guessing"))
    assert [len(line.dots) for line in chart.lines] == [4, 3]
    assert all(chart.left <= x <= chart.right and 0 <= y <= chart.bottom for line in chart.lines for x, y in line.dots)
    assert chart.level is not None
    assert chart.lines[0].dots[0][1] < chart.lines[0].dots[1][1]  # larger is higher
    assert line_chart("loss", {"a": [0.1, 0.11]}, level=(2.3, "guessing")).level is None
    assert line_chart("loss", {"a": [None]}) is None
    assert line_chart("one", {"a": [0.5]}, shares=True).upward[0][1].endswith("%")
