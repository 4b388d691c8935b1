"""Runs the console blocks of a document: each `$ command`, and the output that it must have.

    $ amends list
    ...running...

`...` in the expected output stands for anything; where nothing is shown, the command must succeed. One
that ends in `&` is started in the background, must print what is expected, and is told to stop
(SIGTERM) when the document ends, or by `kill %1` for the first of them. What `export` sets holds to
the end of the document, in its Python too. `make` is not run here: the tests that read the documents
are run by it.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_S = 60


class Console:
    """The shell of one document, in the document's working directory."""

    def __init__(self) -> None:
        self._background: list[subprocess.Popen[bytes]] = []
        self._environment = dict(os.environ)

    def run_block(self, text: str) -> None:
        for command, expected in commands_of(text):
            if command.startswith("make "):
                continue
            if command.endswith("&"):
                self._start(command.removesuffix("&").strip(), expected)
            elif command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                os.environ[name] = value
            elif re.fullmatch(r"kill( %\d+)+", command):
                self._stop([self._background[int(number) - 1] for number in command.split("%")[1:]])
            else:
                self._run(command, expected)

    def close(self) -> None:
        # Those that do not run any more, the document itself has ended.
        self._stop([process for process in self._background if process.poll() is None])
        for process in self._background:
            assert process.stdout is not None
            process.stdout.close()
        self._background.clear()
        os.environ.clear()
        os.environ.update(self._environment)

    def _stop(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait(timeout=WAIT_S) == 0, "a background command did not end well"

    def _run(self, command: str, expected: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        printed = (done.stdout + done.stderr).decode()
        assert fits(expected, printed), f"$ {command}\nwanted:\n{expected}\nprinted:\n{printed}"
        assert expected or not done.returncode, f"$ {command}\nfailed, and printed:\n{printed}"

    def _start(self, command: str, expected: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._background.append(process)
        assert process.stdout is not None
        printed = b""
        end = time.monotonic() + WAIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not fits(f"{expected}\n...", printed.decode()):
                assert time.monotonic() < end, f"$ {command} &\nprinted:\n{printed.decode()}"
                if selector.select(timeout=1):
                    chunk = os.read(process.stdout.fileno(), 65536)
                    assert chunk, f"$ {command} &\nended after:\n{printed.decode()}"
                    printed += chunk


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a block with the output that is shown under it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command[:-1]}{more.strip()}"
        yield command.strip(), expected.strip()


def fits(expected: str, printed: str) -> bool:
    """Whether the output is what the document shows; nothing shown fits anything."""
    if not expected.strip():
        return True
    pattern = ".*".join(re.escape(squeeze(piece)) for piece in expected.split("..."))
    return re.fullmatch(pattern, squeeze(printed).strip(), flags=re.DOTALL) is not None


def squeeze(text: str) -> str:
    """Widths of columns and ends of lines do not matter."""
    return re.sub(r"\s+", " ", text)


def environment() -> dict[str, str]:
    """As in a terminal of 100 columns, with the virtual environment first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
