"""What the demo is told with: steps, claims that are true or false, other programs, and a table at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
COMMAND_LIMIT_S = 60.0


class DemoError(Exception):
    """A part of the demo that had to work did not; `str()` says which, and what it printed."""


class Claim(NamedTuple):
    """One line of the table."""

    text: str
    holds: bool
    detail: str


class Outcome(NamedTuple):
    """How a command of another program ended."""

    code: int
    output: str
    errors: str


class Report:
    """Tells the demo as it goes, and keeps what was shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._claims: list[Claim] = []

    @property
    def all_true(self) -> bool:
        """Whether every claim made so far holds."""
        return all(claim.holds for claim in self._claims)

    def step(self, text: str) -> None:
        """Begin a part of the story."""
        self._console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """Tell a detail; shown as it is."""
        for line in text.strip().splitlines():
            self._console.print(f"    {line}", markup=False, highlight=False)

    def claim(self, text: str, *, holds: bool, detail: str = "") -> None:
        """State something that was checked."""
        self._claims.append(Claim(text, holds, detail))
        mark = "[green]true [/green]" if holds else "[red]FALSE[/red]"
        self._console.print(f"  {mark} ", end="")
        self._console.print(text + (f": {detail}" if detail and not holds else ""), markup=False, highlight=False)

    def print_table(self, seconds: float) -> None:
        """Print all that was shown."""
        table = Table(title=f"What was shown, in {seconds:.0f} s", title_justify="left")
        table.add_column("shown")
        table.add_column("holds")
        for claim in self._claims:
            table.add_row(claim.text, "yes" if claim.holds else f"NO: {claim.detail}")
        self._console.print()
        self._console.print(table)


def run(*command: str | Path) -> Outcome:
    """Run a command of another program to its end, in bounded time."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S)
    return Outcome(done.returncode, done.stdout, done.stderr)


def must(*command: str | Path) -> str:
    """Run a command that has to work; give what it printed.

    Raises:
        DemoError: it did not.
    """
    outcome = run(*command)
    if outcome.code:
        raise DemoError(f"{' '.join(map(str, command))}: exit code {outcome.code}: {outcome.errors or outcome.output}")
    return outcome.output


def annexhost(*arguments: str | Path) -> Outcome:
    """Run the host's tool."""
    return run(sys.executable, ROOT / "bin" / "annexhost", *arguments)


def blocks_that_differ(one: Path, other: Path, length_bytes: int) -> int:
    """Compare the first `length_bytes` of two files or devices; give the number of 4 KiB blocks that differ."""
    block_bytes, chunk_bytes = 4096, 1 << 20
    different = 0
    with one.open("rb") as first, other.open("rb") as second:
        for offset in range(0, length_bytes, chunk_bytes):
            length = min(chunk_bytes, length_bytes - offset)
            left, right = first.read(length), second.read(length)
            if left != right or len(left) != length:
                blocks = range(0, length, block_bytes)
                different += sum(left[at : at + block_bytes] != right[at : at + block_bytes] for at in blocks) or 1
    return different
