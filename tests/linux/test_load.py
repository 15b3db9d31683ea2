"""A Linux host's disk under fio, which checks each block it reads: plain, with resets, and while annexd is killed."""

from __future__ import annotations

import re

import pytest

from tests.linux.conftest import LoggedIn
from tests.support.fio import check_disk, load, wait_for_load
from tests.support.kernel_log import KernelLog
from tests.support.linux_host import LinuxHost

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("kernel_log")]

DEVICE_RESET = r"sd [\d:]+: Power-on or device reset occurred"
CONNECTION_LOST = r" connection\d+:0: detected conn error \(\d+\)"


@pytest.mark.parametrize(
    "options",
    [("--direct=1", "--bsrange=4k-64k"), ("--direct=0", "--bsrange=512-64k", "--fsync=64", "--invalidate=1")],
    ids=["direct", "buffered"],
)
def test_every_block_is_read_back_as_it_was_written(
    host: LinuxHost, logged_in: LoggedIn, options: tuple[str, ...]
) -> None:
    check_disk(host, logged_in.disk, "--size=64M", *options)


# The initiator has no reset of a whole host: sg_reset fails, and nothing is sent.
@pytest.mark.parametrize(
    ("what", "status"),
    [("device", 0), pytest.param("target", 0, marks=pytest.mark.long), pytest.param("host", 1, marks=pytest.mark.long)],
)
def test_a_reset_under_load_costs_no_data(
    host: LinuxHost, logged_in: LoggedIn, kernel_log: KernelLog, what: str, status: int
) -> None:
    # While a reset is under way the initiator itself holds commands back, and says so.
    kernel_log.expect(r" session\d+: task \[op 1 itt \w+/\w+\] rejected\.", DEVICE_RESET)
    with load(host, logged_in.disk, "--direct=1", "--bs=4k"):
        for _ in range(3):
            wait_for_load(host, logged_in.disk)
            assert host.result("sg_reset", f"--{what}", logged_in.disk).status == status
        wait_for_load(host, logged_in.disk)
    assert any(re.fullmatch(DEVICE_RESET, line) for line in kernel_log.lines()) == (status == 0)


def test_a_file_system_outlives_a_daemon_that_is_killed_under_it(
    host: LinuxHost, logged_in: LoggedIn, kernel_log: KernelLog
) -> None:
    kernel_log.expect(CONNECTION_LOST)
    host.sh('mkfs.ext4 -q -F "$1"; mount "$1" /mnt', logged_in.disk)
    with load(host, "/mnt/file", "--direct=1", "--bs=4k", "--fsync=32"):
        for _ in range(2):
            wait_for_load(host, logged_in.disk)
            logged_in.annexd.kill()
            logged_in.annexd.start()
        wait_for_load(host, logged_in.disk)
    host.sh('umount /mnt; fsck.ext4 -f -n "$1"', logged_in.disk)
