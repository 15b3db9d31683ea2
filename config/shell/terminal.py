"""Where annexcli writes: answers to stdout, everything else to stderr; the one place where text reaches a terminal.

What comes from annexd may hold what a host or an array chose, so every text goes through `printable`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from config.errors import ConfigError

Cell = tuple[str, str]  # text and style


def printable(text: object) -> str:
    """Give text without anything that a terminal would act on."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


class Terminal:
    """The person, or the program, that reads what annexcli says.

    Attributes:
        as_json: answers are JSON documents, one a line.
        interactive: a person is there to be asked.
        assume_yes: do not ask.
    """

    def __init__(self, *, as_json: bool = False, assume_yes: bool = False) -> None:
        self.as_json = as_json
        self.assume_yes = assume_yes
        self.interactive = bool(sys.stdin and sys.stdin.isatty() and sys.stdout.isatty())
        self.console = Console(highlight=False, markup=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = 240  # nothing in a pipe or a file is cut
        self.error_console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Say something, each line by itself; with --json on stderr."""
        for line in text.split("\n"):
            (self.error_console if self.as_json else self.console).print(Text(printable(line)), soft_wrap=True)

    def line(self, *cells: Cell) -> None:
        """Write a line of an answer."""
        self.console.print(Text.assemble(*((printable(text), style) for text, style in cells)), soft_wrap=True)

    def heading(self, text: str) -> None:
        """Write a line that stands out."""
        self.line((text, "bold"))

    def document(self, document: Any) -> None:
        """Write a document, with --json."""
        print(json.dumps(document), flush=True)  # ASCII: nothing for a terminal to act on

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table."""
        self.console.print(table(columns, rows))

    def show(self, shown: RenderableType) -> None:
        """Write what rich can show."""
        self.console.print(shown)

    def error(self, error: ConfigError) -> None:
        """Say why a command failed."""
        if self.as_json:
            self.document({"error": {"place": error.place, "problem": error.problem, "remedy": error.remedy}})
        self.error_console.print(Text(printable(f"annexcli: {error}"), "red"))

    def warn(self, text: str) -> None:
        """Say what is not well, and is no error of the command."""
        self.error_console.print(Text(printable(text), "yellow"))

    def agree(self, question: str) -> bool:
        """Ask for a yes, when a person is there; a script has said it by being one."""
        if self.assume_yes or not self.interactive:
            return True
        self.console.print(Text(f"{printable(question)} [y/N] "), end="")
        return input().strip().lower() in {"y", "yes"}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, figures_from: int | None = None) -> Table:
    """Give a table; its columns from `figures_from` on are figures, which stand at the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        figures = figures_from is not None and index >= figures_from
        made.add_column(name, justify="right" if figures else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(printable("-" if value is None else value)) for value in row))
    return made
