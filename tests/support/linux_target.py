"""The kernel's own target on a `LinuxHost`: modules iscsi_target_mod and target_core_mod, set up by rtslib-fb."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.linux_host import LinuxHost

TARGET = "iqn.2026-11.org.example:kernel"
PORT = 3260
SAVED = "/etc/target/saveconfig.json"

_MODULES = ("configfs", "target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod")
_PREPARE = """
mkdir -p /etc/target/backup /etc/target/pr /etc/target/alua /var/target/pr /var/target/alua
/run/modprobe/modprobe -a "$@"
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
"""
# Its input is a list: the target's name, its address, its port, then the disks, the hosts, the user and the password.
_SET_UP = """
import base64
import json, sys
from rtslib_fb import LUN, TPG, BlockStorageObject, FabricModule, FileIOStorageObject, MappedLUN, NetworkPortal
from rtslib_fb import NodeACL, Target
name, address, port, disks, hosts, user, password = json.load(sys.stdin)
group = TPG(Target(FabricModule("iscsi"), name), 1)
group.set_attribute("authentication", int(bool(user)))
luns = []
for number, (disk, size, device) in enumerate(disks):
    if device:
        store = BlockStorageObject(disk, device)
    else:
        store = FileIOStorageObject(disk, f"/run/{disk}.img", size, write_back=True)
    luns.append(LUN(group, number, store))
NetworkPortal(group, address, port)
if not hosts:
    group.set_attribute("generate_node_acls", 1)
    group.set_attribute("demo_mode_write_protect", 0)
for host in hosts:
    acl = NodeACL(group, host)
    if user:
        acl.chap_userid, acl.chap_password = user, password
    for number, lun in enumerate(luns):
        MappedLUN(acl, number, lun)
group.enable = True
"""
_SAVE = """
import sys
from rtslib_fb import RTSRoot
RTSRoot().save_to_file(sys.argv[1])
"""


_SET_ATTRIBUTE = """
import sys
from rtslib_fb import FileIOStorageObject
FileIOStorageObject(sys.argv[1]).set_attribute(sys.argv[2], sys.argv[3])
"""


class KernelDisk(NamedTuple):
    """A disk of the kernel's target: its bytes are a file in memory, `/run/<name>.img`, or lie on `device`."""

    name: str
    size_bytes: int
    device: str = ""


class LinuxTarget:
    """A host's kernel, serving disks as LUNs 0, 1, …

    Args:
        host: the kernel; its memory must hold the disks.
        disks: in the order of the LUNs.
        initiators: names of the hosts that may log in; with none everybody may.
        chap: user and password that they need.
    """

    def __init__(
        self, host: LinuxHost, disks: list[KernelDisk], initiators: list[str], chap: tuple[str, str] = ("", "")
    ) -> None:
        self._host = host
        host.sh(_PREPARE, *_MODULES)
        rows = [TARGET, host.address(), PORT, [list(disk) for disk in disks], initiators, *chap]
        self.python(_SET_UP, text=json.dumps(rows))

    @property
    def portal(self) -> str:
        """Where it takes connections."""
        return f"{self._host.address()}:{PORT}"

    def url(self, lun: int) -> str:
        """Give the URL of a LUN."""
        return f"iscsi://{self.portal}/{TARGET}/{lun}"

    def saved(self) -> str:
        """Have it saved as `targetcli saveconfig` does; give the file's text."""
        self.python(_SAVE, SAVED)
        return self._host.run("cat", SAVED)

    def fill(self, disk: str, file: Path) -> None:
        """Put what is in a file, outside, on a disk; behind the target's back, so before anybody has read it."""
        self._host.run("dd", f"if={file}", f"of=/run/{disk}.img", "bs=1M", "conv=notrunc", "status=none")

    def set_attribute(self, disk: str, name: str, value: int) -> None:
        """Set an attribute of a disk, as `targetcli set attribute` does."""
        self.python(_SET_ATTRIBUTE, disk, name, str(value))

    def sha256(self, disk: str) -> str:
        """Give the checksum of all that a disk holds, in the target's memory or in its file."""
        return self._host.run("sha256sum", f"/run/{disk}.img").split()[0]

    def python(self, script: str, *arguments: str, text: str = "") -> str:
        """Run a Python script with rtslib_fb on the host; give what it prints."""
        return self._host.run(sys.executable, "-I", "-c", script, *arguments, text=text)
