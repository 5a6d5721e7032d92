"""Which shards were written anew without some of their images: a small committed file beside the manifest.

Old versions name shards that may be gone. Whoever restores one follows this file to the shard that holds the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.data.files import publish, unpublished
from components.errors import IntegrityError

REPLACED_FILE = "replaced.json"


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stands for a shard: `by` (None: it held nothing else), and the images that it held and `by` does not."""

    by: str | None
    without: frozenset[str]


@dataclass(frozen=True, slots=True)
class Replacements:
    """All of them, by the name of the shard that was replaced. A replacement may itself have been replaced later."""

    shards: Mapping[str, Replacement] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, where: str) -> Replacements:
        """Return what the file's text says; None is an absent file. Raises IntegrityError if it is damaged."""
        if text is None:
            return cls()
        try:
            shards = json.loads(text)["shards"]
            return cls({name: Replacement(one["by"], frozenset(one["without"])) for name, one in shards.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{where} is damaged ({error!r}); restore it with git: old versions need it"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Replacements:
        """Return what the file at `path` says; an absent one says nothing. Raises IntegrityError if it is damaged."""
        return cls.parse(path.read_text(encoding="utf-8") if path.is_file() else None, str(path))

    def write(self, path: Path) -> None:
        """Store the file at `path`, whole or not at all."""
        shards = {
            name: {"by": one.by, "without": sorted(one.without)} for name, one in sorted(self.shards.items())
        }  # fmt: skip
        with unpublished(path.parent) as (file, temporary):
            file.write((json.dumps({"shards": shards}, indent=1) + "\n").encode())
            publish(file, temporary, path)

    def with_one(self, shard: str, by: str | None, without: Collection[str]) -> Replacements:
        """Return these and one more."""
        return Replacements({**self.shards, shard: Replacement(by, frozenset(without))})

    def final(self, shard: str) -> tuple[str | None, frozenset[str]]:
        """Return the shard that stands for `shard` now (itself, or None), and the images lost on the way.

        Every replacement holds fewer images than what it stands for, so the way ends; one that does not is damage.
        """
        lost: frozenset[str] = frozenset()
        name: str | None = shard
        passed = set()
        while name is not None and name in self.shards:
            if name in passed:
                raise IntegrityError(f"{REPLACED_FILE}: {name} stands for itself; restore the file with git")
            passed.add(name)
            lost |= self.shards[name].without
            name = self.shards[name].by
        return name, lost
