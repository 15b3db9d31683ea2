"""F17, F18: another LU where a leg of a pair was, and LUs that have changed places, under load; the array is annexd."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, write_cdb
from tests.support.load import BLOCK_BYTES, SLOT_BLOCKS, Load
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair, wait_until
from tests.support.paired import LEG_BYTES, SLOTS, compare
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

TARGET = "iqn.2026-11.org.example:array"
LIMIT_S = 60.0
GONE = "LOGICAL UNIT NOT SUPPORTED"
FREE_LBA = SLOTS * SLOT_BLOCKS  # the load does not come here
NAMES = ("remote", "stranger")


class Replaceable(NamedTuple):
    """A pair whose array has two LUs, of which the pair knows one."""

    annexd: Annexd
    array: Served
    files: dict[str, Path]

    def map(self, *names: str) -> None:
        """Take all LUs of the array away, and show these as LUN 0, 1, … as soon as annexd has missed its own."""
        before = self.annexd.log().count(GONE)
        self.show()
        with Host(self.annexd.port, isid=b"\x80\0\0\0\0\x02") as other:
            other.submit(write_cdb(FREE_LBA, 1), lambda _: None, data_out=bytes(BLOCK_BYTES))
            deadline = time.monotonic() + LIMIT_S
            while self.annexd.log().count(GONE) == before:
                other.pump(0.01)
                assert time.monotonic() < deadline
            self.show(*names)

    def show(self, *names: str) -> None:
        """Have the array show these as LUN 0, 1, …."""
        assert "reloaded" in self.array.reload(configuration(self.array.folder, self.array.port, names, self.files))


def configuration(folder: Path, port: int, names: tuple[str, ...], files: dict[str, Path]) -> dict[str, Any]:
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(files[name])} for name in NAMES],
        "virtual_devices": [{"name": name, "regions": [{"device": name}]} for name in NAMES],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{port}"],
                "luns": [{"lun": lun, "virtual_device": name} for lun, name in enumerate(names)],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
    }


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Replaceable]:
    files = {name: tmp_path / f"{name}.img" for name in ("local", *NAMES)}
    for name, path in files.items():
        path.write_bytes((b"\xee" if name == "stranger" else b"\0") * LEG_BYTES)
    folder = tmp_path / "array"
    folder.mkdir()
    port = free_port()
    with Served(folder, configuration(folder, port, ("remote",), files)) as array:
        url = f"iscsi://127.0.0.1:{port}/{TARGET}/0"
        with Annexd(tmp_path, ("--local", files["local"]), ("--array", url)) as annexd:
            with Host(annexd.port) as host:
                assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
                wait_for_pair(host, PairState.PAIR)
            yield Replaceable(annexd, array, files)
    assert files["stranger"].read_bytes() == b"\xee" * LEG_BYTES


@pytest.mark.parametrize("at_once", [False, True])
def test_f17_another_lu_at_the_place_of_a_leg_is_never_written(pair: Replaceable, at_once: bool) -> None:
    load = Load(SLOTS, seed=17)
    with Host(pair.annexd.port) as host:
        if at_once:  # what is in flight when they change places can not be kept from the stranger: nothing is
            load.run(host, 100)
            pair.show("stranger")
            load.run(host, 1)
        else:
            load.run(host, 100, then=lambda: pair.map("stranger"))
        deadline = time.monotonic() + LIMIT_S
        while the_pair(host).state != PairState.PSUE:
            assert time.monotonic() < deadline
            load.run(host, 20)
        assert array_out(host, ArrayOut.PAIR_RESYNC).status != GOOD
        assert load.check(host) == []
        pair.show("remote")
        wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
        wait_for_pair(host, PairState.PAIR)
        load.run(host, 50)
    assert load.failed == []
    compare(pair.annexd, pair.files["local"], pair.files["remote"], load)


def test_f18_lus_that_change_places_are_told_apart(pair: Replaceable) -> None:
    load = Load(SLOTS, seed=18)
    with Host(pair.annexd.port) as host:
        for names in (("stranger", "remote"), ("remote", "stranger")):
            load.run(host, 100, then=lambda names=names: pair.map(*names))  # type: ignore[misc]  # a default binds it
            load.run(host, 50)
            wait_until(host, lambda row: bool(row.flags & PairFlag.FENCE_HELD))
            if the_pair(host).state == PairState.PSUE:
                wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
        load.run(host, 50)
    assert load.failed == []
    compare(pair.annexd, pair.files["local"], pair.files["remote"], load)
