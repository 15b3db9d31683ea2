"""dm-multipath of a Linux host with two network cards, to two portals of annexd: cut one way under load, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fio import load, wait_for_load
from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
CONFIGURATION = """
defaults {
    user_friendly_names no
    find_multipaths no
    polling_interval 1
    max_polling_interval 1
    no_path_retry queue
    path_selector "round-robin 0"
    path_grouping_policy POLICY
    path_checker tur
}
"""
START = """
cat >/etc/multipath.conf
/run/modprobe/modprobe -a dm-multipath dm-round-robin
pidof -q systemd-udevd || /lib/systemd/systemd-udevd --daemon
multipathd
until multipathd show status >/dev/null 2>&1; do sleep 0.05; done
"""
STOP = """
multipathd shutdown
while pidof -q multipathd; do sleep 0.05; done
# udev looks at a disk whenever one who wrote to it has closed it, and the map is in use for that time.
until multipath -F; do sleep 0.05; done
"""
# Prints the map once so many of its paths are usable.
WAIT_FOR_PATHS = """
while :; do
    set -- "$1" $(multipathd show paths raw format '%w %t %T %o' | grep -c 'active ready running')
    [ "$2" -eq "$1" ] && break
    sleep 0.05
done
multipathd show maps raw format %w
"""
# A path that fails is no surprise; a map that does is.
OF_PATHS = (
    r"device-mapper: .*",
    r" connection\d+:0: (ping timeout .*|detected conn error \(\d+\))",
    r" session\d+: session recovery timed out after \d+ secs",
    r"sd [\d:]+: rejecting I/O to offline device",
    r"sd [\d:]+: \[sd\w+\] tag#\d+ ((FAILED|UNKNOWN\(0x2003\)) Result: hostbyte=(DID_TRANSPORT_\w+|0x0e) .*|CDB: .*)",
    r"(I/O error, dev sd\w+, sector \d+ .*|blk_print_req_error: \d+ callbacks suppressed)",
)
# As an admin sets them where there is another path: open-iscsi's manual tells so.
TIMEOUTS = {
    "node.session.timeo.replacement_timeout": "1",
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "1",
    "node.conn[0].timeo.login_timeout": "2",
}
FAILS_LIMIT_S = 20.0


@pytest.fixture(scope="module")
def network() -> Iterator[LinuxNetwork]:
    with LinuxNetwork(ethernets=2) as network:
        yield network


@pytest.fixture(scope="module")
def host(network: LinuxNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxHost]:
    with LinuxHost(network, tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.mark.long
@pytest.mark.parametrize(("policy", "cuts"), [("multibus", [0]), ("failover", [0, 1])])
def test_no_error_reaches_the_map_while_a_path_is_cut(
    tmp_path: Path, network: LinuxNetwork, host: LinuxHost, kernel_log: KernelLog, policy: str, cuts: list[int]
) -> None:
    kernel_log.expect(*OF_PATHS)
    with NetworkAnnexd(tmp_path, configuration(tmp_path, network, [host.name], {"disk": 128 * MIB}), network):
        initiator = OpenIscsi(host)
        initiator.discover()
        host.run("sh", "-ec", START, text=CONFIGURATION.replace("POLICY", policy))
        initiator.login(TIMEOUTS)
        initiator.disks(paths=2)
        name = host.sh(WAIT_FOR_PATHS, "2").strip()
        device = host.run("readlink", "-f", f"/dev/mapper/{name}").strip()
        with load(host, device, "--direct=1", "--bs=4k"):
            for ethernet in cuts:
                wait_for_load(host, device)
                network.cut(ethernet)
                host.sh(WAIT_FOR_PATHS, "1", limit_s=FAILS_LIMIT_S)
                wait_for_load(host, device)
                network.mend(ethernet)
                host.sh(WAIT_FOR_PATHS, "2", limit_s=FAILS_LIMIT_S)
            wait_for_load(host, device)
        host.sh(STOP)
        initiator.logout()
