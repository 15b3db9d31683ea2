from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backends.state_directory import StateDirectory, StateError
from backends.state_origin import difference, machine_ids

HERE = {"machine": "a", "firmware": "b"}


def open_on(place: Path, machine: dict[str, str], *, adopt: bool = False) -> str:
    """Open and close a state directory on a machine; give the InitiatorName in it."""
    state = StateDirectory(place, machine=lambda: machine, adopt=adopt)
    state.close()
    return state.initiator_name


def test_a_machine_is_known_by_hashes_of_what_it_says_of_itself(tmp_path: Path) -> None:
    assert machine_ids(tmp_path) == {}
    (tmp_path / "etc").mkdir()
    for text in ("", "uninitialized\n"):
        (tmp_path / "etc" / "machine-id").write_text(text)
        assert machine_ids(tmp_path) == {}
    (tmp_path / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    first = machine_ids(tmp_path)
    assert list(first) == ["machine"]
    assert "0123456789abcdef" not in str(first)
    firmware = tmp_path / "sys" / "class" / "dmi" / "id"
    firmware.mkdir(parents=True)
    (firmware / "product_uuid").write_text("4C4C4544-0044\n")
    second = machine_ids(tmp_path)
    assert second["machine"] == first["machine"]
    assert list(second) == ["machine", "firmware"]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (HERE, ""),
        ({}, ""),
        ({"machine": "a"}, ""),
        (HERE | {"lock": "7"}, ""),
        (HERE | {"machine": "x"}, "another machine"),
        (HERE | {"firmware": "x"}, "clone"),
        ({"firmware": "x"}, "clone"),
    ],
)
def test_only_what_is_known_on_both_sides_can_differ(now: dict[str, str], words: str) -> None:
    found = difference(HERE, now)
    assert words in found
    assert bool(found) == bool(words)


def test_a_directory_stays_with_its_machine_however_it_is_called(tmp_path: Path) -> None:
    name = open_on(tmp_path / "state", HERE)
    (tmp_path / "state").rename(tmp_path / "moved")
    assert open_on(tmp_path / "moved", {"machine": "a"}) == name
    with pytest.raises(StateError, match="clone"):
        open_on(tmp_path / "moved", {"firmware": "x"})


def test_on_another_machine_it_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    place, other = tmp_path / "state", {"machine": "x", "firmware": "y"}
    name = open_on(place, HERE)
    for _ in range(2):
        with pytest.raises(StateError, match=r"belongs to another machine: .*\(.*annexd adopt"):
            open_on(place, other)
    assert open_on(place, other, adopt=True) == name
    assert open_on(place, other) == name
    with pytest.raises(StateError, match="another machine"):
        open_on(place, HERE)


def test_a_copy_on_the_same_machine_is_refused(tmp_path: Path) -> None:
    name = open_on(tmp_path / "state", HERE)
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    with pytest.raises(StateError, match="another place, from which it was copied or restored"):
        open_on(tmp_path / "copy", HERE)
    assert open_on(tmp_path / "state", HERE) == name


def test_a_directory_of_an_older_annexd_is_of_the_machine_that_opens_it_first(tmp_path: Path) -> None:
    name = open_on(tmp_path / "state", HERE)
    (tmp_path / "state" / "origin.json").unlink()
    assert open_on(tmp_path / "state", {"machine": "x"}) == name
    with pytest.raises(StateError):
        open_on(tmp_path / "state", HERE)
