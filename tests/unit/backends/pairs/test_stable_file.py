from __future__ import annotations

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
