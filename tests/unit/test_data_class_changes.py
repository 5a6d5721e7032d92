import json
from datetime import UTC, datetime

import pytest

from components.data.ingestion.class_changes import (
    Add,
    Merge,
    Rename,
    Split,
    Translation,
    applied,
    carried,
    changed_list,
    describe,
    former_names,
    merge_of,
    name_in_use,
)
from components.data.ingestion.class_history import ClassHistory, checked_display_name, shown_name
from components.data.ingestion.split_list import read_split_list, split_by
from components.data.manifest import Manifest
from components.errors import ConfigurationError, DataError, IntegrityError, RefusedError

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LIST = ("boot", "sandal", "sneaker", "trainer")


def image(number: int, label: str, split: str = "train", state: str = "active", name: str | None = None) -> dict:
    image_id = f"{number:064x}"
    return {"image_id": image_id, "label": label, "split": split, "state": state, "name": name or f"{number}.png"}


def manifest(*rows: dict, classes: tuple[str, ...] = LIST) -> Manifest:
    return Manifest.from_rows(list(rows), classes)


def labels(found: Manifest) -> list[str]:
    return found.table["label"].to_pylist()


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (Add("clog"), ("boot", "sandal", "sneaker", "trainer", "clog")),
        (Rename("sandal", "flip-flop"), ("boot", "flip-flop", "sneaker", "trainer")),
        (Merge(("sandal", "trainer"), "sandal"), ("boot", "sandal", "sneaker")),
        (Merge(("sandal", "trainer"), "trainer"), ("boot", "sneaker", "trainer")),
        (Merge(("trainer", "sandal"), "light shoe"), ("boot", "light shoe", "sneaker")),
        (Split("sandal", ("mule",), "sandal", {}), ("boot", "sandal", "sneaker", "trainer", "mule")),
        (Split("sandal", ("mule", "slide"), None, {}), ("boot", "mule", "sneaker", "trainer", "slide")),
        (Split("sandal", ("mule",), "slide", {}), ("boot", "slide", "sneaker", "trainer", "mule")),
        (Split("sandal", ("sandal", "mule"), "slide", {}), ("boot", "sandal", "sneaker", "trainer", "slide", "mule")),
    ],
    ids=lambda value: describe(value) if not isinstance(value, tuple) else None,
)
def test_every_class_that_can_keeps_its_place(change, after):
    assert changed_list(LIST, change) == after


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Add("boot"), "is a class already"),
        (Add("other"), "an answer people give"),
        (Add("a\x00b"), "control characters"),
        (Rename("boots", "x"), "nearest is 'boot'"),
        (Rename("boot", "sandal"), "is a class already"),
        (Rename("boot", "boot"), "is a class already"),
        (Merge(("boot",), "boot"), "two classes or more"),
        (Merge(("boot", "sandal"), "trainer"), "is a class already"),
        (Split("boot", (), "boot", {}), "makes one class"),
        (Split("boot", ("sandal",), "boot", {}), "is a class already"),
    ],
    ids=str,
)
def test_a_change_that_cannot_be_is_refused_with_the_reason(change, words):
    with pytest.raises(ConfigurationError, match=words):
        changed_list(LIST, change)


def test_labels_of_every_split_and_state_follow_their_class():
    stored = manifest(
        image(1, "sandal"), image(2, "sandal", "frozen_test"), image(3, "sandal", "golden"), image(4, "boot"),
        image(5, "sandal", state="quarantined"), image(6, "trainer"),
    )  # fmt: skip
    renamed = applied(stored, Rename("sandal", "flip-flop"))
    assert labels(renamed) == ["flip-flop"] * 3 + ["boot", "flip-flop", "trainer"]
    assert renamed.counts()["frozen_test"] == {"boot": 0, "flip-flop": 1, "sneaker": 0, "trainer": 0}
    assert labels(applied(stored, Merge(("sandal", "trainer"), "shoe"))) == ["shoe"] * 3 + ["boot", "shoe", "shoe"]
    assert labels(stored)[0] == "sandal"


def test_a_split_goes_by_its_list_and_leaves_the_rest():
    stored = manifest(image(1, "sandal"), image(2, "sandal"), image(3, "boot"))
    split = split_by(stored, "sandal", {f"{1:064x}": "mule", f"{9:064x}": "slide"}, None)
    assert split.parts == ("mule", "slide")
    assert labels(applied(stored, split)) == ["mule", "sandal", "boot"]
    by_name = split_by(stored, "sandal", {"2.png": "mule"}, "slide")
    assert labels(applied(stored, by_name)) == ["slide", "mule", "boot"]
    every = split_by(stored, "sandal", {"1.png": "mule", "2.png": "slide"}, None)
    assert (every.rest, applied(stored, every).classes) == (None, ("boot", "mule", "sneaker", "trainer", "slide"))
    assert split_by(stored, "sandal", {"1.png": "mule", "2.png": "slide"}, "empty").rest is None


def test_a_split_must_list_the_frozen_test_set():
    stored = manifest(*(image(n, "sandal", "frozen_test" if n < 4 else "train") for n in range(1, 7)))
    with pytest.raises(RefusedError, match="2 images labelled 'sandal' in the frozen test set are not in the list"):
        split_by(stored, "sandal", {"1.png": "mule", "5.png": "mule"}, "slide")
    assert split_by(stored, "sandal", {f"{n}.png": "mule" for n in (1, 2, 3)}, None).rest == "sandal"


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"7.png": "mule"}, "no image labelled 'sandal' came as '7.png'"),
        ({"same.png": "mule"}, "'same.png' names 2 images, give their ids"),
        ({f"{4:064x}": "mule"}, "is not labelled 'sandal'"),
        ({f"{1:064x}": "mule", "1.png": "slide"}, "by its id under 'mule', by its name under 'slide'"),
    ],
)
def test_a_list_that_does_not_fit_the_data_is_refused(listed, words):
    same = [image(n, "sandal", name="same.png") for n in (2, 3)]
    with pytest.raises(DataError, match=words):
        split_by(manifest(image(1, "sandal"), *same, image(4, "boot")), "sandal", listed, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,label\na,b\n", ":1: columns are"),
        ("image,class\n", "lists no image"),
        ("image,class\na\n", r":2: \['a'\] is not an image and its class"),
        ("image,class\na,x\na,y\n", ":3: 'a' is 'x' further up, and 'y' here"),
        ("image,class\na,unsure\n", "an answer people give"),
        ('image,class\n"a,x\n', "cannot be read as CSV"),
    ],
)
def test_a_wrong_split_list_is_named_by_file_and_row(tmp_path, content, words):
    path = tmp_path / "by.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises((DataError, ConfigurationError), match=words):
        read_split_list(path)


def test_a_split_list_is_read_in_any_order_of_columns(tmp_path):
    path = tmp_path / "by.csv"
    path.write_text("\ufeffclass,image\r\nmule,a.png\r\n\r\nslide,b.png\r\n", encoding="utf-8")
    assert read_split_list(path) == {"a.png": "mule", "b.png": "slide"}


def test_a_merge_into_a_class_that_is_there_takes_it_in():
    assert merge_of(("sandal",), "trainer", LIST) == Merge(("sandal", "trainer"), "trainer")
    assert merge_of(("sandal", "boot"), "boot", LIST) == Merge(("sandal", "boot"), "boot")
    assert merge_of(("sandal", "boot"), "shoe", LIST) == Merge(("sandal", "boot"), "shoe")


def test_many_names_are_told_in_a_sentence_that_ends():
    assert describe(Merge(tuple(map(str, range(5000))), "x")).endswith("'9' and 4990 more into 'x'")


def test_answers_are_carried_over_as_far_as_that_is_exact():
    listed = f"{1:064x}"
    changes = (
        Rename("boot", "high boot"),
        Merge(("sneaker", "trainer"), "sneaker"),
        Split("sandal", ("mule",), "sandal", {listed: "mule"}),
        Rename("mule", "clog"),
    )
    assert [carried(name, changes).name for name in ("boot", "sneaker", "trainer")] == [
        "high boot",
        "sneaker",
        "sneaker",
    ]
    assert carried("sandal", changes, listed).name == "clog"
    held = carried("sandal", changes, f"{2:064x}")
    assert held.name is None
    assert "split into 'sandal', 'mule', and this image is not in the list" in held.why
    assert carried("sandal", changes[3:], f"{2:064x}").name == "sandal"  # it was given after the split


def test_a_champion_knows_the_classes_that_are_made_of_its_own_and_nothing_else():
    changes = (
        Rename("boot", "high boot"),
        Merge(("sneaker", "trainer"), "sport"),
        Split("sandal", ("mule",), "sandal", {}),
        Add("clog"),
        Merge(("high boot", "clog"), "high boot"),
    )
    first = Translation.of(LIST, ("high boot", "sandal", "sport", "mule"), changes[:3])
    assert first.whole == {"high boot": ("boot",), "sport": ("sneaker", "trainer")}
    assert first.places() == [0, -1, 2, 2]
    assert not first.trivial
    assert first.describe() == (
        "'boot' counts as 'high boot'; 'sneaker', 'trainer' count as 'sport'; 'sandal' is no class any more; "
        "it does not know 'sandal', 'mule'"
    )
    # An added class made 'high boot' another one: what the champion answers still counts as it, but is not compared.
    grown = Translation.of(LIST, ("high boot", "sandal", "sport", "mule"), changes)
    assert "high boot" not in grown.whole
    assert grown.places() == [0, -1, 2, 2]
    assert first.inverse().whole == {"boot": ("high boot",)}


def test_without_changes_a_list_is_read_by_name_and_new_classes_are_unknown():
    plain = Translation.of(LIST, (*LIST, "clog"), ())
    assert plain.trivial
    assert plain.places() == [0, 1, 2, 3]
    assert plain.as_json() == {"changed": {}, "unknown": ["clog"]}


def test_a_name_comes_back_only_with_its_own_meaning():
    changes = (Rename("boot", "high boot"), Merge(("sneaker", "trainer"), "sneaker"))
    assert "became 'high boot'" in (name_in_use("boot", Add("boot"), changes) or "")
    assert name_in_use("boot", Rename("high boot", "boot"), changes) is None
    assert "became 'sneaker'" in (name_in_use("trainer", Rename("sandal", "trainer"), changes) or "")
    assert name_in_use("trainer", Split("sneaker", ("trainer",), "sneaker", {}), changes) is None
    assert name_in_use("clog", Add("clog"), changes) is None
    assert former_names(["high boot"], changes) == {"boot", "high boot"}


def test_the_history_comes_back_from_its_files_with_what_splits_list(tmp_path):
    path = tmp_path / "data" / "manifest.parquet"
    assert ClassHistory.read(path) == ClassHistory()
    history = ClassHistory().displayed("boot", "Stiefel").displayed("sandal", "x").displayed("sandal", "")
    changes = [
        Add("clog"),
        Rename("boot", "high boot"),
        Merge(("sneaker", "trainer"), "sport"),
        Split("sandal", ("mule",), "sandal", {f"{n:064x}": "mule" for n in range(3)}),
    ]
    for change in changes:
        history = history.after(change, now=NOW, by="ada")
    assert history.display == {"high boot": "Stiefel"}
    history.write(path)
    assert ClassHistory.read(path) == history
    first = (path.with_name("classes.json").read_bytes(), path.with_name("class_splits.parquet").read_bytes())
    ClassHistory.read(path).write(path)
    assert (path.with_name("classes.json").read_bytes(), path.with_name("class_splits.parquet").read_bytes()) == first
    path.with_name("class_splits.parquet").unlink()
    assert len(ClassHistory.read(path, images=False).changes) == 4
    for damaged in ("{", json.dumps({"changes": [{"kind": "swap", "at": "", "by": ""}], "display": {}})):
        path.with_name("classes.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(IntegrityError, match="damaged"):
            ClassHistory.read(path, images=False)


def test_the_history_refuses_a_name_that_meant_something_else():
    history = ClassHistory().after(Rename("boot", "high boot"), now=NOW, by="ada")
    with pytest.raises(ConfigurationError, match="was a class before and became 'high boot'"):
        history.after(Add("boot"), now=NOW, by="ada")
    assert len(history.after(Rename("high boot", "boot"), now=NOW, by="ada").changes) == 2


def test_display_names_are_bounded_and_of_visible_characters():
    assert checked_display_name("  Stiefel & <b>Co</b> ") == "Stiefel & <b>Co</b>"  # whoever shows it escapes it
    assert checked_display_name("می\u200cخواهم") == "می\u200cخواهم"
    for wrong in ("", " ", "x" * 101, "a\nb", "a\x1bb", "a\u202eb"):
        with pytest.raises(ConfigurationError):
            checked_display_name(wrong)
    assert shown_name("n02", {"n02": "Dog"}) == "Dog (n02)"
    assert shown_name("cat", {"n02": "Dog"}) == "cat"
