import numpy as np
import pytest
from PIL import Image

from components.errors import DataError
from components.evaluation.examination.unfamiliar import energy_threshold, strange_images, unfamiliar_report
from components.model.images.preprocess import PreprocessSpec
from components.params import Data

SPEC = PreprocessSpec(16, 3, "stretch", 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
DATA = Data(max_file_bytes=100_000, max_pixels=1_000_000, decode_seconds=1)


def test_threshold_keeps_at_least_the_share_it_promises():
    energies = np.random.default_rng(0).normal(-8, 2, 333)
    for kept in (0.5, 0.95, 0.99):
        assert kept <= (energies <= energy_threshold(energies, kept)).mean() < kept + 0.01
    for nothing in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(DataError):
            energy_threshold(nothing, 0.95)


def test_strange_images_are_told_by_their_higher_energy():
    generator = np.random.default_rng(1)
    judged, validation = generator.normal(-8, 1, (2, 500))
    others = {"far": generator.normal(-2, 1, 200), "same": generator.normal(-8, 1, 200)}
    found = unfamiliar_report(judged, energy_threshold(validation, 0.95), 0.95, others)
    far, same = found["sets"]
    assert far["auroc"]["value"] > 0.99
    assert far["caught"] > 0.99
    assert same["auroc"]["low"] < 0.5 < same["auroc"]["high"]
    assert same["caught"] < 0.1
    assert 0.9 < found["kept"] < 0.99


def test_digits_and_noise_are_always_there():
    sets = strange_images("", SPEC, DATA, 20)
    assert {name: images.shape for name, images in sets.items()} == {
        "handwritten digits": (20, 16, 16, 3),
        "uniform noise": (20, 16, 16, 3),
    }
    digits = sets["handwritten digits"]
    assert digits.max() > 200
    assert digits.min() == 0


def test_folder_gives_its_images_and_passes_other_files_over(tmp_path):
    (tmp_path / "deep").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / "deep" / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = strange_images(str(tmp_path), SPEC, DATA, 100)
    assert list(found) == [f"images of {tmp_path.name}"]
    assert sorted(found[f"images of {tmp_path.name}"][:, 0, 0, 0].tolist()) == [0, 40, 80, 120, 160, 200]
    assert len(strange_images(str(tmp_path), SPEC, DATA, 2)[f"images of {tmp_path.name}"]) == 2


@pytest.mark.usefixtures("misbehaving")
def test_a_file_that_would_end_its_process_is_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"crash")
    (tmp_path / "b.png").write_bytes(b"hang")
    Image.new("RGB", (20, 20), (40, 0, 0)).save(tmp_path / "c.png")
    assert len(strange_images(str(tmp_path), SPEC, DATA, 5)[f"images of {tmp_path.name}"]) == 1


def test_folder_that_is_not_there_or_has_no_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"evaluate\.ood.*is not a folder"):
        strange_images(str(tmp_path / "none"), SPEC, DATA, 5)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="none of 1 files"):
        strange_images(str(tmp_path), SPEC, DATA, 5)
