import numpy as np
import pytest

from components.errors import DataError
from components.labels.issues import find_issues
from components.labels.suspects import read_suspects, training_weights, write_out_of_fold, write_suspects


def world(number: int = 2000, classes: int = 5, wrong: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given labels, a decent model's probabilities, and which labels were planted wrong."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, number)
    scores = generator.normal(size=(number, classes))
    scores[np.arange(number), truth] += 5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    planted = generator.random(number) < wrong
    given = np.where(planted, (truth + 1 + generator.integers(0, classes - 1, number)) % classes, truth)
    return given, probabilities.astype(np.float32), planted


def test_planted_errors_are_found_and_few_others():
    given, probabilities, planted = world()
    issues = find_issues(given, probabilities)
    assert issues.suspect[planted].mean() > 0.8
    assert issues.suspect[~planted].mean() < 0.02
    assert issues.score[planted].mean() < 0.2 * issues.score[~planted].mean()
    assert (issues.likely == probabilities.argmax(axis=1)).all()


def test_a_class_nobody_was_given_changes_little():
    given, probabilities, _ = world()
    wider = np.column_stack([probabilities[:, :2], np.zeros(len(given)), probabilities[:, 2:]])
    moved = np.where(given >= 2, given + 1, given)
    assert (find_issues(moved, wider).suspect == find_issues(given, probabilities).suspect).mean() > 0.99


def test_one_class_alone_has_no_suspects():
    probabilities = np.tile([0.1, 0.9], (10, 1))
    issues = find_issues(np.zeros(10, np.int64), probabilities)
    assert not issues.suspect.any()
    assert issues.score == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("given", "probabilities", "words"),
    [
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), "row 1"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [0.9, 0.5]]), "row 1"),
        (np.array([0, 1]), np.array([[1.5, -0.5], [0.5, 0.5]]), "row 0"),
        (np.array([0, 2]), np.full((2, 2), 0.5), r"0\.\.2"),
        (np.array([-1, 1]), np.full((2, 2), 0.5), r"-1\.\.1"),
        (np.array([0]), np.full((2, 2), 0.5), "must match"),
        (np.array([], np.int64), np.empty((0, 2)), "must match"),
    ],
)
def test_wrong_input_is_named(given, probabilities, words):
    with pytest.raises(DataError, match=words):
        find_issues(given, probabilities)


def test_suspects_survive_the_file_and_only_for_the_same_images(tmp_path):
    given, probabilities, _ = world(50)
    issues = find_issues(given, probabilities)
    ids = [f"{n:064x}" for n in range(50)]
    said, likely = (["abcde"[k] for k in column] for column in (given, issues.likely))
    write_suspects(tmp_path, ids, said, likely, issues.score, issues.suspect)
    write_out_of_fold(tmp_path, ids, probabilities, np.zeros(50, np.int64))
    assert (read_suspects(tmp_path, ids) == issues.suspect).all()
    with pytest.raises(DataError, match="another dataset version"):
        read_suspects(tmp_path, ids[:-1])
    with pytest.raises(DataError, match="run the audit stage"):
        read_suspects(tmp_path / "none", ids)


@pytest.mark.parametrize(("policy", "doubted"), [("keep", 1.0), ("down-weight", 0.1), ("drop", 0.0)])
def test_policy_weighs_only_doubted_labels_that_nobody_confirmed(policy, doubted):
    weights = training_weights(
        np.array([True, True, False, False]),
        np.array([True, False, True, False]),
        np.array([False, True, False, True]),
        policy=policy,
        suspect_weight=0.1,
        production_weight=3.0,
    )
    assert weights == pytest.approx([doubted, 3.0, 1.0, 3.0])
