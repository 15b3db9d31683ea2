"""An annexd that starts in a fraction of the time, for tests that start it hundreds of times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.annexd import STOP_LIMIT_S, Annexd

PROGRAM = Path(__file__).resolve().with_name("annexd_forks.py")


class ForkedAnnexd(Annexd):
    """`annexd try`, forked by `tests.support.annexd_forks`; a kill is that of annexd itself."""

    _forked = 0

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        return self._forked

    def start(self) -> Self:
        """Fork it, and return once hosts can log in.

        Raises:
            RuntimeError: it ended, or was not ready in time; with its log.
        """
        if self._process is None:
            _python, _isolated, _root, *arguments = self._command()
            with (self.folder / "annexd.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(PROGRAM), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd="/",
                )
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self._wait_until_up()
        (self._forked,) = (int(line.split()[1]) for line in self.lines if line.startswith("started "))
        return self

    def ended(self) -> bool:
        """Tell whether it runs no more; not whether it has ended by itself."""
        return not self._forked

    def wait(self) -> int:
        """Wait until it has ended; give its exit code."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._forked = 0
        for line in self._process.stdout:
            if line.startswith(b"ended "):
                return int(line.split()[1])
        raise RuntimeError(f"what forks annexd has ended\n{self.log()}")

    def _end(self, number: signal.Signals) -> int:
        if not self._forked:
            return 0
        os.kill(self._forked, number)
        return self.wait()

    def __exit__(self, *_: object) -> None:
        process = self._process
        self.stop()
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(STOP_LIMIT_S)
            process.stdout.close()
