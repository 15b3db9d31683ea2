"""A Linux host that turns the write cache of its disk off and on, and one that sets the access state of its path."""

from __future__ import annotations

import pytest

from tests.linux.conftest import LoggedIn
from tests.support.linux_host import LinuxHost

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

_CACHE_TYPE = """
cd "/sys/block/${1#/dev/}"
if [ -n "$2" ]; then echo "$2" >device/scsi_disk/*/cache_type; fi
cat device/scsi_disk/*/cache_type queue/write_cache; sg_modes --page=8,0 -HH "$1"
"""


def cache(host: LinuxHost, disk: str, wanted: str = "") -> list[str]:
    """Set the cache type through the disk driver, if one is wanted; give what driver and block layer make of it."""
    return host.sh(_CACHE_TYPE, disk, wanted).splitlines()[:2]


def test_the_disk_driver_turns_the_write_cache_off_and_it_stays_off_over_a_restart(
    host: LinuxHost, logged_in: LoggedIn
) -> None:
    disk = logged_in.disk
    assert cache(host, disk) == ["write back", "write back"]
    assert cache(host, disk, "write through") == ["write through", "write through"]
    host.sh('dd if=/dev/urandom of="$1" bs=64k count=16 oflag=direct status=none', disk)
    logged_in.annexd.kill()
    logged_in.annexd.start()
    # Saved (SP), as the page said it can be: what the driver believes is still so.
    host.sh('dd if="$1" of=/dev/null bs=64k count=16 iflag=direct status=none', disk, limit_s=60)
    host.sh('echo 1 >"/sys/block/${1#/dev/}/device/rescan"', disk)
    assert cache(host, disk) == ["write through", "write through"]
    assert cache(host, disk, "write back") == ["write back", "write back"]


def test_a_path_in_standby_is_told_as_one_and_can_be_made_active_again(host: LinuxHost, logged_in: LoggedIn) -> None:
    script = """
    group=$(sg_vpd --page=di "$1" | sed -n 's/.*Target port group: //p')
    sg_stpg --standby --tp="$group" "$1"
    sg_rtpg --decode "$1"
    sg_turs --verbose "$1" 2>&1 && exit 1
    sg_stpg --optimized --tp="$group" "$1"
    sg_turs "$1" && echo ready again
    """
    said = host.sh(script, logged_in.disk)
    assert "standby" in said
    assert "target port in standby state" in said.lower()
    assert "ready again" in said
