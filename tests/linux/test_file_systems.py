"""File systems of a Linux host on a disk of annexd: made, filled, checked, mounted again, trimmed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.linux.conftest import LoggedIn
from tests.support.linux_host import LinuxHost

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("kernel_log")]

MIB = 1 << 20
FILL = """
mount "$1" /mnt
cp -a /usr/share/zoneinfo /mnt/small
head -c 48M /dev/urandom >/mnt/large
sync
cd /mnt && find . -type f -exec sha256sum {} + >/run/sums && cd /
umount /mnt
"""
COMPARE = """
mount "$1" /mnt
cd /mnt && sha256sum --check --quiet /run/sums && cd /
"""
TRIM = """
rm -r /mnt/*
sync
fstrim -v /mnt
umount /mnt
"""


class FileSystem(NamedTuple):
    """How a kind is made and checked; `scrub` reads what there is of a mounted one."""

    make: str
    check: str
    scrub: str = "true"


FILE_SYSTEMS = {
    "ext4": FileSystem("mkfs.ext4 -q -F", "fsck.ext4 -f -n"),
    "xfs": FileSystem("mkfs.xfs -q -f", "xfs_repair -n"),
    "btrfs": FileSystem("mkfs.btrfs -q -f", "btrfs check", "btrfs scrub start -B /mnt"),
}


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_file_system_keeps_what_it_was_given_and_gives_back_what_it_trims(
    host: LinuxHost, logged_in: LoggedIn, kind: str
) -> None:
    system = FILE_SYSTEMS[kind]
    initiator, disk = logged_in.initiator, logged_in.disk
    host.run(*system.make.split(), disk)
    host.sh(FILL, disk)
    host.run(*system.check.split(), disk)

    initiator.logout()  # the kernel forgets what it has cached of the disk
    initiator.discover()
    initiator.login()
    assert initiator.disk() == disk
    host.sh(COMPARE, disk)
    host.run(*system.scrub.split())
    full = logged_in.file.stat().st_blocks * 512
    assert full > 48 * MIB

    host.sh(TRIM)
    assert logged_in.file.stat().st_blocks * 512 < full - 40 * MIB
    host.run(*system.check.split(), disk)


def read(file: Path, offset: int, count: int) -> bytes:
    """Give a part of a file."""
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(count)


def test_discarded_blocks_read_as_zeros_and_have_no_storage(host: LinuxHost, logged_in: LoggedIn) -> None:
    script = """
    head -c 32M /dev/urandom | dd of="$1" bs=1M iflag=fullblock oflag=direct status=none
    blkdiscard --offset 8M --length 16M "$1"
    dd if="$1" bs=1M skip=8 count=16 iflag=direct status=none | cmp --bytes=16M - /dev/zero
    ! dd if="$1" bs=1M skip=24 count=1 iflag=direct status=none | cmp --quiet --bytes=1M - /dev/zero
    """
    host.run("blkdiscard", logged_in.disk)
    assert logged_in.file.stat().st_blocks == 0
    host.sh(script, logged_in.disk)
    assert logged_in.file.stat().st_blocks * 512 == 16 * MIB
    assert read(logged_in.file, 8 * MIB, 16 * MIB) == bytes(16 * MIB)


def test_zeroes_are_written_without_being_sent(host: LinuxHost, logged_in: LoggedIn) -> None:
    script = """
    counters=/sys/class/net/vec0/statistics/tx_bytes
    head -c 32M /dev/urandom | dd of="$1" bs=1M iflag=fullblock oflag=direct status=none
    before=$(cat $counters)
    blkdiscard --zeroout --offset 4096 --length 16M "$1"
    echo $(($(cat $counters) - before))
    """
    assert int(host.sh(script, logged_in.disk)) < MIB
    assert read(logged_in.file, 4096, 16 * MIB) == bytes(16 * MIB)
    assert any(read(logged_in.file, 4096 - 512, 512))
    assert any(read(logged_in.file, 4096 + 16 * MIB, 512))
