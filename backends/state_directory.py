"""The directory in which a daemon keeps what must survive it: for one daemon at a time, each file old or new.

How this works: a file is written beside its place, synced, and renamed into it; what it replaces is kept as
NAME.previous. So a crash at any step leaves the old file or the new one under its name, whole. A file that can not be
read is therefore not a crash's doing but damage, and no start may hide it: numbers would be given twice, ids would
change under the hosts. The daemon says which file it is and stops; the previous copy is still there for the admin.

Everything here blocks: at run time it belongs on a worker thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crc32c import crc32c

from backends import state_origin
from backends.devices.holders import lock_holder

FORMAT = 1
MAX_FILE_BYTES = 64 << 20
_IDENTITY = "identity"
_ORIGIN = "origin"
_INITIATOR_NAME = re.compile(r"iqn\.2026-11\.io\.annex:[0-9a-f]{24}")


class StateError(Exception):
    """The state directory can not be used; `str()` is one line for the admin.

    Attributes:
        place: the directory or file.
        problem: what is wrong with it.
        remedy: what to do about it, or "".
    """

    def __init__(self, place: Path, problem: str, remedy: str = "") -> None:
        super().__init__(" ".join(f"{place}: {problem}{f' ({remedy})' if remedy else ''}".split()))
        self.place = place
        self.problem = problem
        self.remedy = remedy


class StateDirectory:
    """An open state directory, locked until `close` or the end of the process.

    Attributes:
        path: where it is.
        initiator_name: what annex calls itself to external arrays: random, made once for this directory.
    """

    def __init__(
        self,
        path: Path,
        random_bytes: Callable[[int], bytes] = os.urandom,
        machine: Callable[[], dict[str, str]] = state_origin.machine_ids,
        *,
        adopt: bool = False,
    ) -> None:
        """Open the directory, and make it when it is not there.

        Args:
            path: where it is.
            random_bytes: for its identity, when it is new.
            machine: what this machine is known by.
            adopt: take a directory that is of another machine or place for this one, from now on.

        Raises:
            StateError: it can not be made or read, others may write to it, another daemon has it, its identity is
            damaged, or it is of another machine or place.
        """
        self.path = path
        self._lock = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            self._take_lock()
            self._sync()  # a daemon that was killed may have left a file's new name in memory alone
            self._check_origin(machine(), adopt=adopt)
            self.initiator_name = self._identity(random_bytes)
        except OSError as error:
            self.close()
            raise StateError(Path(error.filename or path), (error.strerror or str(error)).lower()) from error
        except StateError:
            self.close()
            raise

    def close(self) -> None:
        """Let another daemon have the directory."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def read(self, name: str) -> dict[str, Any] | None:
        """Give the content of a file, None when it was never written.

        Raises:
            StateError: it is damaged, newer than this annex knows, or lost.
        """
        file = self._file(name)
        try:
            raw = _read_all(file)
        except FileNotFoundError:
            if self._previous(name).exists():
                raise StateError(file, "is missing, and was there before", self._remedy(name)) from None
            return None
        except OSError as error:
            raise StateError(file, f"can not be read: {error.strerror}") from error
        try:
            return decode(raw)
        except ValueError as error:
            raise StateError(file, str(error), self._remedy(name)) from error

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a file, stably: when this returns the new content survives a power cut, and before that the old does.

        Raises:
            StateError: a step failed; the old content is still there, or the new one is whole.
        """
        file, new, previous = self._file(name), self.path / f"{name}.json.new", self._previous(name)
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, encode(content))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if file.exists():
                # By a link, so that the file is under its own name at every moment.
                link = self.path / f"{name}.json.link"
                link.unlink(missing_ok=True)
                link.hardlink_to(file)
                link.replace(previous)
            new.replace(file)
            self._sync()
        except OSError as error:
            raise StateError(file, f"can not be written: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Remove a file and what it replaced, as if it had never been written.

        Raises:
            StateError: that can not be done.
        """
        try:
            # The previous one first: alone it would mean that a file was lost.
            self._previous(name).unlink(missing_ok=True)
            self._file(name).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise StateError(self._file(name), f"can not be removed: {error.strerror}") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def _previous(self, name: str) -> Path:
        return self.path / f"{name}.json.previous"

    def _remedy(self, name: str) -> str:
        previous = self._previous(name)
        return f"its previous content is in {previous}" if previous.exists() else ""

    def _check_owner(self) -> None:
        status = self.path.stat()
        if status.st_uid != os.geteuid():
            raise StateError(self.path, f"belongs to user {status.st_uid}, not to {os.geteuid()}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(status.st_mode)
            raise StateError(self.path, f"has mode {mode:04o}, others may write to it", f"chmod 700 {self.path}")

    def _take_lock(self) -> None:
        place = self.path / "lock"
        self._lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(self.path, f"in use by another annexd, {lock_holder(os.fstat(self._lock))}") from None

    def _check_origin(self, machine: dict[str, str], *, adopt: bool) -> None:
        now = machine | {"lock": str(os.fstat(self._lock).st_ino)}
        recorded = self.read(_ORIGIN)
        difference = state_origin.difference(recorded, now) if recorded is not None else ""
        if difference and not adopt:
            raise StateError(
                self.path,
                f"belongs to {difference}: two annexds with one state directory's content damage pairs",
                "where the other one will never run again: annexd adopt; else begin with an empty state directory",
            )
        wanted = now if difference else now | (recorded or {})
        if recorded != wanted:
            self.write(_ORIGIN, wanted)

    def _identity(self, random_bytes: Callable[[int], bytes]) -> str:
        content = self.read(_IDENTITY)
        if content is None:
            content = {"initiator_name": f"iqn.2026-11.io.annex:{random_bytes(12).hex()}"}
            self.write(_IDENTITY, content)
        name = content.get("initiator_name")
        if not isinstance(name, str) or not _INITIATOR_NAME.fullmatch(name):
            raise StateError(
                self._file(_IDENTITY), f"{name!r} is not an initiator name of annex", self._remedy(_IDENTITY)
            )
        return name

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def encode(content: dict[str, Any]) -> bytes:
    """Give a file's bytes: JSON that a person can read, with a checksum of the content."""
    document = {"format": FORMAT, "crc32c": f"{_checksum(content):08x}", "content": content}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode(raw: bytes) -> dict[str, Any]:
    """Give the content of a file.

    Raises:
        ValueError: it is not one that `encode` made; the text says why.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise ValueError(  # noqa: TRY004 - of the file's content, as all others here
            "damaged: it is not a state file"
        )
    if document["format"] > FORMAT:
        raise ValueError(f"format {document['format']} is newer than this annexd knows ({FORMAT})")
    content = document.get("content")
    if not isinstance(content, dict) or document.get("crc32c") != f"{_checksum(content):08x}":
        raise ValueError("damaged: its checksum is wrong")
    return content


def _checksum(content: dict[str, Any]) -> int:
    return int(crc32c(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()))


def _read_all(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_FILE_BYTES)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
