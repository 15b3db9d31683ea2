"""The Linux kernel's own target as the external array of annexd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.linux_target import TARGET, KernelDisk, LinuxTarget

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
INITIATOR = "iqn.2026-11.org.example:annex-as-host"


@pytest.fixture(scope="module")
def array(network: LinuxNetwork, linux_folder: Path) -> Iterator[LinuxTarget]:
    with LinuxHost(network, linux_folder, number=9) as host:
        yield LinuxTarget(host, [KernelDisk("old", 32 * MIB), KernelDisk("spare", 32 * MIB)], [INITIATOR])


def test_the_kernel_s_target_is_set_up_and_saved(network: LinuxNetwork, array: LinuxTarget) -> None:
    assert [target["wwn"] for target in json.loads(array.saved())["targets"]] == [TARGET]
    command = network.inside("iscsi-readcapacity16", "-i", INITIATOR, array.url(1))
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert f"RETURNED LOGICAL BLOCK ADDRESS:{32 * MIB // 512 - 1}" in done.stdout, done
