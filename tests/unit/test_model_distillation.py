import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from components.errors import ConfigurationError, DataError
from components.model.answering import predict_logits
from components.model.artifact import WEIGHTS_FILE, ModelSpec, write_spec
from components.model.images.inputs import ImageSet
from components.model.images.preprocess import PreprocessSpec
from components.model.networks.backbones import build
from components.model.training.fit import Run
from components.model.training.learner import PixelInputs
from components.model.training.objectives.distillation import Taught, Teaching, distilled, lesson, teach
from components.model.training.objectives.one_class import OneLabel
from components.model.training.rates import Rates
from components.params import Augment, Train

DIGITS = load_digits()
PIXELS = torch.from_numpy((DIGITS.images / 16).astype(np.float32))[:, None]
LABELS = torch.from_numpy(DIGITS.target)
HELD = slice(1200, None)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape) * 3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_is_the_formulas(alpha, temperature):
    student, teacher, losses = drawn(6, 5), drawn(6, 5)[::-1], np.abs(drawn(6))
    p = softmax(teacher / temperature, axis=1)
    divergence = (p * (np.log(p) - log_softmax(student / temperature, axis=1))).sum(axis=1)
    expected = alpha * temperature**2 * divergence + (1 - alpha) * losses
    found = distilled(
        torch.from_numpy(losses), torch.from_numpy(student), torch.from_numpy(teacher.copy()),
        alpha=alpha, temperature=temperature,
    )  # fmt: skip
    assert found.numpy() == pytest.approx(expected, rel=1e-9)


def test_who_says_the_same_as_the_teacher_loses_nothing_to_it():
    said = torch.from_numpy(drawn(4, 3))
    loss = distilled(torch.zeros(4), said, said + 7, alpha=0.8, temperature=2.0)  # logits have no zero of their own
    assert loss.abs().max() < 1e-9


def test_the_teachers_pull_does_not_shrink_as_the_temperature_grows():
    """Of equal small logits the gradient is (student - teacher) / K at any temperature, as T² is there to have it."""
    teacher = torch.from_numpy(drawn(1, 4)) * 0.01
    pulls = []
    for temperature in (1.0, 5.0, 20.0):
        student = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        distilled(torch.zeros(1), student, teacher, alpha=1.0, temperature=temperature).sum().backward()
        pulls.append(student.grad.norm().item())
    assert pulls == pytest.approx([pulls[0]] * 3, rel=0.02)


@pytest.mark.parametrize(("alpha", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0), (0.5, -2.0), (0.5, np.nan)])
def test_share_and_temperature_have_a_range(alpha, temperature):
    with pytest.raises(ConfigurationError, match=r"alpha is in 0\.\.1"):
        Teaching(np.zeros((2, 3), np.float32), alpha, temperature)


def test_rows_are_taken_with_their_teaching():
    taught = Teaching(drawn(4, 3).astype(np.float32), 0.5, 2.0)
    assert np.array_equal(taught.take(np.array([True, False, True, False])).logits, taught.logits[[0, 2]])


@pytest.mark.parametrize("soft", [False, True])
def test_a_lesson_is_learnt_from_labels_and_teacher_in_their_shares(soft):
    labels, shares = np.array([2, 0, 1, 1]), softmax(drawn(4, 3), axis=1).astype(np.float32)
    images = ImageSet(np.zeros((4, 8, 8, 1), np.uint8), labels, np.ones(4, np.float32), shares if soft else None)
    taught = Teaching(drawn(4, 3).astype(np.float32), 0.3, 2.0)
    logits = torch.from_numpy(drawn(3, 4).T.astype(np.float32).copy())
    plain = OneLabel(0.1)
    own = plain.losses(logits, torch.from_numpy(shares if soft else labels), torch.ones(len(logits)))
    expected = distilled(own, logits, torch.from_numpy(taught.logits), alpha=0.3, temperature=2.0)
    targets = torch.from_numpy(lesson(images, taught).targets)
    objective = Taught(plain, taught.alpha, taught.temperature)
    weights = torch.linspace(0.5, 2.0, len(logits))
    assert objective.losses(logits, targets, weights).numpy() == pytest.approx((weights * expected).numpy(), rel=1e-6)
    assert objective.watched == plain.watched


def test_a_lesson_of_other_images_is_refused():
    images = ImageSet(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), np.ones(2, np.float32))
    with pytest.raises(DataError, match="a teacher that spoke of 4"):
        lesson(images, Teaching(np.zeros((4, 3), np.float32), 0.5, 2.0))


def test_a_run_with_a_teacher_learns_from_it_alone_where_labels_have_no_share():
    """The labels are all wrong by one class, the teacher is right."""
    rows = slice(0, 400)
    pixels = (DIGITS.images[rows] * 15.9).astype(np.uint8)[..., None]
    right = DIGITS.target[rows].astype(np.int64)
    said = np.where(np.eye(10)[right] > 0, 6.0, 0.0).astype(np.float32)
    training = ImageSet(pixels, (right + 1) % 10, np.ones(len(right), np.float32))
    spec = PreprocessSpec(8, 1, "stretch", 1.0, "box", (0.3,), (0.37,))
    run = Run(
        PixelInputs(spec, Augment(shift=0.0)), Taught(OneLabel(0.0), 1.0, 2.0), Rates.same(0.003),
        Train(epochs=6, batch_size=32, precision="fp32"),
    )  # fmt: skip
    network = build("small_cnn", classes=10, channels=1, size=8, dropout=0.0, pretrained="none", seed=1)
    fitted = run.fit(network, lesson(training, Teaching(said, 1.0, 2.0)), None, None)
    assert (predict_logits(fitted.network, pixels, spec).argmax(1) == right).mean() > 0.9


def student(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def learn(network: nn.Module, rows: torch.Tensor, epochs: int, teacher: torch.Tensor | None = None) -> float:
    """Return the accuracy on held-out digits of `network` trained on `rows`, with a teacher's logits or without."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(epochs):
        logits = network(PIXELS[rows])
        losses = functional.cross_entropy(logits, LABELS[rows], reduction="none")
        if teacher is not None:
            losses = distilled(losses, logits, teacher, alpha=0.9, temperature=4.0)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    with torch.inference_mode():
        return float((network(PIXELS[HELD]).argmax(1) == LABELS[HELD]).float().mean())


def test_student_of_a_good_teacher_beats_one_without_on_scarce_labels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        large = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    assert learn(large, torch.arange(1200), 80) > 0.92
    gains = []
    for seed in range(5):
        few = torch.from_numpy(np.random.default_rng(seed).permutation(1200)[:60])
        with torch.inference_mode():
            said = large(PIXELS[few])
        gains.append(learn(student(seed), few, 150, said.clone()) - learn(student(seed), few, 150))
    assert np.mean(gains) > 0.03
    assert sum(gain > 0 for gain in gains) >= 4


def at_size_of(images):
    """What gives images of 16 pixels as a specification wants them."""
    return lambda spec: images[:, :: 16 // spec.size, :: 16 // spec.size]


@pytest.fixture
def folder(tmp_path):
    """A trained model's folder; its classes lie in another order than the student's, and it knows one more."""
    spec = ModelSpec(("c", "x", "a", "b"), PreprocessSpec(8, 1, "stretch", 1.0, "box", (0.5,), (0.5,)), "small_cnn")
    network = build("small_cnn", classes=4, channels=1, size=8, dropout=0.0, pretrained="none", seed=2)
    torch.save(network.state_dict(), tmp_path / WEIGHTS_FILE)
    write_spec(tmp_path, spec)
    return tmp_path


def test_teacher_sees_images_at_its_own_size_and_speaks_in_the_students_classes(folder):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    taught = teach(folder, at_size_of(images), ("a", "b", "c"), alpha=0.5, temperature=2.0)
    network = build("small_cnn", classes=4, channels=1, size=8, dropout=0.0, pretrained="none", seed=2).eval()
    seen = torch.from_numpy(images[:, ::2, ::2].astype(np.float32).transpose(0, 3, 1, 2) / 255)
    with torch.inference_mode():
        said = network((seen - 0.5) / 0.5).numpy()
    assert taught.logits == pytest.approx(said[:, [2, 3, 0]], abs=1e-5)


def test_teacher_that_does_not_know_a_class_is_refused(folder):
    images = np.zeros((1, 16, 16, 1), np.uint8)
    with pytest.raises(ConfigurationError, match="does not know 'd'; train it on these classes"):
        teach(folder, at_size_of(images), ("a", "d"), alpha=0.5, temperature=2.0)
