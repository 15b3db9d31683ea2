"""The last versions of the configuration file, kept in the folder `backup` beside it.

A backup's name is that of the file, a number that counts the versions, and when that version was written:
annex-000017-20261123T012644Z.json. Each holds all secrets, and has mode 0600 in a folder with mode 0700.
"""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from config import files

KEPT = 10
DIRECTORY = "backup"
LAST_TIME_S = 253402300799.0  # the end of 9999; a file may claim any time


class Backup(NamedTuple):
    """One earlier version: its number, when it was written (UTC), and its file."""

    number: int
    written: dt.datetime
    path: Path


def listed(path: Path) -> list[Backup]:
    """List the backups of the configuration file `path`, the newest first.

    Raises:
        OSError: the folder can not be read.
    """
    path = files.real(path)
    name = re.compile(rf"{re.escape(path.stem)}-(\d{{6,}})-(\d{{8}}T\d{{6}}Z){re.escape(path.suffix)}", re.ASCII)
    found = []
    with suppress(FileNotFoundError):
        for entry in (path.parent / DIRECTORY).iterdir():
            match = name.fullmatch(entry.name)
            if match:
                with suppress(ValueError):  # it is no date: not ours
                    written = dt.datetime.strptime(match[2], "%Y%m%dT%H%M%S%z")
                    found.append(Backup(int(match[1]), written, entry))
    return sorted(found, reverse=True)


def place_for_next(path: Path, written_s: float) -> Path:
    """Give the path at which the version that `path` holds since `written_s` (seconds since 1970) becomes a backup.

    Raises:
        OSError: the folder can not be read.
    """
    path = files.real(path)
    known = listed(path)
    number = known[0].number + 1 if known else 1
    written = dt.datetime.fromtimestamp(min(max(written_s, 0.0), LAST_TIME_S), dt.UTC)
    return path.parent / DIRECTORY / f"{path.stem}-{number:06}-{written:%Y%m%dT%H%M%SZ}{path.suffix}"


def keep(backup: Path, data: bytes) -> None:
    """Write a backup, in its folder, which is made when it is not there.

    Raises:
        OSError: it can not be written.
    """
    files.make_directory(backup.parent)
    files.replace(backup, data)


def prune(path: Path) -> None:
    """Remove all but the newest; one that can not be removed is tried again the next time."""
    with suppress(OSError):
        for backup in listed(path)[KEPT:]:
            backup.path.unlink(missing_ok=True)
