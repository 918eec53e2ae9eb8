"""What a disk may hold after the power was cut, for each moment of a record of changes.

The rules: what was synced is there. Of a file written and not synced since, the disk has what it had at the last sync,
or a beginning of what came after, or zeros of the right length, or all. Of the entries of a folder that changed since
the folder was synced, any may be there and any not, in whatever order they were made; a rename is one such change, of
the folder it goes to, and never half done. Real file systems are kinder than this.

Only moments just before a sync and at marks are looked at: what may be there at any other moment may be there then too.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from tests.faults.watched_files import Change, Record

Tree = tuple[tuple[str, bytes | None], ...]  # path -> content; None: a folder
Names = dict[int, dict[str, int]]
ENTRY_KINDS = ("link", "unlink", "rename")


@dataclass
class Moment:
    """A cut of power, and what may be there then."""

    number: int  # among the changes
    after: str  # the newest mark
    trees: list[Tree]
    is_exhaustive: bool


@dataclass
class Disk:
    """What is safely there, and what is on its way."""

    names: Names
    contents: dict[int, bytes]
    folders: frozenset[int]
    pending: list[Change] = field(default_factory=list)  # of entries
    ways: dict[int, list[bytes]] = field(default_factory=dict)  # of files: each content on the way, the newest last

    def take(self, change: Change) -> None:
        if change.kind in ENTRY_KINDS:
            self.pending.append(change)
        elif change.kind in ("write", "truncate"):
            self._changed(change)
        elif change.kind == "sync" and change.node in self.folders:
            self._folder_synced(change.node)
        elif change.kind == "sync":
            ways = self.ways.pop(change.node, None)
            if ways:
                self.contents[change.node] = ways[-1]

    def _changed(self, change: Change) -> None:
        ways = self.ways.setdefault(change.node, [self.contents.get(change.node, b"")])
        now = ways[-1]
        if change.kind == "truncate":
            ways.append(now[: change.size].ljust(change.size, b"\0"))
            return
        end = change.offset + len(change.data)
        before = now[: change.offset].ljust(change.offset, b"\0")
        half = len(change.data) // 2
        zeros = before + bytes(len(change.data)) + now[end:]
        partly = before + change.data[:half] + now[change.offset + half :]
        ways += [zeros, partly, before + change.data + now[end:]]

    def _folder_synced(self, folder: int) -> None:
        for change in self.pending:
            if change.folder == folder:
                apply(self.names, change)
        self.pending = [one for one in self.pending if one.folder != folder]
        # What happens in a folder that can never be seen again is of no interest.
        seen = self._visible()
        self.pending = [one for one in self.pending if one.folder in seen]

    def _visible(self) -> set[int]:
        """Nodes that have a name, or had one that a pending change may still have left."""
        seen, todo = set(), [1, *(one.node for one in self.pending if one.kind != "unlink")]
        todo += [one.node for one in self.pending if one.kind == "unlink"]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += self.names.get(node, {}).values()
        return seen

    def trees(self, most: int, rng: random.Random) -> tuple[list[Tree], bool]:
        """What may be there now, as far as a reader can see it: all of it, or `most` by chance and the extremes."""
        seen = self._may_be_seen()
        free = [one for one in self.pending if self._matters(one, seen)]
        files = [
            node for node in self.ways if any(_is_read(name) and folder in seen for folder, name in self._at(node))
        ]
        choices = []
        for node in files:  # also: of all that came since the last sync, the length alone
            ways = self.ways[node]
            choices.append(list(dict.fromkeys([*ways, ways[0].ljust(len(ways[-1]), b"\0")])))
        count = 2 ** len(free)
        for one in choices:
            count *= len(one)
        is_exhaustive = count <= most
        if is_exhaustive:
            return list(dict.fromkeys(self._every_tree(free, dict(zip(files, choices, strict=True))))), True
        found: dict[Tree, None] = {}
        for lost, picked in _some(free, choices, most, rng):
            found[self._tree(lost, dict(zip(files, picked, strict=True)))] = None
        return list(found), False

    def _every_tree(self, free: list[Change], ways: Mapping[int, list[bytes]]) -> Iterator[Tree]:
        """By what lies at which path, then by what those files hold: far fewer than there are ways to get there."""
        reached: dict[frozenset[tuple[int, str, int]], Names] = {frozenset(): _copy(self.names)}
        for change in self.pending:
            before, is_free = list(reached.values()), any(change is one for one in free)
            reached = dict(reached) if is_free else {}
            for names in before:
                changed = _copy(names)
                apply(changed, change)
                reached[frozenset((folder, *entry) for folder in changed for entry in changed[folder].items())] = (
                    changed
                )
        for paths in dict.fromkeys(self._paths(names) for names in reached.values()):
            shown = [node for node in ways if any(node == one for _, one in paths)]
            for picked in product(*(ways[node] for node in shown)):
                yield self._filled(paths, dict(zip(shown, picked, strict=True)))

    def _at(self, node: int) -> set[tuple[int, str]]:
        """Everywhere a node may have its name."""
        places = {(folder, name) for folder, names in self.names.items() for name, one in names.items() if one == node}
        for change in self.pending:
            if change.node == node:
                places |= {(change.folder, change.name), change.source} - {(0, "")}
        return places

    def _may_be_seen(self) -> set[int]:
        """Folders that readers may come to look into."""
        seen, is_more = {1}, True
        places = {node: self._at(node) for node in self.folders}
        while is_more:
            more = {node for node in places.keys() - seen if any(f in seen and _is_read(n) for f, n in places[node])}
            seen |= more
            is_more = bool(more)
        return seen

    @staticmethod
    def _matters(change: Change, seen: set[int]) -> bool:
        """Whether its loss can be seen."""
        places = [(change.folder, change.name), change.source]
        return any(folder in seen and _is_read(name) for folder, name in places)

    def _tree(self, lost: frozenset[int], picked: dict[int, bytes]) -> Tree:
        names = _copy(self.names)
        for change in self.pending:
            if id(change) not in lost:
                apply(names, change)
        return self._filled(self._paths(names), picked)

    def _paths(self, names: Names) -> tuple[tuple[str, int], ...]:
        """What a reader finds, in order; the node at each path."""
        rows = []
        todo = [(1, "")]
        while todo:
            folder, path = todo.pop()
            for name, node in names.get(folder, {}).items():
                if _is_read(name):
                    rows.append((path + name, node))
                    if node in self.folders:
                        todo.append((node, f"{path}{name}/"))
        return tuple(sorted(rows))

    def _filled(self, paths: Iterable[tuple[str, int]], picked: Mapping[int, bytes]) -> Tree:
        return tuple(
            (path, None if node in self.folders else picked[node] if node in picked else self._content(node))
            for path, node in paths
        )

    def _content(self, node: int) -> bytes:
        return self.ways[node][-1] if node in self.ways else self.contents.get(node, b"")


# Names that are overwritten all the time and tell a reader nothing about what was saved.
UNREAD = frozenset({"heartbeat", "run.lock", "worker.lock", "stop.request"})


def _is_read(name: str) -> bool:
    """Whether a reader looks at an entry of that name."""
    return bool(name) and not name.startswith(".") and name not in UNREAD


def _copy(names: Names) -> Names:
    return {folder: dict(entries) for folder, entries in names.items()}


def _some(
    free: list[Change], choices: list[list[bytes]], most: int, rng: random.Random
) -> Iterator[tuple[frozenset[int], tuple[bytes, ...]]]:
    """Each change alone, each one lost, each beginning; then by chance."""
    numbers = [id(one) for one in free]
    every = frozenset(numbers)
    newest, oldest = tuple(one[-2] for one in choices), tuple(one[0] for one in choices)
    for place, number in enumerate([*numbers, 0]):
        for picked in (newest, oldest):
            yield frozenset(numbers[place:]), picked
            yield every - {number}, picked
            yield frozenset({number}), picked
    for _ in range(max(0, most - 6 * (len(free) + 1))):
        share = rng.random()
        lost = frozenset(one for one in numbers if rng.random() < share)
        yield lost, tuple(rng.choice(one) for one in choices)


def apply(names: Names, change: Change) -> None:
    """A change of entries as the disk may have it, whatever became of those before it."""
    entries = names.setdefault(change.folder, {})
    if change.kind == "unlink":
        if entries.get(change.name) == change.node:
            del entries[change.name]
        return
    if change.kind == "rename":
        before = names.setdefault(change.source[0], {})
        if before.get(change.source[1]) == change.node:
            del before[change.source[1]]
    entries[change.name] = change.node


def moments(record: Record, *, most: int, seed: int, unheard: Collection[str] = ()) -> Iterator[Moment]:
    """Every moment at which something may be lost that is not lost at another. `unheard`: "files", "folders"; as if
    those had never been synced."""
    disk = Disk(
        {node: dict(names) for node, names in record.first_entries.items()},
        dict(record.first_contents),
        frozenset(record.entries),
    )
    unread = {one.node for one in record.changes if one.kind == "link" and one.name in UNREAD}
    unread |= {node for names in record.first_entries.values() for name, node in names.items() if name in UNREAD}
    rng = random.Random(seed)
    mark = ""
    for number, change in enumerate([*record.changes, Change("mark", name="the end")]):
        if change.node in unread:
            continue
        if change.kind in ("sync", "mark"):
            trees, is_exhaustive = disk.trees(most, rng)
            yield Moment(number, mark, trees, is_exhaustive)
        if change.kind == "mark":
            mark = change.name
            yield Moment(number, mark, trees, is_exhaustive)
        elif change.kind != "sync" or ("folders" if change.node in disk.folders else "files") not in unheard:
            disk.take(change)


class Laid:
    """Trees laid out on a real disk, one after the other, for real readers; each content is written once."""

    def __init__(self, folder: Path) -> None:
        self._pool = folder / "contents"
        self._pool.mkdir()
        self._known: dict[bytes, Path] = {}
        self._place = folder / "disk"

    def out(self, tree: Tree) -> Path:
        """The folder with the tree; gone when the next one is laid out."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir()
        for path, content in tree:
            if content is None:
                (self._place / path).mkdir()
            else:
                (self._place / path).hardlink_to(self._content(content))
        return self._place

    def _content(self, content: bytes) -> Path:
        path = self._known.get(content)
        if path is None:
            path = self._known[content] = self._pool / str(len(self._known))
            path.write_bytes(content)
        return path
