"""Who holds a device, told from made-up /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.devices.holders import device_holder, file_system, lock_holder

SDA = os.makedev(8, 0)
SDA2 = os.makedev(8, 2)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    place = tmp_path / "proc"
    (place / "self").mkdir(parents=True)
    (place / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
    return place


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """A machine with the disk sda, its partition sda2, and a loop device."""
    place = tmp_path / "sys"
    partition = place / "devices/sda/sda2"
    partition.mkdir(parents=True)
    (place / "devices/sda/dev").write_text("8:0\n")
    (partition / "dev").write_text("8:2\n")
    (partition / "partition").write_text("2\n")
    (place / "dev/block").mkdir(parents=True)
    (place / "dev/block/8:0").symlink_to(place / "devices/sda")
    (place / "dev/block/8:2").symlink_to(partition)
    (place / "block/loop3/loop").mkdir(parents=True)
    return place


def mount(proc: Path, number: str, where: str, source: str) -> None:
    (proc / "self/mountinfo").write_text(
        "21 1 0:20 / /sys rw shared:7 - sysfs sysfs rw\n"
        f"30 1 {number} / {where} rw,noatime shared:1 - ext4 {source} rw\n"
    )


def test_mount_is_named_by_device_number(proc: Path, sys: Path) -> None:
    mount(proc, "8:0", "/mnt/with\\040blank", "/dev/disk/by-label/x")
    assert device_holder(SDA, proc, sys) == "sda is mounted at /mnt/with blank"


def test_mounted_partition_holds_its_disk_and_the_other_way_round(proc: Path, sys: Path) -> None:
    mount(proc, "8:2", "/srv", "/dev/sda2")
    assert device_holder(SDA, proc, sys) == "sda2 is mounted at /srv"
    mount(proc, "8:0", "/srv", "/dev/sda")
    assert device_holder(SDA2, proc, sys) == "sda is mounted at /srv"


def test_mount_of_a_file_system_with_numbers_of_its_own_is_found_by_source(proc: Path, sys: Path) -> None:
    mount(proc, "0:44", "/data", "/dev/sda2")
    assert device_holder(SDA2, proc, sys) == "sda2 is mounted at /data"


def test_mount_that_only_process_1_sees_is_named(proc: Path, sys: Path) -> None:
    mount(proc, "8:0", "/srv", "/dev/sda")
    (proc / "self").rename(proc / "1")
    assert device_holder(SDA, proc, sys) == "sda is mounted at /srv"


def test_swap_is_named(proc: Path, sys: Path) -> None:
    (proc / "swaps").write_text("Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2\n")
    assert device_holder(SDA, proc, sys) == "sda2 is in use as swap"


def test_device_mapper_on_it_is_named(proc: Path, sys: Path) -> None:
    (sys / "devices/sda/sda2/holders/dm-0").mkdir(parents=True)
    (sys / "class/block/dm-0/dm").mkdir(parents=True)
    (sys / "class/block/dm-0/dm/name").write_text("vg-root\n")
    assert device_holder(SDA2, proc, sys) == "sda2 is part of dm-0 (vg-root)"


def test_loop_device_over_it_is_named(proc: Path, sys: Path) -> None:
    (sys / "block/loop3/loop/backing_file").write_text("/dev/sda2\n")
    assert device_holder(SDA2, proc, sys) == "sda2 is under loop3"


def test_nothing_to_be_found_is_another_program(proc: Path, sys: Path) -> None:
    assert device_holder(SDA, proc, sys) == "held by another program"


def test_lock_holder_is_named(proc: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    status = file.stat()
    identity = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    (proc / "locks").write_text(
        f"1: POSIX  ADVISORY  WRITE 11 {identity} 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 {identity} 0 EOF\n"
    )
    (proc / "77").mkdir()
    (proc / "77/comm").write_text("annexd\n")
    assert lock_holder(status, proc) == "held by process 77 (annexd)"
    (proc / "locks").write_text("")
    assert lock_holder(status, proc) == "held by another program"


def test_file_system_type_is_read_from_the_mounts(proc: Path) -> None:
    mount(proc, "8:2", "/srv", "/dev/sda2")
    assert file_system(SDA2, proc) == "ext4"
    assert file_system(SDA, proc) == ""
