"""A disk of a `LinuxHost` that can be made to fail: a file in its memory, under device-mapper."""

from __future__ import annotations

from tests.support.linux_host import LinuxHost

SECTOR_BYTES = 512
_MODULES = ("loop", "dm-mod", "dm-flakey", "dm-dust", "dm-log-writes", "dm-thin-pool")
# Without udev nobody answers dmsetup, and it makes the nodes itself.
_MAKE = """
export DM_DISABLE_UDEV=1
truncate -s "$2" "/run/$1.img"
loop=$(losetup --find --show "/run/$1.img")
dmsetup create "$1" --table "0 $(($2 / 512)) linear $loop 0"
echo "$loop"
"""
_CHANGE = """
export DM_DISABLE_UDEV=1
dmsetup suspend --noflush --nolockfs "$1"
dmsetup load "$1" --table "$2"
dmsetup resume "$1"
echo 1 >/proc/sys/vm/drop_caches
"""
# Its content stays what it is, but a write needs a piece of 64 KiB of a pool which has one, and another disk has that.
_POOL = """
export DM_DISABLE_UDEV=1
truncate -s 4M "/run/$1-pool.meta"
truncate -s 64K "/run/$1-pool.data"
meta=$(losetup --find --show "/run/$1-pool.meta")
data=$(losetup --find --show "/run/$1-pool.data")
dmsetup create "$1-pool" --table "0 128 thin-pool $meta $data 128 0 1 error_if_no_space"
dmsetup message "$1-pool" 0 create_thin 0
dmsetup message "$1-pool" 0 create_thin 1
dmsetup create "$1-other" --table "0 128 thin /dev/mapper/$1-pool 1"
dd if=/dev/zero of="/dev/mapper/$1-other" bs=64k count=1 oflag=direct status=none
"""


def prepare(host: LinuxHost) -> None:
    """Load what disks are made of."""
    host.run("/run/modprobe/modprobe", "-a", *_MODULES)


class MappedDisk:
    """A disk `/dev/mapper/<name>` of a host; its bytes are the file `/run/<name>.img`.

    Attributes:
        path: the device.
        file: what holds its bytes.
    """

    def __init__(self, host: LinuxHost, name: str, size_bytes: int) -> None:
        self.path = f"/dev/mapper/{name}"
        self.file = f"/run/{name}.img"
        self._host = host
        self._name = name
        self._sectors = size_bytes // SECTOR_BYTES
        self._below = host.sh(_MAKE, name, str(size_bytes)).strip()
        self._has_pool = False

    def work(self) -> None:
        """Work again, for ever."""
        self._become(f"linear {self._below} 0")

    def fail(self) -> None:
        """Fail every command."""
        self._become("error")

    def fail_writes(self) -> None:
        """Fail every write and flush, and read as ever."""
        self._become(f"flakey {self._below} 0 0 3600 1 error_writes")

    def run_out_of_space(self) -> None:
        """Fail every write for want of space: it is thin from now on."""
        if not self._has_pool:
            self._host.sh(_POOL, self._name)
            self._has_pool = True
        self._become(f"thin /dev/mapper/{self._name}-pool 0 {self._below}")

    def fail_reads(self, *blocks: int) -> None:
        """Fail reads of these blocks of 512 bytes, each until it is written."""
        self._become(f"dust {self._below} 0 {SECTOR_BYTES}")
        for block in blocks:
            self._message("addbadblock", str(block))
        self._message("enable")

    def damage_writes(self, byte: int, value: int) -> None:
        """Make byte `byte` (1, 2, …) of every write be `value`."""
        self._become(f"flakey {self._below} 0 0 3600 5 corrupt_bio_byte {byte} w {value} 0")

    def reads(self, block: int) -> bool:
        """Tell whether a block of 512 bytes can be read, past every cache."""
        command = ("dd", f"if={self.path}", "of=/dev/null", "iflag=direct", f"skip={block}", "count=1", "status=none")
        return self._host.result(*command).status == 0

    def sectors_written(self) -> int:
        """Give how many sectors were written to it since it was made."""
        number = self._host.run("stat", "-L", "-c", "%Lr", self.path).strip()
        return int(self._host.run("cat", f"/sys/block/dm-{number}/stat").split()[6])

    def lock(self, *, read_only: bool) -> None:
        """Refuse writes, or take them again."""
        self._host.run("blockdev", "--setro" if read_only else "--setrw", self.path)

    def _become(self, target: str) -> None:
        self._host.sh(_CHANGE, self._name, f"0 {self._sectors} {target}")

    def _message(self, *words: str) -> None:
        self._host.run("dmsetup", "message", self._name, "0", *words)
