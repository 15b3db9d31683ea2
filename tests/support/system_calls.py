"""The system calls by which a running process writes and syncs, in their order, as strace sees them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

WATCHED = ("write", "pwrite64", "pwritev", "pwritev2", "writev", "sendmsg", "sendto", "fsync", "fdatasync")
STOP_LIMIT_S = 20.0
NEVER = sys.maxsize
_CALL = re.compile(r"(\d+) +(\w+)\(\d+<(.*?)>[,)\s]")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")


class SystemCall(NamedTuple):
    """One call.

    Attributes:
        name: of the call.
        target: path of the file, or both addresses of the connection.
        begun: line of the log at which it began.
        ended: line at which it had ended; NEVER when it had not.
    """

    name: str
    target: str
    begun: int
    ended: int


class SystemCalls:
    """Watches a process and all of its threads while the context lasts; `calls` are what it did.

    Attributes:
        calls: in the order in which they began; complete when the context has ended.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.calls: list[SystemCall] = []
        self._pid = pid
        self._log = log

    def __enter__(self) -> Self:
        watched = ",".join(WATCHED)
        command = ["strace", "-f", "-yy", "-s", "0", "-e", f"trace={watched}", "-o", str(self._log)]
        self._process = subprocess.Popen([*command, "-p", str(self._pid)], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert "attached" in line, line
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=STOP_LIMIT_S)
        if error is None:
            self.calls = read_calls(self._log.read_text())


def read_calls(log: str) -> list[SystemCall]:
    """Read what strace has written."""
    calls: list[SystemCall] = []
    pending: dict[str, int] = {}  # by thread, the place in the list
    for number, line in enumerate(log.splitlines()):
        if (call := _CALL.match(line)) is not None:
            unfinished = line.endswith("<unfinished ...>")
            if unfinished:
                pending[call[1]] = len(calls)
            calls.append(SystemCall(call[2], call[3], number, NEVER if unfinished else number))
        elif (resumed := _RESUMED.match(line)) is not None and resumed[1] in pending:
            at = pending.pop(resumed[1])
            calls[at] = calls[at]._replace(ended=number)
    return calls
