"""The files of a folder or an archive and of the archives in it, in an order that never changes, with their labels.

Everything is listed before the first file is read: labels depend on all names, and caps have to be kept by the whole
tree. Archives in the tree are therefore opened twice, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from components.data.decoding.decode import ImageLimits
from components.data.sources.archives import archive_stem, is_archive, opened_archive
from components.data.sources.boxes import Box, Member
from components.data.sources.caps import Allowance, ArchiveLimits, DamagedArchive
from components.data.sources.columns import ColumnNames
from components.data.sources.item import SourceEntry, ignored, looks_like_image, nothing_to_read, printable
from components.data.sources.layout import Folder, Layout, folder_of
from components.data.sources.listed import name_of_row, problem_of_row
from components.data.sources.lists import ListedImage, read_list
from components.errors import DataError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True, slots=True)
class _Within:
    """Where the files of an archive count as lying: in `folder`, without the first `strip` of their own folders."""

    folder: Folder = ()
    strip: int = 0

    def of(self, name: str) -> Folder:
        """Return the folders that the file called `name` in that archive counts as lying in."""
        return self.folder + folder_of(name)[self.strip :]


@dataclass(slots=True)
class _Nested:
    """An archive in the tree, with the folders that its images, and all its files, count as lying in."""

    member: Member
    within: _Within
    images: set[Folder]
    all: set[Folder]

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def place(self) -> int:
        return self.member.place


_Node = Member | _Nested


class Tree:
    """What a box holds. unwrap: whether a single folder around everything is passed over; names: a list's columns.

    admitted: whether `box` is itself an archive, whose size `allowance` has admitted.
    """

    def __init__(
        self, box: Box, name: str, limits: ImageLimits, allowance: Allowance, names: ColumnNames, *, admitted: bool
    ) -> None:
        self._box = box
        self._name = name
        self._limits = limits
        self._allowance = allowance
        self._names = names
        self._admitted = admitted

    def entries(self) -> Iterator[SourceEntry]:
        """Yield every file, by name; those inside an archive in its place, as ARCHIVE/NAME.

        Where a metadata.csv, .jsonl or .parquet lies at the top (or in a split's folder), first the files it names, by
        name, as it labels them, then those it does not name. Raises DataError for a box that cannot be listed or
        exceeds the allowance.
        """
        nodes = self._listed(self._box, self._name, 0)
        self._allowance.begin_again()
        layout = Layout(_telling(nodes), unwrap=self._admitted)
        lists = [
            node for node in nodes
            if isinstance(node, Member) and _may_be_list(node) and layout.holds_lists(folder_of(node.name))
        ]  # fmt: skip
        if lists:
            yield from self._by_lists(nodes, lists, layout)
        elif self._names.given():
            raise DataError(f"{self._name} holds no {', '.join(METADATA)}; --column is for the columns of a list")
        else:
            yield from self._walk(self._box, nodes, "", _Within(), layout)

    def _listed(self, box: Box, name: str, depth: int) -> list[_Node]:
        nodes: list[_Node] = []
        usable = 0
        for member in box.members():
            if member.problem is not None:
                nodes.append(member)
            elif is_archive(member.name) and not ignored(member.name):
                nodes.append(self._nested(box, member, f"{name}/{member.name}", depth))
            elif not ignored(member.name):
                if member.size is not None and member.size > self._limits.max_bytes and not _may_be_list(member):
                    member.problem = "too-many-bytes"
                else:
                    usable += member.size or 0
                nodes.append(member)
        if self._admitted or depth:
            self._allowance.take_listed(name, usable)
        nodes.sort(key=lambda node: (node.name, node.place))
        return nodes

    def _nested(self, box: Box, member: Member, name: str, depth: int) -> _Node:
        if depth >= self._allowance.caps.max_nesting:
            member.problem = "nested-archive"
            return member
        try:
            with self._opened(box, member, name, depth) as inner:
                images, everything = _folders(self._listed(inner, name, depth + 1))
        except DamagedArchive:
            member.problem = "unreadable"
            return member
        told = images or everything
        folder = folder_of(member.name)
        if told <= {()}:  # nothing but files: it is a folder of its own name
            folder += (archive_stem(member.name.rpartition("/")[2]),)
        strip = 1 if Layout(told, unwrap=True).wrapper else 0
        return _Nested(member, _Within(folder, strip), images, everything)

    @contextmanager
    def _opened(self, box: Box, member: Member, name: str, depth: int) -> Iterator[Box]:
        with box.open(member) as file:
            if not self._admitted and depth == 0:
                self._allowance.admit(file.seek(0, 2))
            with opened_archive(file, name, self._allowance) as inner:
                yield inner

    def _walk(
        self, box: Box, nodes: list[_Node], shown: str, within: _Within, layout: Layout | None, depth: int = 0
    ) -> Iterator[SourceEntry]:
        """Yield the files of one box; without a layout, unlabelled. `nodes` is emptied on the way: a million weigh."""
        nodes.reverse()
        while nodes:
            node = nodes.pop()
            if isinstance(node, _Nested):
                name = f"{self._name}/{shown}{node.name}"
                inside = _Within(within.folder + node.within.folder[within.strip :], node.within.strip)
                with self._opened(box, node.member, name, depth) as inner:
                    listed = self._listed(inner, name, depth + 1)
                    yield from self._walk(inner, listed, f"{shown}{node.name}/", inside, layout, depth + 1)
                continue
            label = None
            if layout is not None and node.problem != "unsafe-path":
                label = layout.label(within.of(node.name))
            read = partial(box.read, node, self._limits.max_bytes)
            name = printable(shown + node.name)
            yield SourceEntry(
                name, read, node.size, label, problem=node.problem, stamp=node.stamp, apart=box.apart
            )  # fmt: skip

    def _by_lists(self, nodes: list[_Node], lists: list[Member], layout: Layout) -> Iterator[SourceEntry]:
        members = {_normal(node.name): node for node in nodes if isinstance(node, Member)}
        named: set[str] = {_normal(node.name) for node in lists}
        labelled = False
        for node in lists:
            with self._box.open(node) as file:
                images = read_list(file, f"{self._name}/{node.name}", self._names)
            labelled = labelled or images.labelled
            place = layout if not images.labelled else None
            folder = node.name.rpartition("/")[0]
            for image in images:
                path = f"{folder}/{image.path}" if folder else image.path
                named.add(_normal(path))
                yield self._of_row(image, members.get(_normal(path)), f"{self._name}/{node.name}", path, place)
        rest = [node for node in nodes if _normal(node.name) not in named]
        yield from self._walk(self._box, rest, "", _Within(), None if labelled else layout)

    def _of_row(
        self, image: ListedImage, member: Member | None, list_name: str, path: str, layout: Layout | None
    ) -> SourceEntry:
        missing = "missing-file" if member is None else member.problem
        read = nothing_to_read if member is None else partial(self._box.read, member, self._limits.max_bytes)
        return SourceEntry(
            name_of_row(image, list_name, path), read, None if member is None else member.size,
            image.label if layout is None else layout.label(folder_of(path)), image.group, image.captured_at,
            problem_of_row(image) or missing, stamp=None if member is None else member.stamp, annotator=image.annotator,
            apart=self._box.apart,
        )  # fmt: skip


def archive_entries(
    file: BinaryIO, name: str, limits: ImageLimits, caps: ArchiveLimits, names: ColumnNames
) -> Iterator[SourceEntry]:
    """Yield the files in an archive (open for reading, seekable) called `name`, and in the archives in it.

    Links, devices, names that would leave a folder, encrypted, oversized or damaged members, and archives nested too
    deeply come as entries with a `problem`. Raises DataError for an archive that cannot be listed or exceeds `caps`.
    """
    allowance = Allowance(caps)
    allowance.admit(file.seek(0, 2))
    with opened_archive(file, name, allowance) as box:
        yield from Tree(box, name, limits, allowance, names, admitted=True).entries()


def folder_entries(
    box: Box, name: str, limits: ImageLimits, caps: ArchiveLimits, names: ColumnNames
) -> Iterator[SourceEntry]:
    """Yield the files in a folder called `name`, and in the archives in it, whose sum is bounded by `caps`."""
    yield from Tree(box, name, limits, Allowance(caps), names, admitted=False).entries()


def _may_be_list(member: Member) -> bool:
    return member.problem is None and member.name.rpartition("/")[2].lower() in METADATA


def _normal(name: str) -> str:
    """Return a file's name as a list may write it otherwise: without "." and empty parts."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _folders(nodes: list[_Node]) -> tuple[set[Folder], set[Folder]]:
    """Return the folders that images count as lying in, and those of all usable files."""
    usable = [node.name for node in nodes if isinstance(node, Member) and node.problem is None]
    images = {folder_of(inside) for inside in {_inside(name) for name in usable if looks_like_image(name)}}
    everything = {folder_of(inside) for inside in {_inside(name) for name in usable}}
    for node in nodes:
        if isinstance(node, _Nested):
            base, strip = node.within.folder, node.within.strip
            images |= {base + folder[strip:] for folder in node.images}
            everything |= {base + folder[strip:] for folder in node.all}
    return images, everything


def _inside(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _telling(nodes: list[_Node]) -> set[Folder]:
    """Return the folders that show the shape: of the images, so that no README beside the classes hides it."""
    images, everything = _folders(nodes)
    return images or everything
