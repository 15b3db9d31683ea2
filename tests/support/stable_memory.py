"""Files in memory that forget what was not synced, so that a test can crash between any two steps of writing one."""

from __future__ import annotations

import random

SECTOR_BYTES = 512


class Crash(Exception):
    """The machine stopped at this step."""


class MemoryFile:
    """A `backends.pairs.stable_file.StableFile`; only what was synced survives `MemoryDirectory.crash`."""

    def __init__(self, directory: MemoryDirectory, size: int) -> None:
        self.data = bytearray(size)
        self.stable = bytearray(size)
        self.unsynced: list[tuple[int, bytes]] = []
        self._directory = directory

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._directory.step()
        self._put(self.data, offset, data)
        self.unsynced.append((offset, bytes(data)))

    def sync(self) -> None:
        self._directory.step()
        for offset, data in self.unsynced:
            self._put(self.stable, offset, data)
        self.unsynced.clear()

    def size(self) -> int:
        return len(self.data)

    def close(self) -> None:
        """Closing makes nothing stable."""

    def crash(self, rng: random.Random) -> None:
        """Keep what was synced, and of the rest any mixture, sector by sector."""
        for offset, data in self.unsynced:
            for at in range(0, len(data), SECTOR_BYTES):
                if rng.random() < 0.5:
                    self._put(self.stable, offset + at, data[at : at + SECTOR_BYTES])
        self.unsynced.clear()
        self.data = bytearray(self.stable)

    @staticmethod
    def _put(content: bytearray, offset: int, data: bytes) -> None:
        if len(content) < offset + len(data):
            content.extend(bytes(offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data


class MemoryDirectory:
    """A `backends.pairs.stable_file.StableDirectory`.

    Attributes:
        files: by name.
        steps: how many writes, syncs, creations and removals there were.
        stop_at: the step that raises `Crash`, and every one after it; None for none.
        error: raised at every step as long as it is not None.
    """

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.steps = 0
        self.stop_at: int | None = None
        self.error: OSError | None = None

    def names(self) -> list[str]:
        return sorted(self.files)

    def open(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise FileNotFoundError(2, "No such file or directory", name)
        self.files[name].sync()
        return self.files[name]

    def create(self, name: str, size: int) -> MemoryFile:
        self.step()
        self.files[name] = MemoryFile(self, size)
        return self.files[name]

    def remove(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)

    def step(self) -> None:
        self.steps += 1
        if self.stop_at is not None and self.steps >= self.stop_at:
            raise Crash
        if self.error is not None:
            raise self.error

    def as_after_a_crash(self) -> MemoryDirectory:
        """Give what a crash now leaves for certain: a copy, with nothing in it that was not synced."""
        left = MemoryDirectory()
        for name, file in self.files.items():
            left.files[name] = MemoryFile(left, 0)
            left.files[name].data = bytearray(file.stable)
        return left

    def crash(self, rng: random.Random) -> None:
        """Stop the machine: what was not synced is kept or lost by chance."""
        self.stop_at = None
        for file in self.files.values():
            file.crash(rng)
