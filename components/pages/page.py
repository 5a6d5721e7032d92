"""Pages for people: one file each, no scripts, readable without a network, names from outside as text only."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from components.data.files import publish, unpublished

THUMBNAIL_SIDE = 96  # pixels
Filter = Callable[..., Any]


def page_environment(package: str, filters: Mapping[str, Filter] | None = None) -> Environment:
    """Return the templates of `package` (its folder `templates`), which may extend `page.html` of this one.

    A template that extends it may set `style_file`, a further style sheet of its own.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("components.pages", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"source_hash": _source_hash, **(filters or {})}
    return environment


def write_page(page: str, path: Path) -> None:
    """Write a rendered page to `path`, in the place of an older one."""
    with unpublished(path.parent) as (file, temporary):
        # A class may be named after a folder whose name is not valid Unicode.
        file.write(page.encode("utf-8", "backslashreplace"))
        publish(file, temporary, path)


def data_uri(image: Image.Image) -> str:
    """Return an image (mode "L" or "RGB") as a picture of at most 96 pixels a side, in a data URI."""
    kind = "png" if max(image.size) <= THUMBNAIL_SIDE else "jpeg"
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, kind.upper())
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _source_hash(text: str) -> str:
    """Return a Content-Security-Policy source that allows exactly this inline style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
