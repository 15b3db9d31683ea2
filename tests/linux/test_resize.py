"""A disk that grows under a Linux host: the host has the new size after a rescan, and a mounted file system with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.linux.conftest import DISK_BYTES
from tests.support.control import ControlClient
from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

MORE_BYTES = 256 << 20


def test_a_disk_that_grew_is_seen_after_a_rescan_and_its_file_system_grows(
    tmp_path: Path, network: LinuxNetwork, host: LinuxHost, kernel_log: KernelLog
) -> None:
    # What sd says when it is told (2A/09), and what it says of the new size.
    kernel_log.expect(r".*Capacity data has changed", r".*512-byte logical blocks.*", r".*detected capacity change.*",
                      r".*resiz.*")  # fmt: skip
    with NetworkAnnexd(
        tmp_path, configuration(tmp_path, network, [host.name], {"disk": DISK_BYTES}), network
    ) as annexd:
        initiator = OpenIscsi(host)
        initiator.discover()
        initiator.login()
        try:
            disk = initiator.disk()
            host.sh(
                'mkfs.ext4 -q "$1" && mkdir -p /mnt/grown && mount "$1" /mnt/grown && echo before >/mnt/grown/a', disk
            )
            with (tmp_path / "disk.img").open("ab") as file:
                file.truncate(DISK_BYTES + MORE_BYTES)
            size = 'blockdev --getsize64 "$1"'
            assert int(host.sh(size, disk)) == DISK_BYTES, "nothing changes by itself"
            answer = ControlClient(tmp_path / "control.sock").ask("POST", "/v1/vdevs/disk/grow")
            assert answer.document == {"before_bytes": DISK_BYTES, "size_bytes": DISK_BYTES + MORE_BYTES}
            host.sh('echo 1 >"/sys/block/${1#/dev/}/device/rescan"', disk)
            assert int(host.sh(size, disk)) == DISK_BYTES + MORE_BYTES
            host.sh('resize2fs "$1" 2>&1 && df --output=size -B1 /mnt/grown | tail -1', disk)
            host.sh("head -c 600M /dev/zero >/mnt/grown/b && sync && cat /mnt/grown/a", limit_s=60)
            host.sh('umount /mnt/grown && e2fsck -fn "$1"', disk)
        finally:
            initiator.logout()
        annexd.kill()
        annexd.start()
        initiator.discover()
        initiator.login()
        assert int(host.sh(size, initiator.disk())) == DISK_BYTES + MORE_BYTES, "recorded"
        initiator.logout()
