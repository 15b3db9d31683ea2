"""Small files whose every step towards stable storage is named, so that a test can crash between any two of them.

Everything here blocks, and belongs on a worker thread once hosts are being served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class StableFile(Protocol):
    """An open file of records in fixed places.

    What was written is stable after the next `sync`; before that any part of it may be.
    """

    def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes; less at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """Write in place; raises OSError."""

    def sync(self) -> None:
        """Make all writes so far stable; raises OSError."""

    def size(self) -> int: ...

    def close(self) -> None: ...


class StableDirectory(Protocol):
    """A directory of such files."""

    def names(self) -> list[str]: ...

    def open(self, name: str) -> StableFile:
        """Open an existing file; raises OSError.

        What it holds is stable when this returns. A daemon that was killed may have left it in the page cache alone,
        and whoever acts on what is read here must find the same after a power cut.
        """

    def create(self, name: str, size: int) -> StableFile:
        """Make a file of zeros, its name stable; one that has the name already is replaced. Raises OSError."""

    def remove(self, name: str) -> None:
        """Remove a file, stably; one that is not there is fine."""


class OsFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            offset += count
            view = view[count:]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


class OsDirectory:
    """A directory of the operating system, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self._path.iterdir())

    def open(self, name: str) -> OsFile:
        file = OsFile(os.open(self._path / name, os.O_RDWR | os.O_CLOEXEC))
        try:
            file.sync()
        except OSError:
            file.close()
            raise
        return file

    def create(self, name: str, size: int) -> OsFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self._path / name, flags, 0o600)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
            self._sync_names()
        except OSError:
            os.close(descriptor)
            raise
        return OsFile(descriptor)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)
        self._sync_names()

    def _sync_names(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
