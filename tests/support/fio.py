"""fio on a `LinuxHost`: load that checks each block that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.linux_host import LinuxHost

LIMIT_S = 100.0
# Not the beginning of a disk: now and then the kernel takes random blocks there for a partition table (ADFS has one
# byte of checksum), and says so.
_FIO = ("fio", "--name=load", "--rw=randwrite", "--ioengine=libaio", "--iodepth=32", "--offset=1M")
_CHECK = ("--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0")
# One round after the other until it is told to stop, or one fails.
_ROUNDS = 'rm -f /run/enough; until [ -e /run/enough ]; do "$@" || exit; done'
_WAIT = """
done_so_far() { set -- $(cat "$1"); echo $(($1 + $5)); }
stat=/sys/block/${1#/dev/}/stat
enough=$(($(done_so_far "$stat") + $2))
while [ "$(done_so_far "$stat")" -lt "$enough" ]; do sleep 0.02; done
"""


def check_disk(host: LinuxHost, file: str, *options: str) -> None:
    """Write random blocks, each with its checksum in it, 32 at a time, and read all of them again."""
    output = host.run(*_FIO, *_CHECK, f"--filename={file}", *options)
    assert "err= 0" in output


@contextmanager
def load(host: LinuxHost, file: str, *options: str) -> Iterator[None]:
    """Do so again and again meanwhile, 8 MiB each time."""
    fio = (*_FIO, *_CHECK, f"--filename={file}", "--size=8M", *options)
    running = host.start("bash", "-c", _ROUNDS, "bash", *fio, limit_s=LIMIT_S)
    try:
        yield
    finally:
        host.run("touch", "/run/enough")
        result = host.wait(running)  # also when the test has failed: the next one has the disk for itself
        print(f"the load ended with {result.status}: {result.output[-2000:]}{result.errors[-2000:]}")
    assert result.status == 0, result


def wait_for_load(host: LinuxHost, disk: str, commands: int = 1000) -> None:
    """Wait until a disk has done so many reads and writes from now on."""
    host.sh(_WAIT, disk, str(commands))
