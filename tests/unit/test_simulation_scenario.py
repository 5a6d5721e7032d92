from pathlib import Path

import pytest
import yaml

import components.simulation
from components.data.decoding.decode import ImageLimits
from components.data.sources.opening import open_source
from components.errors import ConfigurationError
from components.simulation.scenario import Scenario, load_scenario
from components.simulation.world import World

TEXT = """
source: fashion-mnist
seed: 7
initial_images: 12000
label_errors: 0.05
annotators: {count: 3, error_rate: 0.03, answer_rate: 0.9}
doubts_answered: true
label_share: 0.05
months:
  - {images: 5000}
  - images: 5000
    shifts:
      - {kind: new_style, classes: [Sneaker], severity: 1.0, until: 6}
"""


def load(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path)


def months(*shifts: dict, count: int = 1) -> Scenario:
    first = {"images": 10, "shifts": list(shifts)}
    return Scenario.model_validate({"months": [first] + [{"images": 10}] * (count - 1)})


def test_the_documented_file_says_what_it_says(tmp_path):
    scenario = load(tmp_path, TEXT)
    assert scenario.model_dump(exclude={"months"}) == {
        key: value for key, value in yaml.safe_load(TEXT).items() if key != "months"
    }
    assert scenario.months[0].shifts == ()
    (shift,) = scenario.months[1].shifts
    assert (shift.kind, shift.classes, shift.severity, shift.until) == ("new_style", ("Sneaker",), (1.0, 1.0), 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed:", "sede:"), "unknown key 'sede'; did you mean 'seed'"),
        (("kind:", "kidn:"), "'months.1.shifts.0.kidn'; did you mean 'kind'"),
        (("count:", "cuont:"), "'annotators.cuont'; did you mean 'count'"),
        (("new_style", "newstyle"), "new_style"),
        (("severity: 1.0", "severity: 1.2"), "severity"),
        (("severity: 1.0", "severity: [0.1]"), "ramp of two"),
        (("severity: 1.0", "severity: true"), "ramp of two"),
        (("until: 6", "until: 1"), "ends in month 1, before it began"),
        (("classes: [Sneaker], ", ""), "needs `classes`"),
        (("until: 6", "weights: {Bag: 2.0}"), "class_prior"),
        (("until: 6", "to: Bag"), "relabel"),
        (("images: 5000}", "images: 0}"), "months.0.images"),
        (("label_share: 0.05", "label_share: 0"), "label_share"),
        (("months:", "monhts:"), "did you mean 'months'"),
    ],
)
def test_a_wrong_file_is_one_error_naming_file_key_and_remedy(tmp_path, change, message):
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, TEXT.replace(*change))
    assert message in str(error.value)
    assert "scenario.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_broken_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_scenario(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load(tmp_path, "months: [")
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        load(tmp_path, "")


@pytest.mark.parametrize(
    "shift",
    [
        {"kind": "class_prior"},
        {"kind": "class_prior", "weights": {"a": 2}, "classes": ["a"]},
        {"kind": "class_prior", "weights": {"a": 0}},
        {"kind": "relabel", "classes": ["a"]},
        {"kind": "relabel", "classes": ["a"], "to": "a"},
        {"kind": "relabel", "to": "a"},
        {"kind": "novel_class"},
        {"kind": "blur", "to": "a"},
    ],
)
def test_a_shift_needs_the_keys_of_its_kind_and_no_others(shift):
    with pytest.raises(ValueError, match=r"kind|to|weights|greater|itself"):
        months(shift)


def test_a_shift_is_in_force_from_its_month_through_until():
    scenario = Scenario.model_validate(
        {"months": [{"images": 1}, {"images": 1, "shifts": [{"kind": "blur", "until": 3}]}, *[{"images": 1}] * 2]}
    )
    assert [len(scenario.active(month)) for month in (1, 2, 3, 4)] == [0, 1, 1, 0]


def test_a_ramp_runs_from_the_first_to_the_last_month():
    to_the_end = months({"kind": "blur", "severity": [0.1, 0.9]}, count=5)
    assert [to_the_end.active(month)[0][1] for month in range(1, 6)] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    short = months({"kind": "blur", "severity": [0.2, 0.8], "until": 1}, count=5)
    assert short.active(1)[0][1] == 0.2


def test_novel_classes_are_those_of_every_month():
    scenario = months({"kind": "novel_class", "classes": ["a"]}, {"kind": "novel_class", "classes": ["b"]})
    assert scenario.novel_classes() == {"a", "b"}


@pytest.mark.parametrize("path", sorted(Path(components.simulation.__file__).parent.glob("scenarios/*.yaml")), ids=str)
def test_the_built_in_scenarios_are_valid(path):
    assert load_scenario(path).months


def test_the_digits_suffice_for_their_scenario(tmp_path):
    scenario = load_scenario(Path(components.simulation.__file__).parent / "scenarios" / "digits.yaml")
    limits = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
    world = World(scenario, list(open_source(scenario.source, limits=limits, cache=tmp_path)))
    assert len(world.initial()[0]) == scenario.initial_images
    assert len(world.month(len(scenario.months))[0]) == scenario.months[-1].images
