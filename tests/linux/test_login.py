"""A Linux host finds annexd, logs in, and sees what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.linux_annexd import TARGET, NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20


def test_a_host_logs_in_and_reads_a_disk(tmp_path: Path, network: LinuxNetwork, host: LinuxHost) -> None:
    with NetworkAnnexd(tmp_path, configuration(tmp_path, network, [host.name], {"disk": 16 * MIB}), network):
        (tmp_path / "disk.img").write_bytes(b"annex!!\n" * (2 * MIB))
        initiator = OpenIscsi(host)
        assert TARGET in initiator.discover().output
        initiator.login()
        disk = initiator.disk()
        assert host.sh('dd if="$1" bs=1M count=4 iflag=direct status=none | sort | uniq -c', disk).split() == [
            str(MIB // 2),
            "annex!!",
        ]
        initiator.logout()
