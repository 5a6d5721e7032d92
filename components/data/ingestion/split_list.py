"""The list that says which images of a class go where when it is split: read, and matched with the manifest."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc

from components.data.ingestion.class_changes import Split
from components.data.ingestion.class_list import checked_class_name, unknown_class
from components.data.manifest import Manifest
from components.data.sources.item import printable
from components.errors import DataError, RefusedError

COLUMNS = ("image", "class")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5


def read_split_list(path: Path) -> dict[str, str]:
    """Return the new class of every image in a CSV file with the columns image and class; image: its id or file name.

    Raises DataError, naming file and row, for a file that is not one, and an image that is listed under two classes.
    """
    listed: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            if sorted(header) != sorted(COLUMNS):
                raise DataError(f"{path}:1: columns are {header}; needed are {' and '.join(COLUMNS)}, no others")
            image_at, class_at = header.index("image"), header.index("class")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if not cells:
                    continue
                if len(cells) != 2 or not cells[image_at].strip():
                    raise DataError(f"{where}: {cells!r} is not an image and its class; write both")
                image, name = cells[image_at].strip(), checked_class_name(cells[class_at].strip(), where)
                if listed.setdefault(image, name) != name:
                    raise DataError(f"{where}: {image!r} is {listed[image]!r} further up, and {name!r} here; keep one")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name the file with the columns image and class") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8 ({error}); save it again") from error
    if not listed:
        raise DataError(f"{path} lists no image; write a row for each that changes its class")
    return listed


def split_by(manifest: Manifest, name: str, listed: dict[str, str], rest: str | None) -> Split:
    """Return the split of `name` that a list asks for. rest: class of the images not in it; None: `name` itself.

    Ids of images that are not in the manifest stay in the split: answers about them may come later. Raises
    ConfigurationError for a class that is not there, DataError for a file name that is not, or belongs to several
    images, and for an image of another class; RefusedError where an image of the frozen test set is not listed.
    """
    _require_divisible(manifest, name)
    columns = ("image_id", "name", "label", "split", "state")
    table = manifest.table.select(columns).filter(pc.equal(manifest.table["label"], name))
    rows = list(zip(*(table[column].to_pylist() for column in columns), strict=True))
    by_name: dict[str, list[str]] = {}
    for image_id, file_name, *_ in rows:
        by_name.setdefault(file_name, []).append(image_id)
    ours = {row[0] for row in rows}
    known = None
    images: dict[str, str] = {}
    wrong: list[str] = []
    for image, part in listed.items():
        found = by_name.get(image, [])
        if image in ours:
            image_id = image
        elif len(found) == 1:
            image_id = found[0]
        elif found:
            wrong.append(f"{printable(image)!r} names {len(found)} images, give their ids")
            continue
        elif _IMAGE_ID.fullmatch(image):
            known = known or set(manifest.table["image_id"].to_pylist())
            if image in known:
                wrong.append(f"{image[:12]}… is not labelled {name!r}")
                continue
            image_id = image
        else:
            wrong.append(f"no image labelled {name!r} came as {printable(image)!r}")
            continue
        if images.setdefault(image_id, part) != part:
            wrong.append(
                f"{printable(image)!r} is listed by its id under {images[image_id]!r}, by its name under {part!r}"
            )
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(f"the list does not fit the data: {'; '.join(wrong[:_SHOWN])}{more}")
    missing = [r[0] for r in rows if r[3] == "frozen_test" and r[4] == "active" and r[0] not in images]
    if missing:
        raise RefusedError(
            f"{len(missing)} images labelled {name!r} in the frozen test set are not in the list (the first is "
            f"{missing[0]}); what they are now cannot be guessed: list all of them"
        )
    left = any(row[0] not in images for row in rows if row[4] in ("active", "held"))
    return Split(name, _in_order(images.values(), name), (rest or name) if left else None, images)


def _require_divisible(manifest: Manifest, name: str) -> None:
    if name not in manifest.classes:
        raise unknown_class(name, manifest.classes)
    if manifest.several:
        raise RefusedError(
            f"class {name!r} cannot be split where images carry several labels; add the new classes, and ingest a list "
            "of its images with the labels they are to have"
        )


def _in_order(parts: Iterable[str], name: str) -> tuple[str, ...]:
    """Return the classes in alphabetical order, the one that keeps its name first."""
    return tuple(sorted(set(parts), key=lambda part: (part != name, part)))
