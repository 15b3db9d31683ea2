"""What a Linux host makes of a disk of annexd: the sd driver, sg3-utils, sg_persist."""

from __future__ import annotations

import re

import pytest

from tests.linux.conftest import DISK_BYTES, LoggedIn
from tests.support.kernel_log import KernelLog
from tests.support.linux_host import LinuxHost

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("kernel_log")]

# What annexd promises of a file that gives storage back, as the sd driver and the block layer have understood it.
PROMISES = {
    "size": DISK_BYTES // 512,
    "ro": 0,
    "removable": 0,
    "queue/logical_block_size": 512,
    "queue/physical_block_size": 4096,
    "queue/hw_sector_size": 512,
    "queue/rotational": 0,
    "queue/write_cache": "write back",
    "queue/fua": 1,
    "queue/minimum_io_size": 4096,
    "queue/optimal_io_size": 1 << 20,
    "queue/max_hw_sectors_kb": 32767,  # the initiator's own; below it, sd takes the optimal length
    "queue/max_sectors_kb": 1024,
    "queue/discard_granularity": 4096,
    "queue/discard_max_hw_bytes": 64 << 20,
    "queue/write_zeroes_max_bytes": 16 << 20,
    "queue/zoned": "none",
    "device/vendor": "ANNEX",
    "device/model": "VIRTUAL DISK",
    "device/scsi_level": 7,  # SPC-4
    "device/state": "running",
    "device/queue_depth": 32,
    "scsi_disk/cache_type": "write back",
    "scsi_disk/FUA": 1,
    "scsi_disk/protection_type": 0,
    "scsi_disk/thin_provisioning": 1,
    "scsi_disk/provisioning_mode": "unmap",
    "scsi_disk/zeroing_mode": "writesame_16_unmap",
    "scsi_disk/max_medium_access_timeouts": 2,
}
_SYSFS = """
cd "/sys/block/${1#/dev/}"; shift
for name; do printf '%s=' "$name"; cat "${name/#scsi_disk/$(echo device/scsi_disk/*)}"; done
"""


def test_the_disk_driver_sees_what_annexd_promises(host: LinuxHost, logged_in: LoggedIn) -> None:
    lines = host.sh(_SYSFS, logged_in.disk, *PROMISES).splitlines()
    seen = dict(line.rstrip().split("=", 1) for line in lines)
    assert seen == {name: str(value) for name, value in PROMISES.items()}


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("sg_inq DISK", "ANNEX"),
        ("sg_inq --page=0xb0 DISK", "Maximum unmap LBA count: 131072"),
        ("sg_vpd --page=sv DISK", "Logical block provisioning"),
        ("sg_vpd --page=sn DISK", "Unit serial number"),
        ("sg_vpd --page=di DISK", "NAA"),
        ("sg_vpd --page=bl DISK", "Maximum transfer length: 32768 blocks"),
        ("sg_vpd --page=bdc DISK", "Non-rotating medium"),
        ("sg_vpd --page=lbpv DISK", "Provisioning type: 2"),
        ("sg_readcap DISK", f"Last LBA={DISK_BYTES // 512 - 1} "),
        ("sg_readcap --16 DISK", "lbpme=1, lbprz=1"),
        ("sg_logs --all DISK", "Informational Exceptions page"),
        ("sg_logs --page=lbp DISK", "Scope: dedicated to lu"),
        ("sg_persist --in --report-capabilities DISK", "Exclusive Access, all registrants: 1"),
        ("sg_rtpg --decode DISK", "active/optimized"),
        ("sg_senddiag --test DISK", "GOOD status"),
        ("sg_prevent --allow DISK", ""),
        ("sg_copy_results --params DISK", "Copy from block device to block device"),
        ("sg_sanitize --block --quick --wait DISK", ""),
        ("sg_turs --number=100 DISK", "with 0 errors"),
        ("sg_requests DISK", ""),
        ("sg_luns --decode DISK", "Peripheral device addressing: lun=0"),
        ("sg_modes --all DISK", "Caching"),
        ("sg_modes --page=0x0a DISK", "Control"),
        ("sg_sync DISK", ""),
        ("sg_verify --lba=0 --count=128 DISK", ""),
        ("sg_get_lba_status --lba=0 DISK", "blocks:    1048576"),
        ("sg_start --start DISK", ""),
        ("sg_opcodes --opcode=0x2a DISK", "Command is supported"),
    ],
)
def test_a_tool_of_sg3_utils_understands_the_disk(
    host: LinuxHost, logged_in: LoggedIn, command: str, wanted: str
) -> None:
    words = command.replace("DISK", logged_in.disk).split()
    assert wanted in host.run(*words)


def test_blocks_are_copied_without_being_sent(host: LinuxHost, logged_in: LoggedIn) -> None:
    script = """
    generic=/dev/$(ls "/sys/block/${1#/dev/}/device/scsi_generic")
    head -c 1M /dev/urandom | dd of="$1" bs=1M oflag=direct iflag=fullblock status=none
    sg_xcopy if="$generic" of="$generic" bs=512 count=2048 seek=4096
    dd if="$1" bs=1M count=3 iflag=direct status=none >/run/read
    cmp --ignore-initial=0:2M --bytes=1M /run/read /run/read
    """
    host.sh(script, logged_in.disk)


def test_a_block_is_written_only_if_it_is_what_was_read(host: LinuxHost, logged_in: LoggedIn) -> None:
    script = """
    head -c 512 /dev/zero >/run/zeros; head -c 512 /dev/zero | tr '\\0' A >/run/as
    blkdiscard "$1"
    sg_compare_and_write --in=/run/zeros --inw=/run/as --lba=9 "$1"
    sg_compare_and_write --quiet --in=/run/zeros --inw=/run/zeros --lba=9 "$1" && exit 1
    dd if="$1" bs=512 skip=9 count=1 iflag=direct status=none
    """
    assert host.sh(script, logged_in.disk) == "A" * 512


def test_every_page_and_every_opcode_that_is_listed_is_there(host: LinuxHost, logged_in: LoggedIn) -> None:
    listed = re.findall(r"\[(\w+)\]", host.run("sg_vpd", "--page=sv", logged_in.disk))
    assert {"sv", "sn", "di", "bl", "bdc", "lbpv"} <= set(listed)
    for page in listed:
        assert host.run("sg_vpd", f"--page={page}", logged_in.disk)
    opcodes = re.findall(r"^ ([0-9a-f]{2}) {3}", host.run("sg_opcodes", "--unsorted", logged_in.disk), re.MULTILINE)
    assert {"00", "12", "28", "2a", "35", "88", "8a", "93", "42"} <= set(opcodes)


def test_the_ids_of_a_disk_are_those_of_its_pages_and_stay(
    host: LinuxHost, logged_in: LoggedIn, kernel_log: KernelLog
) -> None:
    kernel_log.expect(r" connection\d+:0: detected conn error \(1020\)")
    script = """
    cd "/sys/block/${1#/dev/}/device"
    cat wwid; tail -c +5 vpd_pg80; echo; od -An -tx1 -j8 -N16 vpd_pg83 | tr -d ' \n'
    """
    wwid, serial, designator = host.sh(script, logged_in.disk).split()
    assert wwid == f"naa.{serial}"
    assert designator == serial
    logged_in.annexd.stop()
    logged_in.annexd.start()
    assert logged_in.initiator.disk() == logged_in.disk
    assert serial in host.run("sg_inq", "--page=sn", logged_in.disk)
