"""What a `LinuxHost`'s kernel says while a test runs: nothing but what it always says of a disk and a file system."""

from __future__ import annotations

import re

from tests.support.linux_host import LinuxHost

# Of every disk of annexd, at every login. Write cache and FUA are what the sd driver bases a host's flushes on.
_DISKS = (
    r"scsi host\d+: iSCSI Initiator over TCP/IP",
    r"scsi [\d:]+: Direct-Access     ANNEX    VIRTUAL DISK     .{4} PQ: 0 ANSI: 6",
    r"sd [\d:]+: Power-on or device reset occurred",
    r"(sd|scsi) [\d:]+: Attached scsi generic sg\d+ type 0",
    r"sd [\d:]+: \[sd\w+\] \d+ (512|4096)-byte logical blocks: .*",
    r"sd [\d:]+: \[sd\w+\] 4096-byte physical blocks",
    r"sd [\d:]+: \[sd\w+\] Write Protect is off",
    r"sd [\d:]+: \[sd\w+\] Mode Sense: \w\w 00 10 08",
    r"sd [\d:]+: \[sd\w+\] Write cache: enabled, read cache: enabled, supports DPO and FUA",
    r"sd [\d:]+: \[sd\w+\] Preferred minimum I/O size 4096 bytes",
    r"sd [\d:]+: \[sd\w+\] Optimal transfer size 1048576 bytes",
    r"sd [\d:]+: \[sd\w+\] Attached SCSI disk",
    r"sd [\d:]+: \[sd\w+\] Synchronizing SCSI cache",
)
_FILE_SYSTEMS = (
    r"EXT4-fs \(\w+\): (un)?mount(ed|ing) filesystem.*",
    r"XFS \(\w+\): (Mounting V5 Filesystem|Ending clean mount|Unmounting Filesystem).*",
    r"BTRFS: device fsid \S+ devid 1 transid \d+ /dev/sd\w+ scanned by .*",
    r"BTRFS info \(device sd\w+\): (first mount|last unmount|using|(auto )?enabling|checking) .*",
    r"BTRFS info \(device sd\w+\): scrub: (started|finished) on devid 1.*",
)
_MARK = "annex: a test begins"


class KernelLog:
    """The lines since it was made."""

    def __init__(self, host: LinuxHost) -> None:
        self._host = host
        self._expected: list[str] = [*_DISKS, *_FILE_SYSTEMS]
        host.sh('echo "$1" >/dev/kmsg', _MARK)

    def lines(self) -> list[str]:
        """Give all of them."""
        lines = self._host.run("dmesg", "--notime").splitlines()
        return lines[len(lines) - lines[::-1].index(_MARK) :]

    def expect(self, *patterns: str) -> None:
        """Take lines of these forms for right, in this test."""
        self._expected += patterns

    def surprises(self) -> list[str]:
        """Give the lines that nobody expects."""
        return [line for line in self.lines() if not any(re.fullmatch(form, line) for form in self._expected)]
