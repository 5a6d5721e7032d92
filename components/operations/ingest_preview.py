"""What an ingest would bring in: nothing is changed, locked, cloned or fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.data.decoding.decode import ImageLimits
from components.data.decoding.isolation import IsolatedDecoder
from components.data.ingestion.class_list import agreed_classes
from components.data.manifest import Manifest
from components.data.sources.columns import ColumnNames
from components.data.sources.opening import list_source
from components.data.sources.preview import preview
from components.operations.workspace import Workspace


def preview_source(
    workspace: Workspace, spec: str, *, add_classes: Sequence[str] = (), columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what `ingest_source` would find in the source `spec`, by the parameters and the manifest as they lie here.

    `class_list`: the one that would be in force; `refused`: why the ingest would be refused, or None. Raises
    ConfigurationError for an unknown source, column or class, DataError for a source that cannot be listed.
    """
    limits = ImageLimits.of(workspace.params.data)
    path = workspace.root / workspace.params.paths.manifest
    manifest = Manifest.read(path) if path.exists() else Manifest.empty()
    classes = agreed_classes(manifest.classes, workspace.params.data.classes, add_classes)
    finding = not manifest.classes and not workspace.params.data.classes  # the first labels make the list
    several = workspace.params.data.several
    names = ColumnNames.parse(columns, several=several)
    entries = list_source(spec, limits=limits, cache=workspace.state / "cache", columns=names, fetch=False)
    with IsolatedDecoder.of(workspace.params.data) as decoder:
        found = preview(entries, classes=None if finding else classes, decoder=decoder, several=several)
    return {
        "source": spec,
        "dry_run": True,
        "class_list": sorted({*classes, *found.classes}) if finding else list(classes),
        "refused": _refused(found.unknown),
        **found.as_json(),
    }


def _refused(unknown: Sequence[Any] | None) -> str | None:
    if not unknown:
        return None
    many = "1 label is" if len(unknown) == 1 else f"{len(unknown)} labels are"
    return f"{many} not in the class list; correct what is misspelt, add what is new with --add-class"
