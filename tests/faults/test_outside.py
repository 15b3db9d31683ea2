"""What others do to the legs and the array of a pair, and to annexd itself, on a real annexd with tgt as its array."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backends.pairs.slot_file import SLOT_BYTES
from demo.second_host import write_one_block
from scsi.array_commands import ArrayOut, PairFlag, PairState
from tests.support.annexd import ROOT
from tests.support.control import ControlClient
from tests.support.host import GOOD, Host, HostLost, read_cdb
from tests.support.jumping_annexd import JumpingAnnexd
from tests.support.load import Load
from tests.support.pair_commands import array_out, the_pair, wait_for_pair, wait_until
from tests.support.paired import ARRAY_TARGET, LEG_BYTES, SLOTS, Paired, paired

pytestmark = [pytest.mark.interop, pytest.mark.slow]

BLOCK_BYTES = 512
FREE_LBA = (LEG_BYTES // BLOCK_BYTES) - 8  # the load does not come here
DISK_BYTES = 4 << 20
YEAR_S = 365 * 86400


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Paired]:
    with paired(tmp_path) as running:
        yield running


def reset_by_someone_else(pair: Paired) -> None:
    with Host(pair.array.port, target=ARRAY_TARGET, name="iqn.2026-11.org.example:third") as third:
        assert third.reset_unit(1)


def write_behind_its_back(pair: Paired, lba: int) -> str:
    return write_one_block(f"iscsi://127.0.0.1:{pair.array.port}/{ARRAY_TARGET}/1", lba)


def test_f22_a_reservation_that_a_third_party_resets_is_taken_again_and_what_came_in_between_is_undone(
    pair: Paired,
) -> None:
    load = Load(SLOTS, seed=22)
    with Host(pair.annexd.port) as host:
        for _ in range(5):
            load.run(host, 50)
            time.sleep(0.1)  # annexd has nothing to do, and learns of the reset by its next command
            reset_by_someone_else(pair)
            assert write_behind_its_back(pair, FREE_LBA) in ("GOOD", "RESERVATION CONFLICT")
            load.run(host, 50)
            wait_until(host, lambda row: bool(row.flags & PairFlag.FENCE_HELD))
            assert write_behind_its_back(pair, FREE_LBA) == "RESERVATION CONFLICT"
            wait_for_pair(host, PairState.PAIR)
        assert bytes(host.command(read_cdb(FREE_LBA, 1), data_in_bytes=512).data_in) == bytes(512)
    assert "the fence on" in pair.annexd.log()
    assert load.failed == []
    pair.compare(load)


def test_a_second_host_is_kept_out_from_create_to_delete_and_what_it_wrote_while_annexd_was_down_is_undone(
    pair: Paired,
) -> None:
    def fenced(host: Host, state: PairState) -> None:
        wait_until(host, lambda row: row.state == state and bool(row.flags & PairFlag.FENCE_HELD))
        assert write_behind_its_back(pair, FREE_LBA) == "RESERVATION CONFLICT"

    with Host(pair.annexd.port) as host:
        fenced(host, PairState.PAIR)
        assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
        fenced(host, PairState.PSUS)
        assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
        fenced(host, PairState.PAIR)
    for end in (pair.annexd.kill, pair.annexd.stop):
        end()
        assert write_behind_its_back(pair, FREE_LBA) == "GOOD"  # nobody holds the fence of who is not there
        pair.annexd.start()
        with Host(pair.annexd.port) as host:
            fenced(host, PairState.PAIR)
            wait_until(host, lambda row: not row.flags & PairFlag.UNVERIFIED)
        assert pair.local.read_bytes() == pair.remote.read_bytes() == bytes(LEG_BYTES)
    with Host(pair.annexd.port) as host:
        assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
    assert write_behind_its_back(pair, FREE_LBA) == "GOOD"


@pytest.mark.long
def test_f22_an_array_that_starts_anew_under_load_is_fenced_again(pair: Paired) -> None:
    load = Load(SLOTS, seed=23)
    with Host(pair.annexd.port) as host:

        def restart() -> None:
            pair.array.kill()
            pair.array.start()
            pair.array.add_lun(pair.array.add_target(ARRAY_TARGET), pair.remote)

        for _ in range(2):
            load.run(host, 100, then=restart)
            load.run(host, 100)
            wait_until(host, lambda row: bool(row.flags & PairFlag.FENCE_HELD))
            assert write_behind_its_back(pair, FREE_LBA) == "RESERVATION CONFLICT"
    assert load.failed == []
    pair.compare(load)


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_f16_a_leg_put_back_from_an_old_snapshot_while_annexd_was_down(pair: Paired, clean: bool) -> None:
    load = Load(SLOTS, seed=16)
    with Host(pair.annexd.port) as host:
        load.run(host, 100)
        snapshot = pair.remote.read_bytes()
        load.run(host, 100)
    if clean:
        pair.annexd.stop()
    else:
        pair.annexd.kill()
    with pair.remote.open("r+b") as file:
        file.write(snapshot)
    pair.annexd.start()
    pair.compare(load)
    assert "differ between its legs" in pair.annexd.log() or not clean


def cut(file: Path) -> None:
    os.truncate(file, 100)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for at in range(20, len(content), 512):
        content[at] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip], ids=["lost", "cut", "flipped"])
def test_f20_marks_that_are_lost_or_damaged_mean_that_everything_is_copied(
    pair: Paired, damage: Callable[[Path], None]
) -> None:
    load = Load(SLOTS, seed=20)
    with Host(pair.annexd.port) as host:
        load.run(host, 100)
        assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
        load.run(host, 20)  # some of it differs, and only the marks say what
    pair.annexd.stop()
    damage(pair.annexd.folder / "state/pairs/pair-000001.marks")
    pair.annexd.start()
    with Host(pair.annexd.port) as host:
        row = the_pair(host)
        assert (row.state, row.out_of_sync_blocks) == (PairState.PSUS, LEG_BYTES // BLOCK_BYTES)
        wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
    pair.compare(load)
    assert load.failed == []


def test_f21_a_damaged_slot_of_the_record_leaves_the_other_one(pair: Paired) -> None:
    load = Load(SLOTS, seed=21)
    with Host(pair.annexd.port) as host:
        load.run(host, 100)
        assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
    record = pair.annexd.folder / "state/pairs/pair-000001.state"
    for slot in (0, 1):
        pair.annexd.stop()
        with record.open("r+b") as file:
            file.seek(slot * SLOT_BYTES + 40)
            file.write(b"\xff" * 8)
        pair.annexd.start()
        with Host(pair.annexd.port) as host:
            assert the_pair(host).state == PairState.PSUS
            load.run(host, 20)
            wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
            wait_for_pair(host, PairState.PAIR)
            assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
    with Host(pair.annexd.port) as host:
        assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
    pair.compare(load)
    assert load.failed == []


def groups_of(ranges: list[dict[str, int]]) -> list[int]:
    """Give the groups of 4 KiB in ranges of the control API; they are whole."""
    assert all(row["first_lba"] % 8 == row["blocks"] % 8 == 0 for row in ranges)
    return [lba // 8 for row in ranges for lba in range(row["first_lba"], row["first_lba"] + row["blocks"], 8)]


def listed_groups(pair: Paired, limit: int) -> list[int]:
    """Give the groups that the control API lists as out of sync, page by page."""
    api = ControlClient(pair.control)
    groups: list[int] = []
    page: dict[str, Any] = {"next_lba": 0}
    while page["next_lba"] is not None:
        page = api.get(f"/v1/pairs/1/out_of_sync?first_lba={page['next_lba']}&limit={limit}")
        assert len(page["ranges"]) <= limit
        groups += groups_of(page["ranges"])
    assert page["out_of_sync_blocks"] == len(groups) * 8
    return groups


def test_f29_flipped_bits_on_one_leg_are_counted_and_a_resync_mends_them(pair: Paired) -> None:
    load = Load(SLOTS, seed=29)
    rng = random.Random(29)
    with Host(pair.annexd.port) as host:
        load.run(host, 100)
        assert array_out(host, ArrayOut.PAIR_VERIFY).status == GOOD
        assert the_pair(host).out_of_sync_blocks == 0
        groups = sorted(
            {*rng.sample(range(LEG_BYTES // 4096), 5), 1023, 1024}
        )  # these two: beside each other, in two extents
        with pair.remote.open("r+b") as file:
            for group in groups:
                place = group * 4096 + rng.randrange(4096)
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        assert array_out(host, ArrayOut.PAIR_VERIFY).status == GOOD
        assert the_pair(host).out_of_sync_blocks == len(groups) * 8  # a bit is 4 KiB
        assert listed_groups(pair, limit=2) == groups
        assert listed_groups(pair, limit=1000) == groups
        shown = subprocess.run(
            [ROOT / "bin" / "annexcli", "--socket", str(pair.control), "--json", "/pairs/1", "ranges"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert groups_of(json.loads(shown.stdout)["ranges"]) == groups
        assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
    pair.compare(load)
    assert listed_groups(pair, limit=1) == []


@pytest.mark.long
@pytest.mark.parametrize("still_s", [6, 60])  # more than a stall, and longer than any command or session waits
def test_f30_what_others_wrote_while_annexd_stood_still_is_undone(pair: Paired, still_s: int) -> None:
    load = Load(SLOTS, seed=30)
    with Host(pair.annexd.port) as host:
        load.run(host, 100)
        os.kill(pair.annexd.pid, signal.SIGSTOP)
        try:
            reset_by_someone_else(pair)
            assert write_behind_its_back(pair, FREE_LBA) == "GOOD"
            time.sleep(still_s)  # what is tested is a daemon that stands still
        finally:
            os.kill(pair.annexd.pid, signal.SIGCONT)
        load.run(host, 100)
        wait_for_pair(host, PairState.PAIR)
        assert write_behind_its_back(pair, FREE_LBA) == "RESERVATION CONFLICT"
    assert load.failed == []
    pair.compare(load)


def test_f30_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    load = Load(SLOTS, seed=33)
    with paired(tmp_path, program=JumpingAnnexd) as pair, Host(pair.annexd.port) as host:
        assert isinstance(pair.annexd, JumpingAnnexd)
        for years in (0, 100, -25, 0, 1):
            load.run(host, 100, then=partial(pair.annexd.set_clock, years * YEAR_S))
            load.run(host, 100)
            row = the_pair(host)
            assert row.state == PairState.PAIR
            assert row.flags == PairFlag.FENCE_HELD, "neither lapsed nor unverified"
            with Host(pair.annexd.port, isid=b"\x80\0\0\0\0\x02"):
                """A login is a line of the log, with a date."""
        assert load.failed == []
        dates = {line[:4] for line in pair.annexd.log().splitlines() if "has logged in" in line}
        assert len(dates) == 4, "its clock has jumped"
        pair.annexd.kill()
        pair.annexd.set_clock(-10 * YEAR_S)
        pair.annexd.start()  # in a time before its state was written
        pair.compare(load)


@pytest.mark.long
def test_f30_without_file_descriptors_those_who_are_in_are_served(pair: Paired) -> None:
    load = Load(SLOTS, seed=31)
    with Host(pair.annexd.port) as host:
        load.run(host, 50)
        taken = {int(entry.name) for entry in Path(f"/proc/{pair.annexd.pid}/fd").iterdir()}
        lowest_free = next(number for number in itertools.count() if number not in taken)
        limits = resource.prlimit(pair.annexd.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pair.annexd.pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        with ExitStack() as others:
            for number in range(4):
                with suppress(HostLost):
                    others.enter_context(Host(pair.annexd.port, isid=bytes((0x80, 0, 0, 0, 1, number))))
                    pytest.fail("there was a descriptor for it")
                load.run(host, 20)
        resource.prlimit(pair.annexd.pid, resource.RLIMIT_NOFILE, limits)
    assert load.failed == []
    pair.compare(load)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a file system of its own")
@pytest.mark.long
def test_f30_a_full_state_directory_costs_a_pair_that_is_there_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(disk)], check=True)
    try:
        with paired(tmp_path, state=disk) as pair:
            load = Load(SLOTS, seed=32)
            pair.annexd.stop()  # closes the marks
            pair.annexd.start()
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            with Host(pair.annexd.port) as host:
                load.run(host, 100)  # marks and state are in files that have all their blocks
            pair.annexd.kill()
            ballast.unlink()
            pair.annexd.start()
            pair.compare(load)
            assert load.failed == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
