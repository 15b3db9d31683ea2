"""Where annexhost writes: answers to stdout, everything else to stderr, so that `--json` gives one document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from config.host.errors import HostToolError
from config.host.presentation import Answer, printable

SetProgress = Callable[[float, str], None]


class Terminal:
    """The person, or the program, that reads what annexhost says.

    Attributes:
        as_json: stdout gets one JSON document.
        keep_stdout: stdout carries data, so answers go to stderr.
    """

    def __init__(self, *, as_json: bool = False, keep_stdout: bool = False) -> None:
        self.as_json = as_json
        self.keep_stdout = keep_stdout
        # A table in a pipe or a file is not cut at the 80 columns that rich takes an unknown width for.
        self._out = Console(file=sys.stderr if keep_stdout else sys.stdout, highlight=False)
        if not self._out.is_terminal:
            self._out.width = 240
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)

    def answer(self, answer: Answer) -> None:
        """Show what a verb found."""
        if self.as_json:
            print(json.dumps(answer.document), file=sys.stderr if self.keep_stdout else sys.stdout, flush=True)
        else:
            self._out.print(answer.shown)

    def note(self, text: str) -> None:
        """Say something by the way."""
        self._err.print(printable(text))

    def error(self, error: HostToolError) -> None:
        """Say why it ended."""
        if self.as_json and not self.keep_stdout:
            document = {"error": {"kind": error.kind, "message": str(error)} | error.details()}
            print(json.dumps(document))
        self._err.print(printable(f"annexhost: {error}"))

    @contextmanager
    def progress(self, what: str) -> Iterator[SetProgress]:
        """Show a bar on stderr, when that is a terminal; the given function sets percent and state."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._err, transient=False, disable=not self._err.is_terminal) as progress:
            task = progress.add_task(what, total=100)

            def set_progress(percent: float, state: str) -> None:
                progress.update(task, completed=percent, description=f"{what} {state}".strip())

            yield set_progress

    @property
    def console(self) -> Console:
        """The console of answers, for what redraws itself."""
        return self._out
