"""Power cuts: what reached the disks under a pair and under annexd's state is logged by dm-log-writes, in one order.

The log is cut at flushes and FUA writes. What was stable by then becomes new disks, and annexd goes on with them. Two
things must hold: both legs have what was acknowledged and flushed before the cut (I1, I8), without any recovery; and
what annexd's state says is different covers all that is different (I7).
"""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT
from tests.support.host import GOOD, SYNCHRONIZE_CACHE, Host
from tests.support.journal import Journal
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.load import BLOCK_BYTES, SLOT_BLOCKS, Load
from tests.support.mapped_disk import prepare
from tests.support.mapped_pair import PORT, TARGET, InnerAnnexd
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served
from tests.support.write_log import SECTOR_BYTES, Part, StableDisk, entries

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

ARRAY_PORT = PORT + 1
MIB = 1 << 20
STATE_MIB, LEG_MIB, LOG_MIB = 48, 16, 256
SLOTS = 32
LOAD_BYTES = SLOTS * SLOT_BLOCKS * BLOCK_BYTES
ROUNDS, WRITES = 30, 12
CUTS = int(os.environ.get("ANNEX_CUTS", "6"))
MARK = "flushed-"
LOCAL, REMOTE = 1, 2
NAMES = ("state", "local", "remote")
SIZES = (STATE_MIB * MIB, LEG_MIB * MIB, LEG_MIB * MIB)
PARTS = [Part(sum(SIZES[:number]) // SECTOR_BYTES, size // SECTOR_BYTES) for number, size in enumerate(SIZES)]
_SET_UP = """
export DM_DISABLE_UDEV=1
truncate -s "$1" /run/disk.img
truncate -s "$2" /run/log.img
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /run/disk.img "$3"
disk=$(losetup --find --show /run/disk.img)
log=$(losetup --find --show /run/log.img)
cp --sparse=always /run/disk.img "$4/base.img"
dmsetup create power --table "0 $(($1 / 512)) log-writes $disk $log"
shift 4
while [ $# -gt 0 ]; do
    dmsetup create "$1" --table "0 $3 linear /dev/mapper/power $2"
    shift 3
done
mkdir -p /mnt/state
mount -t ext4 /dev/mapper/state /mnt/state
"""
_TAKE_DOWN = """
export DM_DISABLE_UDEV=1
umount /mnt/state
dmsetup remove state local remote
dmsetup remove power
sync
cp --sparse=always /run/log.img "$1/log.img"
cp -r /run/array/state "$1/array-state"
"""


class Logged(NamedTuple):
    """A life of a pair: its disks before, the log of them, and after each mark what was acknowledged and flushed."""

    folder: Path
    journals: list[Journal]


def config_of(portal: str, device: str, anyone: str, array: str = "") -> dict[str, Any]:
    """Give the configuration of the box, or with no `array` that of the array."""
    config: dict[str, Any] = {
        "devices": [{"name": "disk", "path": device}],
        "virtual_devices": [{"name": "data", "regions": [{"device": "disk"}]}],
        "targets": [
            {
                "name": TARGET,
                "portals": [portal],
                "luns": [{"lun": 0, "virtual_device": "data"}],
                "anyone": {"addresses": [anyone], "array_control": True},
            }
        ],
    }
    if array:
        config["arrays"] = [{"name": "old", "portal": array, "target": TARGET}]
        config["virtual_devices"].append({"name": "copy", "regions": [{"array": "old", "lun": 0}]})
        config["targets"][0]["luns"].append({"lun": 1, "virtual_device": "copy"})
    return config


def link(folder: Path, name: str, disk: Path) -> None:
    """Have the name of a disk, which annexd keeps, stand for `disk`."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(disk)


@pytest.fixture(scope="module")
def logged(network: LinuxNetwork, linux_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("power")
    with LinuxHost(network, linux_folder, number=7, memory_mib=1024) as host:
        prepare(host)
        host.sh('mkdir /mnt/share; mount -t hostfs none /mnt/share -o "$1"', str(folder))
        rows = [str(word) for name, part in zip(NAMES, PARTS, strict=True) for word in (name, *part)]
        numbers = (sum(SIZES), LOG_MIB * MIB, f"{STATE_MIB}M")
        host.sh(_SET_UP, *map(str, numbers), "/mnt/share", *rows)
        array_portal, portal = (f"{host.address()}:{port}" for port in (ARRAY_PORT, PORT))
        for name in NAMES[LOCAL:]:
            link(folder, name, Path(f"/dev/mapper/{name}"))
        array_config = config_of(array_portal, str(folder / "remote"), f"{host.address()}/32")
        config = config_of(portal, str(folder / "local"), f"{network.address()}/32", array_portal)
        array = InnerAnnexd(host, "/run/array", array_config, ARRAY_PORT)
        with array, InnerAnnexd(host, "/run/box", config | {"state_directory": "/mnt/state/annex"}) as box:
            journals = live(host, box)
            assert "Traceback" not in box.log()
        host.sh(_TAKE_DOWN, "/mnt/share")
    return Logged(folder, journals)


def live(host: LinuxHost, box: InnerAnnexd) -> list[Journal]:
    """Form the pair and write to it; the log gets a mark each time all that was acknowledged is flushed."""
    load = Load(SLOTS, seed=6)
    journals: list[Journal] = []
    with box.connect() as session:
        assert create_pair(session, 1, FenceLevel.STATUS).status == GOOD
        wait_for_pair(session, PairState.PAIR)
        for number in range(ROUNDS):
            journals.append(copy.deepcopy(load.journal))
            host.run("dmsetup", "message", "power", "0", "mark", f"{MARK}{number}")
            load.run(session, WRITES)
            assert session.command(SYNCHRONIZE_CACHE).status == GOOD
        assert load.failed == []
    journals.append(load.journal)
    return journals


class Cut(NamedTuple):
    """A power cut: after so many entries of the log, what of the journal must be there, and what is stable by then."""

    entries: int
    journal: Journal
    disk: StableDisk


def cuts(logged: Logged) -> Iterator[Cut]:
    """Give one at each flush and each FUA write, once the pair is in PAIR; its disk is good until the next one."""
    disk = StableDisk(bytearray((logged.folder / "base.img").read_bytes()), PARTS)
    journal: Journal | None = None
    for number, entry in enumerate(entries(logged.folder / "log.img")):
        if entry.mark.startswith(MARK):  # the kernel makes one of its own at the end
            journal = logged.journals[-1].acknowledged_as(logged.journals[int(entry.mark.removeprefix(MARK))])
        if disk.take(entry) and journal is not None:
            yield Cut(number, journal, disk)


def test_f06_what_was_acknowledged_and_flushed_is_on_both_disks_at_every_power_cut(logged: Logged) -> None:
    count = 0
    for cut in cuts(logged):
        count += 1
        for leg in (LOCAL, REMOTE):
            assert list(cut.journal.wrong(0, cut.disk.part(leg, LOAD_BYTES))) == [], (NAMES[leg], cut.entries)
    assert count > 2 * ROUNDS


def test_f06_after_a_power_cut_the_pair_goes_on_with_equal_legs(logged: Logged, tmp_path: Path) -> None:
    count = sum(1 for _ in cuts(logged))
    chosen = set(random.Random(6).sample(range(count), min(CUTS, count)))
    for number, cut in enumerate(cuts(logged)):
        if number in chosen:
            recover(logged, cut, tmp_path / str(number))


def recover(logged: Logged, cut: Cut, folder: Path) -> None:
    """Start the array and annexd on what the power cut left, and check that the pair comes back whole."""
    folder.mkdir()
    for part, name in enumerate(NAMES):
        link(logged.folder, name, folder / f"{name}.img")
        (folder / f"{name}.img").write_bytes(cut.disk.part(part, SIZES[part]))
    state = folder / "state.img"
    checked = subprocess.run(["e2fsck", "-fy", state], capture_output=True, text=True, check=False, timeout=30)
    assert checked.returncode in (0, 1), checked.stdout
    subprocess.run(["debugfs", "-R", f"rdump annex {folder}", state], capture_output=True, check=True, timeout=30)
    array_folder = folder / "array"
    array_folder.mkdir()
    subprocess.run(["cp", "-r", logged.folder / "array-state", array_folder / "state"], check=True)
    for place in (folder / "annex", array_folder / "state"):
        adopt = [sys.executable, "-I", str(ROOT), "adopt", "--state", str(place)]  # the machine is another one now
        subprocess.run(adopt, capture_output=True, check=True, timeout=30)
    array_portal, portal = (f"127.0.0.1:{free_port()}" for _ in range(2))
    array_config = config_of(array_portal, str(logged.folder / "remote"), "127.0.0.1/32")
    config = config_of(portal, str(logged.folder / "local"), "127.0.0.1/32", array_portal)
    common = {"version": 2, "state_directory": str(array_folder / "state")}
    box_common = common | {"state_directory": str(folder / "annex")}
    with Served(array_folder, common | array_config), Served(folder, box_common | config) as box:
        with Host(box.port, target=TARGET) as host:
            wait_for_pair(host, PairState.PAIR)
        log = box.log()
    assert (folder / "local.img").read_bytes() == (folder / "remote.img").read_bytes(), cut.entries
    data = (folder / "local.img").read_bytes()[:LOAD_BYTES]
    assert list(cut.journal.wrong(0, data)) == [], cut.entries
    assert "differ between its legs" not in log, f"after entry {cut.entries}\n{log}"  # the marks covered it (I7)
    assert "Traceback" not in log
