"""annexd with a wall clock of its own, which a test sets while it runs."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.support.annexd import Annexd

SOURCE = Path(__file__).resolve().with_name("jumping_clock.c")


class JumpingAnnexd(Annexd):
    """annexd with `jumping_clock.c` preloaded."""

    def set_clock(self, offset_s: int) -> None:
        """Have its wall clock be so far ahead of this machine's."""
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("=q", offset_s))

    def _environment(self) -> dict[str, str]:
        clock, library = self.folder / "clock", self.folder / "jumping_clock.so"
        if not library.exists():
            clock.write_bytes(bytes(8))
            compiler = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
            subprocess.run(compiler, check=True, timeout=60)
        return {"LD_PRELOAD": str(library), "ANNEX_CLOCK_FILE": str(clock)}
