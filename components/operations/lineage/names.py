"""What a person may call an image, a prediction, a model or a dataset version on the command line."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.data.manifest import ids_from
from components.data.quarantine.register import Register
from components.errors import ConfigurationError, DataError
from components.operations.lineage.past import Past
from components.operations.services import Services
from components.store import lineage

Kind = Literal["image", "prediction", "model", "dataset"]

LEAST_DIGITS = 12
_DATASET = re.compile(r"data/\d{4}-\d{2}-\d{2}-\d+")
_MODEL = re.compile(r"\d{1,9}")
_DIGITS = re.compile(r"[0-9a-fA-F]{12,64}")
_ITEM = re.compile(r"(?P<batch>.+):(?P<item>\d{1,9})", re.DOTALL)
_SAID = re.compile(r"(image|prediction|model|dataset|file):(.+)", re.DOTALL)
_FORMS = (
    f"an image id or its first {LEAST_DIGITS} or more digits, BATCH:ITEM, model:3, data/2026-11-22-1, or an image file"
)


@dataclass(frozen=True, slots=True)
class Named:
    """One thing that was asked about. id: an image id, a batch id, a model's number or a tag. item_no: in a batch."""

    kind: Kind
    id: str
    item_no: int | None = None

    def __str__(self) -> str:
        """Return the form that always means this."""
        return f"{self.kind}:{self.id}" + ("" if self.item_no is None else f":{self.item_no}")


def find(services: Services, past: Past, text: str) -> Named:
    """Return what `text` names.

    `data/2026-11-22-1` is a dataset version; `model:3` or `3` a model; 12 to 64 hexadecimal digits an image;
    `BATCH:ITEM` a prediction, items counted from 0, the batch's id whole or its first 12 and more characters; anything
    else a file, whose bytes are the image. `image:`, `prediction:`, `model:`, `dataset:` or `file:` in front says which
    is meant. Raises ConfigurationError for text that is none of these, or digits that begin several ids, and DataError
    where there is no such image or batch.
    """
    said = _SAID.fullmatch(text)
    if said is not None and not (said[1] == "model" and _MODEL.fullmatch(said[2]) is None):
        return _as_said(services, past, said[1], said[2])
    if _DATASET.fullmatch(text):
        return Named("dataset", text)
    if _MODEL.fullmatch(text):
        return Named("model", text)
    if _DIGITS.fullmatch(text):
        return Named("image", image_id_of(services, past, text))
    item = _ITEM.fullmatch(text)
    if item is not None and not Path(text).is_file():
        return _prediction(services, item["batch"], int(item["item"]), text)
    return Named("image", _hashed(Path(text), text))


def image_id_of(services: Services, past: Past, text: str) -> str:
    """Return the id of the known image that begins with `text`, or is `text`, or is the file `text`'s.

    Raises ConfigurationError, naming them, where several do; DataError where no version and no prediction has it.
    """
    if not _DIGITS.fullmatch(text):
        text = _hashed(Path(text), text)
    prefix = text.lower()
    found: set[str] = set()
    if past.versions:  # rows are never taken out of a manifest, so the newest one knows every image
        found.update(ids_from(past.objects.file(past.newest.manifest), prefix, lineage.MOST_MATCHES))
    found.update(_set_aside(services, prefix))
    if len(prefix) < 64:
        found.update(lineage.scored_images_from(services.database, prefix))
    elif not found and lineage.predictions_of(services.database, [prefix]):
        found.add(prefix)
    if len(found) > 1:
        raise ConfigurationError(f"{text} begins {len(found)} or more image ids: {', '.join(sorted(found))}; say more")
    if not found:
        raise DataError(f"image {text} is unknown: it was neither ingested nor scored here")
    return found.pop()


def _set_aside(services: Services, prefix: str) -> set[str]:
    """Return the images that were set aside without a row of their own, as the visible folder has them."""
    workspace = services.workspace
    register = Register.read(workspace.root / workspace.params.paths.manifest)
    return {name for name in register.table["image_id"].to_pylist() if name is not None and name.startswith(prefix)}


def _as_said(services: Services, past: Past, kind: str, text: str) -> Named:
    if kind == "dataset":
        return Named("dataset", text)
    if kind == "model":
        return Named("model", text)
    if kind == "prediction":
        item = _ITEM.fullmatch(text)
        if item is None:
            raise ConfigurationError(f"prediction:{text} names no item; write prediction:BATCH:ITEM")
        return _prediction(services, item["batch"], int(item["item"]), text)
    if kind == "file":
        return Named("image", _hashed(Path(text), text))
    return Named("image", image_id_of(services, past, text))


def _prediction(services: Services, batch: str, item_no: int, text: str) -> Named:
    if lineage.batch_count(services.database, batch) is not None:
        return Named("prediction", batch, item_no)
    begun = lineage.batches_from(services.database, batch) if len(batch) >= LEAST_DIGITS else []
    if len(begun) > 1:
        raise ConfigurationError(f"{batch} begins several batches: {', '.join(begun)}; say more of it")
    if not begun:
        raise DataError(f"{text}: there is no batch {batch!r} here; `perennial score` prints the id of each")
    return Named("prediction", begun[0], item_no)


def _hashed(path: Path, text: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{text!r} is neither a readable file nor {_FORMS}") from error
