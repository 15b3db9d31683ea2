"""The initiator of a `LinuxHost`: what an admin does there with iscsiadm, and the disks that come of it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.linux_annexd import PORT, TARGET
from tests.support.linux_host import LinuxHost, Result

DISK_LIMIT_S = 20.0
# Prints the disk of a LUN, one line a session, once there are as many as are wanted and all of them can be opened.
_WAIT_FOR_DISKS = """
lun=$1 wanted=$2
while :; do
    disks=$(ls -d /sys/class/scsi_device/*:"$lun"/device/block/* 2>/dev/null | sed 's,.*/,/dev/,')
    if [ "$(echo "$disks" | grep -c .)" -ge "$wanted" ]; then
        for disk in $disks; do head -c 512 "$disk" >/dev/null 2>&1 || continue 2; done
        break
    fi
    sleep 0.05
done
echo "$disks"
"""


class OpenIscsi:
    """Discovery, login and logout of a host."""

    def __init__(self, host: LinuxHost) -> None:
        self._host = host

    def discover(self, address: str = "", check: bool = True) -> Result:
        """Ask a portal for its targets, and make a record of each."""
        portal = f"{address or self._host.network.address()}:{PORT}"
        result = self._host.result("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal)
        assert not check or result.status == 0, result
        return result

    def login(self, settings: Mapping[str, str] | None = None, *, target: str = TARGET, check: bool = True) -> Result:
        """Log in to all portals of a target that were discovered, with these settings in its records."""
        for name, value in (settings or {}).items():
            self._host.run("iscsiadm", "-m", "node", "-T", target, "-o", "update", "-n", name, "-v", value)
        result = self._host.result("iscsiadm", "-m", "node", "-T", target, "--login", limit_s=60)
        assert not check or result.status == 0, result
        return result

    def logout(self, *, target: str = TARGET) -> None:
        """Log out of a target, and forget it."""
        self._host.run("iscsiadm", "-m", "node", "-T", target, "--logout")
        self._host.run("iscsiadm", "-m", "node", "-T", target, "-o", "delete")

    def disks(self, lun: int = 0, paths: int = 1) -> list[str]:
        """Wait until a LUN is a disk that can be read, by so many paths; give their device files."""
        return self._host.sh(_WAIT_FOR_DISKS, str(lun), str(paths), limit_s=DISK_LIMIT_S).split()

    def disk(self, lun: int = 0) -> str:
        """Wait until a LUN is a disk that can be read; give its device file."""
        (disk,) = self.disks(lun)
        return disk
