"""Runs commands inside a kernel of `tests.support.linux_host`, for the test outside.

Standard input and output are a serial line. A request is a line of JSON, ``[number, command, text, limit_s]``, and its
answer another, ``[number, exit status, output, errors]``; commands run side by side, so answers come in any order. A
command over its limit is killed and answered with the status -9, also when it cannot die: one that waits for a disk.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import threading
import tty
from contextlib import suppress

_END_LIMIT_S = 2.0
_writing = threading.Lock()


def _run(number: int, command: list[str], text: str, limit_s: float) -> None:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
    except OSError as error:
        _answer(number, 127, "", str(error))
        return
    try:
        output, errors = process.communicate(text, limit_s)
        _answer(number, process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = errors = ""
        with suppress(subprocess.TimeoutExpired):
            output, errors = process.communicate(timeout=_END_LIMIT_S)
        _answer(number, -signal.SIGKILL, output, f"{errors}\nnot done within {limit_s} s\n")


def _answer(number: int, status: int, output: str, errors: str) -> None:
    line = json.dumps([number, status, output, errors]).encode() + b"\n"
    with _writing:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def main() -> None:
    """Answer requests until the line is hung up."""
    tty.setraw(0, termios.TCSANOW)
    _answer(0, 0, "", "")  # ready
    for line in sys.stdin.buffer:
        number, command, text, limit_s = json.loads(line)
        threading.Thread(target=_run, args=(number, command, text, limit_s), daemon=True).start()


if __name__ == "__main__":
    main()
