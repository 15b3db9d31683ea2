from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.pairs.stable_file import OsDirectory


def test_what_is_written_is_read_back_in_place(tmp_path: Path) -> None:
    directory = OsDirectory(tmp_path / "pairs")
    file = directory.create("one", 1000)
    file.write(500, b"abc")
    file.sync()
    file.close()
    again = directory.open("one")
    assert again.size() == 1000
    assert again.read(499, 5) == b"\0abc\0"
    assert again.read(998, 100) == b"\0\0"
    again.close()


def test_creating_replaces_and_removing_twice_is_fine(tmp_path: Path) -> None:
    directory = OsDirectory(tmp_path)
    first = directory.create("one", 10)
    first.write(0, b"x")
    first.close()
    second = directory.create("one", 20)
    assert second.read(0, 20) == bytes(20)
    second.close()
    assert directory.names() == ["one"]
    directory.remove("one")
    directory.remove("one")
    assert directory.names() == []


def test_files_and_directory_are_for_the_owner_alone(tmp_path: Path) -> None:
    directory = OsDirectory(tmp_path / "pairs")
    directory.create("one", 10).close()
    assert (tmp_path / "pairs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pairs" / "one").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OsDirectory(tmp_path).open("none")


def test_what_a_killed_daemon_left_unsynced_is_stable_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = OsDirectory(tmp_path)
    directory.create("one", 10).close()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    directory.open("one").close()
    assert synced == [(tmp_path / "one").stat().st_ino]


def test_a_file_that_can_not_be_made_stable_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = OsDirectory(tmp_path)
    directory.create("one", 10).close()

    def open_files() -> list[str]:
        return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())

    before = open_files()

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        directory.open("one")
    assert open_files() == before
