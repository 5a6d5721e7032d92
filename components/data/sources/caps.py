"""How much an archive may hold, counted over everything that lies inside it."""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import DataError

MEBIBYTE = 1024 * 1024
_ALWAYS_ALLOWED = 64 * MEBIBYTE  # unpacked bytes that are let pass at any ratio: they cannot fill anything


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Where an archive is refused as a whole, all archives inside it counted with it.

    max_ratio: unpacked bytes for each packed one. max_nesting: archives inside the source that are opened, one within
    the other; max_name_characters: of all names together, since names are what a listing keeps in memory.
    """

    max_entries: int = 2_000_000
    max_total_bytes: int = 256 * 1024**3
    max_ratio: float = 200.0
    max_nesting: int = 1
    max_name_characters: int = 256 * MEBIBYTE


class DamagedArchive(DataError):  # noqa: N818 - a verdict on one archive; inside another one it costs only itself
    """An archive that cannot be listed."""


class Allowance:
    """What the archives of one source may still take; every one inside another takes from the same."""

    def __init__(self, caps: ArchiveLimits) -> None:
        self.caps = caps
        self._packed = 0
        self._allowed = 0
        self._entries = 0
        self._characters = 0
        self._listed = 0
        self._unpacked = 0

    def admit(self, packed: int) -> None:
        """Count an archive of `packed` bytes that lies in no other one: what may be unpacked grows with it."""
        self._packed += packed
        self._allowed += max(int(self.caps.max_ratio * packed), _ALWAYS_ALLOWED)

    def check_entries(self, name: str, announced: int) -> None:
        """Raise DataError if the archive called `name` announces more files than may still come."""
        if self._entries + announced > self.caps.max_entries:
            raise DataError(
                f"{name} holds {announced} files; at most {self.caps.max_entries} are read from one source; split it"
            )

    def take_entry(self, name: str, member: str) -> None:
        """Count one file, folder or link that an archive lists."""
        self._entries += 1
        self._characters += len(member)
        if self._entries > self.caps.max_entries:
            raise DataError(
                f"{name} holds more files than the {self.caps.max_entries} that are read from one source; split it"
            )
        if self._characters > self.caps.max_name_characters:
            raise DataError(
                f"{name}: its {self._entries} names have more than {self.caps.max_name_characters} characters; split it"
            )

    def take_listed(self, name: str, size: int) -> None:
        """Count the `size` bytes of an archive's usable files together. Raises DataError beyond the caps."""
        self._listed += size
        if self._listed > self.caps.max_total_bytes:
            raise DataError(
                f"{name} holds {self._listed} bytes; at most {self.caps.max_total_bytes} bytes are read from one "
                "source; split it"
            )
        self._check_bomb(name, self._listed)

    def take_unpacked(self, name: str, size: int) -> None:
        """Count `size` bytes that are about to be written to a temporary file. Raises DataError beyond the caps."""
        self._unpacked += size
        self._check_bomb(name, self._unpacked)

    def begin_again(self) -> None:
        """Count from nothing: what was listed once is now opened a second time, to be read."""
        self._entries = self._characters = self._listed = self._unpacked = 0

    def _check_bomb(self, name: str, taken: int) -> None:
        most = min(self.caps.max_total_bytes, self._allowed)
        if taken > most:
            raise DataError(f"{name} unpacks to more than {most} bytes from {self._packed}; refused as a bomb")
