"""A real block device: a loop device over a file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self


class LoopDevice:
    """A loop device over `file`, attached on entry and detached on exit (root is needed)."""

    def __init__(self, file: Path, *, read_only: bool = False, block_bytes: int = 512) -> None:
        self.file = file
        self._options = [*(["--read-only"] if read_only else []), "--sector-size", str(block_bytes)]
        self.path = Path()

    def __enter__(self) -> Self:
        command = ["losetup", "--find", "--show", *self._options, str(self.file)]
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        self.path = Path(found.stdout.strip())
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["losetup", "--detach", str(self.path)], check=True, timeout=30)
