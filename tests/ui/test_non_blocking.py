"""A reader that does not read holds nobody up, and misses nothing once it does.

(tests/end_to_end/test_terminal.py: whole runs.)"""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest

from lorasmith.ui.non_blocking import MAX_PIECES, NonBlockingWriter
from lorasmith.ui.screens import LiveScreen, PlainScreen

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nobody can ask a pipe there whether it takes anything")
LINES = [f"{number} 第 {number} 行 " + "-" * 900 for number in range(300)]  # more than any pipe takes


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """(its end to read from, its end to write to)"""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        yield reader, file
        os.set_blocking(reader, False)
        while True:  # else closing would wait for what Python itself has kept
            try:
                if not os.read(reader, 1 << 20):
                    break
            except BlockingIOError:
                break
    os.close(reader)


def test_all_lines_in_their_order_once_somebody_reads(pipe: tuple[int, TextIO]) -> None:
    screen = PlainScreen(pipe[1])
    for line in LINES:
        screen.line(line)  # would wait for ever
    assert screen.is_behind
    got = b""
    while screen.is_behind:
        got += os.read(pipe[0], 1 << 20)
        screen.tick()
    os.set_blocking(pipe[0], False)
    got += os.read(pipe[0], 1 << 20)
    assert got.decode().splitlines() == LINES


def test_what_moves_is_not_drawn_for_nobody(pipe: tuple[int, TextIO]) -> None:
    now = [0.0]
    screen = LiveScreen(pipe[1], now=lambda: now[0])
    asked: list[float] = []
    for line in LINES:
        screen.line(line)
    for _ in range(50):
        now[0] += 1.0
        screen.status(lambda width, only_ascii: asked.append(now[0]) or "moving", 0.5)
    assert screen.is_behind
    assert len(asked) <= 1  # where it first appears
    screen.close()


def test_the_oldest_is_given_up_where_nobody_ever_reads(pipe: tuple[int, TextIO]) -> None:
    writer = NonBlockingWriter(pipe[1])
    for _ in range(MAX_PIECES):
        writer.write("x" * 1000)
        writer.flush()
    for number in range(MAX_PIECES):
        writer.write(str(number))
    assert list(writer._kept) == [str(number) for number in range(MAX_PIECES)]


def test_a_stream_in_memory_takes_everything() -> None:
    out = io.StringIO()
    writer = NonBlockingWriter(out)
    writer.write("a" * 5000)
    assert (out.getvalue(), writer.is_behind) == ("", True)
    writer.flush()
    assert (out.getvalue(), writer.is_behind) == ("a" * 5000, False)


@pytest.mark.parametrize("screen_of", [LiveScreen, PlainScreen])
@pytest.mark.parametrize("line", ["x" * 47, "字" * 90, "x" * 333])
def test_a_terminal_that_nobody_reads_holds_nobody_up(screen_of: type[PlainScreen | LiveScreen], line: str) -> None:
    """It says that it takes something while it has room for a byte of it."""
    import pty

    reader, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as out:
        screen = screen_of(out)
        done = threading.Event()

        def write() -> None:
            for _ in range(900):
                screen.line(line)
            done.set()

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        was_held_up = not done.wait(120)
        os.set_blocking(reader, False)
        got = b""
        while got.count(b"\n") < 900:  # the last line may come in parts
            with suppress(BlockingIOError):
                got += os.read(reader, 1 << 16)
            if done.is_set():
                screen.tick()
        writer.join()
    os.close(reader)
    assert not was_held_up
    assert got.decode().split() == [line] * 900
