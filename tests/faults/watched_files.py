"""Every change that this process makes to the files below a folder, seen as it happens, and refused where asked.

Python's own calls are watched: what the product writes goes through them, torch and safetensors giving it bytes.
Whether something went past them is not taken on trust: `Record.differs_from_disk` holds the changes against the disk.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WRITING = frozenset("wax+")


@dataclass(frozen=True)
class Change:
    """`node` is what a name stands for: it keeps its number when it is renamed, and gives it back to nobody."""

    kind: str  # link, unlink, rename, write, truncate, sync, mark
    node: int = 0
    folder: int = 0  # node of the folder whose entry it is about; of a rename: where it goes
    name: str = ""
    source: tuple[int, str] = (0, "")  # of a rename: folder and name before
    offset: int = 0
    data: bytes = b""
    size: int = 0


@dataclass
class Record:
    """The changes below `root`, in order, and what is there after them."""

    root: str
    refuse: Callable[[str, str], None] | None = None  # (kind, path): raises OSError where the disk would
    changes: list[Change] = field(default_factory=list)
    contents: dict[int, bytearray] = field(default_factory=dict)  # of files
    entries: dict[int, dict[str, int]] = field(default_factory=dict)  # of folders
    _handles: dict[int, int] = field(default_factory=dict)
    _next: int = 1

    def __post_init__(self) -> None:
        """What is there already lies safely on the disk. Links are no files of ours."""
        self._known(self._new(is_folder=True), self.root)
        self.first_entries = {node: dict(names) for node, names in self.entries.items()}
        self.first_contents = {node: bytes(content) for node, content in self.contents.items()}

    def _known(self, node: int, folder: str) -> None:
        for one in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if one.is_symlink() or not (one.is_dir() or one.is_file()):
                continue
            child = self._new(is_folder=one.is_dir())
            self.entries[node][one.name] = child
            if one.is_dir():
                self._known(child, one.path)
            else:
                self.contents[child] = bytearray(Path(one.path).read_bytes())

    def _new(self, *, is_folder: bool) -> int:
        node, self._next = self._next, self._next + 1
        if is_folder:
            self.entries[node] = {}
        else:
            self.contents[node] = bytearray()
        return node

    # -- names -------------------------------------------------------------------------------------

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The folder's node and the name in it; None outside, and below a link."""
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = f"{_path_of(dir_fd)}/{text}"
        text = os.path.abspath(text)  # noqa: PTH100 - resolving would follow links
        if not text.startswith(self.root + "/"):
            return None
        *folders, name = text[len(self.root) + 1 :].split("/")
        node = 1
        for one in folders:
            node = self.entries.get(node, {}).get(one, 0)
            if node not in self.entries:
                return None
        return node, name

    def node_at(self, path: Any) -> int:
        if os.path.abspath(os.fsdecode(path)) == self.root:  # noqa: PTH100
            return 1
        place = self.place(path)
        return 0 if place is None else self.entries[place[0]].get(place[1], 0)

    def mark(self, what: str) -> None:
        """Something to find again among the changes."""
        self.changes.append(Change("mark", name=what))

    def ask(self, kind: str, path: Any) -> None:
        if self.refuse is not None:
            self.refuse(kind, os.fsdecode(path))

    # -- changes -----------------------------------------------------------------------------------

    def linked(self, path: Any, *, is_folder: bool) -> int:
        place = self.place(path)
        if place is None:
            return 0
        node = self._new(is_folder=is_folder)
        self.entries[place[0]][place[1]] = node
        self.changes.append(Change("link", node, *place))
        return node

    def unlinked(self, place: tuple[int, str] | None) -> None:
        if place is not None and place[1] in self.entries[place[0]]:
            self.changes.append(Change("unlink", self.entries[place[0]].pop(place[1]), *place))

    def renamed(self, source: tuple[int, str] | None, target: tuple[int, str] | None) -> None:
        if source is None and target is None:
            return
        assert source is not None and target is not None, "moved out of, or into, what is watched"
        node = self.entries[source[0]].pop(source[1])
        self.entries[target[0]][target[1]] = node
        self.changes.append(Change("rename", node, *target, source=source))

    def written(self, node: int, offset: int, data: bytes) -> None:
        content = self.contents[node]
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        self.changes.append(Change("write", node, offset=offset, data=data))

    def truncated(self, node: int, size: int) -> None:
        content = self.contents[node]
        if size == len(content):
            return
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.changes.append(Change("truncate", node, size=size))

    def opened(self, handle: int, node: int) -> None:
        if node:
            self._handles[handle] = node

    def closed(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def node_of(self, handle: int) -> int:
        return self._handles.get(handle, 0)

    def differs_from_disk(self) -> list[str]:
        """Paths that are not on the disk as the changes say: something was written unseen."""
        return list(self._differing(1, self.root))

    def _differing(self, node: int, folder: str) -> Iterator[str]:
        there = {one.name: one for one in os.scandir(folder) if not one.is_symlink()}
        for name in there.keys() ^ self.entries[node].keys():
            yield f"{folder}/{name}"
        for name in there.keys() & self.entries[node].keys():
            path, child = f"{folder}/{name}", self.entries[node][name]
            if child in self.entries:
                yield from self._differing(child, path)
            elif Path(path).read_bytes() != bytes(self.contents[child]):
                yield path


class _File:
    """A file opened for writing: what is written reaches the record when it would reach the system."""

    def __init__(self, record: Record, file: Any, path: Any, node: int, mode: str, is_raw: bool) -> None:
        self._record, self._file, self._path, self._node = record, file, path, node
        self._appends, self._is_raw = "a" in mode, is_raw
        self._is_text = "b" not in mode
        self._waiting: list[bytes] = []
        self._offset = 0
        record.opened(file.fileno(), node)

    def write(self, data: Any) -> int:
        content = str(data).encode() if self._is_text else bytes(data)
        self._waiting.append(content)
        if self._is_raw:
            self.flush()
        return len(content)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        while self._waiting:
            content = self._waiting.pop(0)
            self._record.ask("write", self._path)
            offset = len(self._record.contents[self._node]) if self._appends else self._offset
            self._record.written(self._node, offset, content)
            self._offset = offset + len(content)
            self._file.write(content.decode() if self._is_text else content)
        self._file.flush()

    def seek(self, offset: int, whence: int = 0) -> int:
        self.flush()
        self._offset = int(self._file.seek(offset, whence))
        return self._offset

    def truncate(self, size: int | None = None) -> int:
        self.flush()
        size = self._offset if size is None else size
        self._record.truncated(self._node, size)
        return int(self._file.truncate(size))

    def close(self) -> None:
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._record.closed(self._file.fileno())
                self._file.close()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def watched(root: Path, refuse: Callable[[str, str], None] | None = None) -> Iterator[Record]:
    """Everything below `root` from here on."""
    record = Record(str(root), refuse)
    with pytest.MonkeyPatch.context() as patch:
        opening = _open_of(record, io.open)
        patch.setattr(io, "open", opening)
        patch.setattr(builtins, "open", opening)
        for name, made in _calls_of(record).items():
            patch.setattr(os, name, made)
        yield record


def _open_of(record: Record, real: Callable[..., Any]) -> Callable[..., Any]:
    def opening(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        is_nameless = more.get("opener") is not None  # a temporary file that never has a name
        if isinstance(file, int) or is_nameless or not WRITING & set(mode) or record.place(file) is None:
            return real(file, mode, buffering, *rest, **more)
        node = record.node_at(file)
        if not node:
            record.ask("link", file)
        opened = real(file, mode, buffering, *rest, **more)
        if not node:
            node = record.linked(file, is_folder=False)
        elif "w" in mode:
            record.truncated(node, 0)
        return _File(record, opened, file, node, mode, is_raw=buffering == 0)

    return opening


def _calls_of(record: Record) -> dict[str, Callable[..., Any]]:
    """What takes the place of the system's calls."""

    def unseen(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSYS, "not watched")  # shutil then copies by reading and writing

    return {**_on_handles(record), **_on_names(record), "sendfile": unseen, "link": unseen}


def _opening(record: Record) -> Callable[..., int]:
    real_open = os.open

    def opening(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        inside = not more.get("dir_fd") and record.place(path) is not None
        node = record.node_at(path) if inside else 0
        makes = inside and not node and bool(flags & os.O_CREAT)
        if makes:
            record.ask("link", path)
        handle = real_open(path, flags, *rest, **more)
        if makes:
            node = record.linked(path, is_folder=False)
        elif node and flags & os.O_TRUNC:
            record.truncated(node, 0)
        record.opened(handle, node or record.node_at(path))
        return handle

    return opening


def _on_handles(record: Record) -> dict[str, Callable[..., Any]]:
    real_write, real_close, real_truncate = os.write, os.close, os.truncate

    def writing(handle: int, data: Any) -> int:
        node = record.node_of(handle)
        if node:
            record.ask("write", _path_of(handle))
            record.written(node, os.lseek(handle, 0, os.SEEK_CUR), bytes(data))
        return real_write(handle, data)

    def syncing(handle: int) -> None:
        """The record is what counts here; the disk of the test need not wait."""
        if node := record.node_of(handle):
            record.ask("sync", _path_of(handle))
            record.changes.append(Change("sync", node))

    def truncating(handle: Any, size: int) -> None:
        real_truncate(handle, size)
        if node := record.node_of(handle) if isinstance(handle, int) else record.node_at(handle):
            record.truncated(node, size)

    def closing(handle: int) -> None:
        record.closed(handle)
        real_close(handle)

    names = {
        "open": _opening(record),
        "write": writing,
        "close": closing,
        "truncate": truncating,
        "ftruncate": truncating,
    }
    return {**names, "fsync": syncing, "fdatasync": syncing}


def _on_names(record: Record) -> dict[str, Callable[..., Any]]:
    real_rename, real_unlink, real_rmdir, real_mkdir = os.rename, os.unlink, os.rmdir, os.mkdir

    def renaming(source: Any, target: Any, **more: Any) -> None:
        places = record.place(source), record.place(target)
        if places[1] is not None:
            record.ask("rename", target)
        real_rename(source, target, **more)
        record.renamed(*places)

    def unlinking(path: Any, *, dir_fd: int | None = None) -> None:
        place = record.place(path, dir_fd)
        real_unlink(path, dir_fd=dir_fd)
        record.unlinked(place)

    def removing(path: Any, *, dir_fd: int | None = None) -> None:
        place = record.place(path, dir_fd)
        real_rmdir(path, dir_fd=dir_fd)
        record.unlinked(place)

    def making(path: Any, *rest: Any, **more: Any) -> None:
        if record.place(path) is not None:
            record.ask("link", path)
        real_mkdir(path, *rest, **more)
        record.linked(path, is_folder=True)

    names = {"rename": renaming, "replace": renaming, "unlink": unlinking, "remove": unlinking}
    return {**names, "rmdir": removing, "mkdir": making}


def _path_of(handle: int) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())
