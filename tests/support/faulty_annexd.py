"""annexd with faults that a test chooses while it runs."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.annexd import Annexd
from tests.support.fault_points import FILE, FOLDER

PROGRAM = Path(__file__).resolve().with_name("fault_points.py")


class FaultyAnnexd(Annexd):
    """annexd under `tests.support.fault_points`."""

    def choose(self, name: str, number: int) -> None:
        """Choose what is to happen: a point and how often it is reached before, or a row of `fault_devices`."""
        new = self.folder / "fault.new"
        new.write_text(f"{name} {number}")
        new.rename(self.folder / FILE)

    def heal(self) -> None:
        """Choose nothing."""
        (self.folder / FILE).unlink(missing_ok=True)

    def start_unharmed(self) -> None:
        """Start it again with nothing chosen."""
        self.heal()
        self.start()

    def _command(self) -> list[str]:
        _python, _isolated, _root, *arguments = super()._command()
        return [sys.executable, "-I", str(PROGRAM), *arguments]

    def _environment(self) -> dict[str, str]:
        return {FOLDER: str(self.folder)}
