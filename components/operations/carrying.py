"""What models and people said under older class lists, in the words of the newest one; and how classes are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from components.data.ingestion.class_changes import Carried, ClassChange, Translation, carried
from components.data.ingestion.class_history import ClassHistory, changes_at
from components.data.label_sets import decode, encode
from components.data.manifest import Manifest
from components.data.versioning.versions import past_checkout
from components.operations.services import Services
from components.params import Params
from components.records import ModelVersion
from components.store import champions
from components.store.labelling import SettledLabel
from components.store.queues.audit_queue import SettledDoubt


class OlderLists:
    """The class lists of registered models, against that of the dataset version checked out at `root`.

    A model answers the list of the dataset version it was trained on; what changed since is committed beside the
    manifest. A dataset version that the repository does not know is taken to have had the list of today.
    """

    def __init__(
        self, services: Services, root: Path, params: Params, history: ClassHistory, classes: Sequence[str]
    ) -> None:
        self._services = services
        self._root = root
        self._manifest = params.paths.manifest
        self._several = params.data.several
        self._changes = history.changes
        self._classes: Collection[str] = frozenset(classes)
        self._list = tuple(classes)
        self._since: dict[str, Sequence[ClassChange]] = {}
        self._versions: dict[int, str] = {}

    def changes_since(self, dataset_version: str) -> Sequence[ClassChange]:
        """Return what changed in the class list after a dataset version, oldest first."""
        found = self._since.get(dataset_version)
        if found is None:
            known = changes_at(self._root, dataset_version, self._manifest) if self._changes else 0
            found = self._since[dataset_version] = self._changes[len(self._changes) if known is None else known :]
        return found

    def carry(self, label: SettledLabel | SettledDoubt) -> Carried:
        """Return the class, or the set of labels, that a verdict is now, or why that cannot be told."""
        if not self._several:
            return self._carry_name(label.answer, label)
        names = []
        for name in decode(label.answer):
            found = self._carry_name(name, label)
            if found.name is None:
                return found
            names.append(found.name)
        return Carried(encode(names))

    def _carry_name(self, name: str, label: SettledLabel | SettledDoubt) -> Carried:
        found = carried(name, self.changes_since(self._list_of(label)), label.image_id)
        if found.name is not None and found.name not in self._classes:
            return Carried(None, f"{found.name!r} is not in the class list")
        return found

    def _list_of(self, label: SettledLabel | SettledDoubt) -> str:
        """Return the dataset version whose class list a verdict was given under."""
        if isinstance(label, SettledDoubt):
            return label.dataset_version
        version = self._versions.get(label.model_version)
        if version is None:
            version = champions.model(self._services.database, label.model_version).dataset_version
            self._versions[label.model_version] = version
        return version

    def translation(self, model: ModelVersion) -> Translation:
        """Return how the model's class list reads in today's."""
        return Translation.of(model.classes, self._list, self.changes_since(model.dataset_version))


def older_lists(services: Services, root: Path, params: Params, *, images: bool = True) -> OlderLists:
    """Return the older lists against the dataset checked out at `root`; images: also those that splits list."""
    path = root / params.paths.manifest
    return OlderLists(services, root, params, ClassHistory.read(path, images=images), Manifest.classes_at(path))


def translation_between(services: Services, before: ModelVersion, after: ModelVersion) -> Translation:
    """Return how one registered model's class list reads in another's, a later one or an earlier one."""
    workspace = services.workspace
    manifest = workspace.params.paths.manifest
    with past_checkout(origin=workspace.origin, state=workspace.state, commit="origin/main", targets=()) as root:
        changes = ClassHistory.read(root / manifest, images=False).changes
        first, last = (changes_at(root, model.dataset_version, manifest) for model in (before, after))
    if first is None or last is None:
        return Translation.of(before.classes, after.classes, ())
    if first <= last:
        return Translation.of(before.classes, after.classes, changes[first:last])
    return Translation.of(after.classes, before.classes, changes[last:first]).inverse()


def display_names(services: Services) -> Mapping[str, str]:
    """Return the display names of classes, by name, as the visible folder has them."""
    workspace = services.workspace
    return ClassHistory.read(workspace.root / workspace.params.paths.manifest, images=False).display
