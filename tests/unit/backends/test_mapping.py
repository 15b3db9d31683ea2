"""The mapping table: numbers and ids given once, kept, and never moved to other data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from backends.mapping import MappingTable, RegionRow
from backends.state_directory import StateDirectory, StateError
from scsi.volume import Fault, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.workers import VirtualWorkers

DISK = RegionRow(kind="local", device="disk", path="/dev/sda")
PART = RegionRow(kind="local", device="disk", path="/dev/sda", first_lba=100, wanted_blocks=50)
FAR = RegionRow(kind="external", array="old", lun=3)


class Daemon:
    """A daemon's mapping table, which can be started again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.scheduler = VirtualScheduler()
        self.workers = VirtualWorkers(self.scheduler)
        self.state = StateDirectory(self.path)
        try:
            self.table = MappingTable(self.state, self.workers)
        except StateError:
            self.state.close()
            raise

    def restart(self) -> None:
        self.state.close()
        self.start()

    def learn(self, number: int, blocks: int, identifier: bytes = b"") -> list[VolumeError | None]:
        done: list[VolumeError | None] = []
        self.table.learn(number, blocks, 512, identifier, done.append)
        self.scheduler.run_until_idle()
        return done


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "state")


def test_numbers_start_at_1_and_ids_differ(daemon: Daemon) -> None:
    rows = daemon.table.define([("a", [DISK]), ("b", [FAR, PART])])
    assert [row.number for row in rows] == [1, 2]
    assert [[region.number for region in row.regions] for row in rows] == [[1], [2, 3]]
    assert rows[0].naa != rows[1].naa


def test_table_is_the_same_after_a_restart(daemon: Daemon) -> None:
    before = daemon.table.define([("a", [DISK]), ("b", [FAR, PART])])
    daemon.restart()
    assert daemon.table.define([("b", [FAR, PART]), ("a", [DISK])]) == before[::-1]


def test_virtual_device_is_found_by_name_number_and_id(daemon: Daemon) -> None:
    row = daemon.table.define([("a", [DISK]), ("b", [FAR])])[1]
    assert daemon.table.by_name("b") is row
    assert daemon.table.by_number(2) is row
    assert daemon.table.by_naa(row.naa_bytes) is row
    assert daemon.table.region(2) is row.regions[0]
    assert daemon.table.by_naa(bytes(16)) is None
    assert daemon.table.by_number(3) is None


def test_numbers_of_a_removed_virtual_device_are_not_used_again_and_it_gets_them_back(daemon: Daemon) -> None:
    first = daemon.table.define([("a", [DISK]), ("b", [FAR])])
    daemon.restart()
    daemon.table.define([("a", [DISK]), ("c", [PART])])
    assert daemon.table.by_name("c") is not None
    assert daemon.table.define([("c", [PART])])[0].number == 3
    daemon.restart()
    assert daemon.table.define([("b", [FAR])]) == [first[1]]


ID = "602616e" + "0" * 24 + "a"


def test_an_id_that_the_configuration_gives_is_that_of_the_row(daemon: Daemon) -> None:
    rows = daemon.table.define([("a", [DISK]), ("b", [FAR])], {"b": ID})
    assert [row.naa == ID for row in rows] == [False, True]
    daemon.restart()
    assert daemon.table.define([("a", [DISK]), ("b", [FAR])], {"b": ID, "a": rows[0].naa}) == rows
    assert daemon.table.define([("a", [DISK]), ("b", [FAR])]) == rows


def test_an_id_of_a_row_whose_name_is_gone_takes_the_row_to_its_new_name(daemon: Daemon) -> None:
    before = daemon.table.define([("a", [DISK]), ("b", [FAR])], {"b": ID})
    daemon.restart()
    after = daemon.table.define([("a", [DISK]), ("c", [FAR])], {"c": ID})
    assert after[1] == msgspec.structs.replace(before[1], name="c")
    assert [row.name for row in daemon.table.rows()] == ["a", "c"]
    with pytest.raises(StateError, match="give what is made otherwise"):
        daemon.table.define([("d", [PART])], {"d": ID})


@pytest.mark.parametrize(
    ("wanted", "ids", "words"),
    [
        ([("a", [DISK])], {"a": ID[:-1] + "b"}, f"'a' has the id {ID}; the configuration now says"),
        ([("a", [DISK]), ("b", [FAR])], {"b": ID}, "'b' is given the id .*, which is that of virtual device 'a'"),
    ],
)
def test_another_id_or_that_of_another_is_refused_and_changes_nothing(
    daemon: Daemon, wanted: list[tuple[str, list[RegionRow]]], ids: dict[str, str], words: str
) -> None:
    daemon.table.define([("a", [DISK])], {"a": ID})
    before = daemon.table.rows()
    with pytest.raises(StateError, match=words):
        daemon.table.define(wanted, ids)
    name, regions = wanted[-1]
    with pytest.raises(StateError, match=words):
        daemon.table.check(name, regions, ids[name])
    assert daemon.table.rows() == before


def test_a_deleted_one_comes_back_under_its_id_when_that_is_given(daemon: Daemon) -> None:
    daemon.table.define([("a", [DISK])], {"a": ID})
    assert forget(daemon, "a") is None
    daemon.table.check("a", [FAR], ID)
    done: list[VolumeError | None] = []
    row = daemon.table.add("a", [FAR], done.append, ID)
    daemon.scheduler.run_until_idle()
    assert (done, row.naa, row.number) == ([None], ID, 2)


@pytest.mark.parametrize(
    "other",
    [
        [PART],
        [DISK, PART],
        [msgspec.structs.replace(DISK, device="disk2")],
        [msgspec.structs.replace(DISK, path="/dev/sdb")],
        [msgspec.structs.replace(DISK, first_lba=1)],
        [msgspec.structs.replace(DISK, wanted_blocks=7)],
        [FAR],
    ],
)
def test_other_definition_of_a_known_virtual_device_is_refused_and_changes_nothing(
    other: list[RegionRow], daemon: Daemon
) -> None:
    before = daemon.table.define([("a", [DISK])])
    with pytest.raises(StateError, match=r"virtual device 'a' is number 1, made of disk .*give what is made otherwise"):
        daemon.table.define([("new", [FAR]), ("a", other)])
    assert daemon.table.by_name("new") is None
    daemon.restart()
    assert daemon.table.define([("a", [DISK])]) == before


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        (lambda: msgspec.structs.replace(FAR, lun=4), False),
        (lambda: msgspec.structs.replace(FAR, array="new"), False),
        (lambda: msgspec.structs.replace(FAR, id="beef"), True),
        (lambda: msgspec.structs.replace(FAR, id="dead"), False),
        (lambda: msgspec.structs.replace(FAR, id="beef", lun=4), True),
        (lambda: msgspec.structs.replace(FAR, wanted_blocks=2048), True),
        (lambda: msgspec.structs.replace(FAR, wanted_blocks=2047), False),
    ],
)
def test_external_region_is_known_by_array_and_id(
    change: Callable[[], RegionRow], allowed: bool, daemon: Daemon
) -> None:
    daemon.table.define([("a", [FAR])])
    assert daemon.learn(1, 2048, b"\xbe\xef") == [None]
    daemon.restart()
    if allowed:
        row = daemon.table.define([("a", [change()])])[0]
        assert (row.number, row.regions[0].id, row.regions[0].lun) == (1, "beef", change().lun)
    else:
        with pytest.raises(StateError):
            daemon.table.define([("a", [change()])])


def test_what_is_learnt_is_kept(daemon: Daemon) -> None:
    daemon.table.define([("a", [FAR, PART])])
    assert daemon.learn(1, 2048, b"\xbe\xef") == [None]
    assert daemon.learn(2, 50) == [None]
    daemon.restart()
    row = daemon.table.by_name("a")
    assert row is not None
    assert [(region.blocks, region.block_bytes, region.id) for region in row.regions] == [
        (2048, 512, "beef"),
        (50, 512, ""),
    ]


def test_lessons_learnt_while_one_is_saved_are_saved_together(daemon: Daemon) -> None:
    daemon.table.define([("a", [DISK]), ("b", [FAR]), ("c", [PART])])
    done: list[VolumeError | None] = []
    daemon.workers.held = True
    for number in (1, 2, 3):
        daemon.table.learn(number, 10, 512, b"", done.append)
    daemon.scheduler.run_until_idle()
    assert done == []
    daemon.workers.run_held()
    daemon.scheduler.run_until_idle()
    assert done == [None] * 3
    daemon.restart()
    assert [region.blocks for row in daemon.table.rows() for region in row.regions] == [10] * 3


def test_lesson_that_can_not_be_saved_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.table.define([("a", [DISK])])

    def full(_: StateDirectory, name: str, content: object) -> None:
        raise StateError(Path(name), "no space left")

    monkeypatch.setattr(StateDirectory, "write", full)
    error = daemon.learn(1, 10)[0]
    assert error is not None
    assert (error.fault, error.detail) == (Fault.BLOCKED, "mapping: no space left")


def add(daemon: Daemon, name: str, *wanted: RegionRow) -> VolumeError | None:
    done: list[VolumeError | None] = []
    daemon.table.add(name, wanted, done.append)
    daemon.scheduler.run_until_idle()
    return done[0]


def forget(daemon: Daemon, name: str) -> VolumeError | None:
    done: list[VolumeError | None] = []
    daemon.table.forget(name, done.append)
    daemon.scheduler.run_until_idle()
    return done[0]


def test_what_comes_while_the_daemon_runs_is_there_after_a_restart(daemon: Daemon) -> None:
    daemon.table.define([("a", [DISK])])
    assert add(daemon, "b", FAR, PART) is None
    row = daemon.table.by_name("b")
    assert row is not None
    assert (row.number, [region.number for region in row.regions]) == (2, [2, 3])
    assert daemon.table.region(3) is row.regions[1]
    daemon.restart()
    assert daemon.table.define([("a", [DISK]), ("b", [FAR, PART])])[1] == row


def test_what_was_known_before_comes_back_as_it_was(daemon: Daemon) -> None:
    before = daemon.table.define([("a", [DISK]), ("b", [FAR])])
    daemon.restart()
    daemon.table.define([("a", [DISK])])
    assert add(daemon, "b", FAR) is None
    assert daemon.table.by_name("b") == before[1]


def test_what_was_deleted_is_not_known_any_more_and_its_numbers_are_not_used_again(daemon: Daemon) -> None:
    before = daemon.table.define([("a", [DISK]), ("b", [FAR])])[1]
    assert forget(daemon, "b") is None
    assert daemon.table.by_name("b") is daemon.table.by_naa(before.naa_bytes) is None
    assert daemon.table.region(2) is None
    daemon.restart()
    assert add(daemon, "b", PART) is None
    after = daemon.table.by_name("b")
    assert after is not None
    assert (after.number, after.regions[0].number) == (3, 3)
    assert after.naa != before.naa


def test_a_known_virtual_device_is_checked_and_an_unknown_one_may_be_anything(daemon: Daemon) -> None:
    daemon.table.define([("a", [DISK])])
    daemon.table.check("a", [DISK])
    daemon.table.check("b", [FAR])
    with pytest.raises(StateError, match="the configuration now says"):
        daemon.table.check("a", [PART])


def test_that_it_can_not_be_recorded_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.table.define([("a", [DISK])])

    def full(_: StateDirectory, name: str, content: object) -> None:
        raise StateError(Path(name), "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(StateDirectory, "write", full)
        for error in (add(daemon, "b", FAR), forget(daemon, "b"), forget(daemon, "a")):
            assert error is not None
            assert "no space left" in str(error)
    assert add(daemon, "c", PART) is None
    daemon.restart()
    assert [row.name for row in daemon.table.rows()] == ["c"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda table: table.update(next_virtual_device=2), "number stands twice or is out of range"),
        (lambda table: table["virtual_devices"][1].update(number=1), "number stands twice"),
        (lambda table: table["virtual_devices"][1].update(name="a"), "name of a virtual device stands twice"),
        (lambda table: table["virtual_devices"][1].update(naa="6" * 32), "wrong NAA id"),
        (lambda table: table["virtual_devices"][1].update(naa="xyz"), "non-hexadecimal"),
        (lambda table: table["virtual_devices"][1].update(regions=[]), "has no region"),
        (lambda table: table["virtual_devices"][1]["regions"][0].update(number=1), "region number stands twice"),
        (lambda table: table["virtual_devices"][1]["regions"][0].update(first_lba=-1), "negative"),
        (lambda table: table["virtual_devices"][1]["regions"][0].update(array=""), "lies nowhere"),
        (lambda table: table["virtual_devices"][1]["regions"][0].update(kind="other"), "Invalid enum value"),
        (lambda table: table.update(surprise=1), "unknown field `surprise`"),
    ],
)
def test_table_that_makes_no_sense_is_refused(damage: Callable[[object], None], reason: str, daemon: Daemon) -> None:
    daemon.table.define([("a", [DISK]), ("b", [FAR])])
    content = daemon.state.read("mapping")
    damage(content)
    assert content is not None
    daemon.state.write("mapping", content)
    with pytest.raises(StateError) as caught:
        daemon.restart()
    assert f"{daemon.path}/mapping.json: " in str(caught.value)
    assert reason in str(caught.value)
