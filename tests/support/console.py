"""The documentation as a script: the commands of a page's console blocks, run one after the other in one shell.

    ```console
    $ command
    what it prints
    ```

A line that is printed need not be documented; one that is documented has to come, in the order of the page. `…` in it
stands for anything. A command that ends with an error has the error as its last documented line, beginning with the
name of the program. A file that a page speaks of is the next fenced block after the comment `<!-- file: PATH -->`; one
that it only needs is within the comment: `<!-- file: PATH` and its content.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

LIMIT_S = 40.0
BACKGROUND_LIMIT_S = 5.0  # for what is printed after the command that brought it about has ended
_BACKGROUND = re.compile(r"&\s*$")
_PROGRAM_ERROR = re.compile(r"(annexd|annexcli|annexhost|iscsi-ls): ")
_STEP = re.compile(
    r"^```console\n(?P<console>.*?)^```$"
    r"|^<!-- file: (?P<path>\S+)(?: -->\n+```\w*\n(?P<shown>.*?)^```$|\n(?P<hidden>.*?)^-->$)",
    re.DOTALL | re.MULTILINE,
)


class File(NamedTuple):
    """A file to be written, mode 0600."""

    path: str
    content: str


class Command(NamedTuple):
    """A command, what it has to print, and the line of the page on which it stands."""

    text: str
    expected: list[str]
    line: int


def steps(page: str) -> list[File | Command]:
    """List the steps of a page in their order."""
    found: list[File | Command] = []
    for match in _STEP.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        if match["console"] is not None:
            found += _commands(match["console"], line + 1)
        else:
            found.append(File(match["path"], match["shown"] or match["hidden"]))
    return found


def examples(source: str) -> list[str]:
    """List the commands under EXAMPLES in the source of a man page (docs/man/*.man), as a reader sees them."""
    section = re.search(r"^\[>examples\]\n(.*?)(?=^\[|\Z)", source, re.DOTALL | re.MULTILINE)
    if section is None:
        return []
    blocks = re.findall(r"^\.nf\n(.*?)^\.fi$", section[1], re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith(".")]
    return [line.replace("\\-", "-") for line in lines]


def _commands(block: str, line: int) -> list[Command]:
    found: list[Command] = []
    unfinished = False
    for number, text in enumerate(block.splitlines(), line):
        if text.startswith("$ "):
            found.append(Command(text[2:], [], number))
        elif unfinished:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{text}")
        elif text.strip():
            found[-1].expected.append(text)
        unfinished = text.endswith("\\")
    return found


class Shell:
    """A bash in a folder; what it started in the background ends with it.

    Args:
        folder: where it runs.
        environment: its whole environment.
        within: what runs it elsewhere, as in another machine.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], within: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*within, "bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        self._pending = b""
        self._commands = 0

    def run(self, command: Command) -> None:
        """Run a command, until it has ended and has printed what it has to.

        Raises:
            AssertionError: it printed something else, or ended otherwise.
        """
        self._commands += 1
        end = f"[end {self._commands}"
        assert self._process.stdin is not None
        self._process.stdin.write(f"{{ {command.text}\n}} </dev/null; printf '\\n{end} %d]\\n' $?\n".encode())
        self._process.stdin.flush()
        deadline = time.monotonic() + LIMIT_S
        printed: list[str] = []
        status: int | None = None
        # What runs in the background goes on printing when the shell is back already.
        while status is None or missing(command.expected, printed):
            line = self._line(deadline)
            if line is None:
                break
            if line.startswith(end):
                status = int(line.split()[-1].rstrip("]"))
                if not _BACKGROUND.search(command.text):
                    deadline = min(deadline, time.monotonic() + BACKGROUND_LIMIT_S)
            else:
                printed.append(line)
        wanting = missing(command.expected, printed)
        output = "\n".join(printed)
        assert wanting is None, f"line {command.line}: {command.text}\n\nshould print\n{wanting}\n\nprinted\n{output}"
        refused = bool(command.expected and _PROGRAM_ERROR.match(command.expected[-1]))
        assert status is not None, f"line {command.line}: {command.text} did not end:\n{output}"
        assert (status != 0) == refused, f"line {command.line}: {command.text} ended with {status}:\n{output}"

    def _line(self, deadline: float) -> str | None:
        """Give the next line that is printed; None when none comes in time."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(descriptor, 65536)
            if not data:
                return None
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All that it started is in its own session's process group: bash makes none without a terminal.
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def missing(expected: list[str], printed: list[str]) -> str | None:
    """Give the first documented line that was not printed after those before it; None when all were."""
    lines = iter(printed)
    for wanted in expected:
        pattern = ".*".join(map(re.escape, " ".join(wanted.split()).split("…")))
        if not any(re.fullmatch(pattern, " ".join(line.split())) for line in lines):
            return wanted
    return None
