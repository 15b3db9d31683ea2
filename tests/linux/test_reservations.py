"""Persistent reservations of two Linux hosts, by sg_persist; the kernel reports what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
WRITE_EXCLUSIVE_REGISTRANTS_ONLY, EXCLUSIVE_ACCESS = "5", "3"
MINE, OTHERS = "0xa11ce", "0xb0b"
CLEAR_ATTENTIONS = 'until sg_turs "$1" >/dev/null 2>&1; do sleep 0.02; done'
WRITE = 'dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none'
REFUSED = (
    r"sd [\d:]+: reservation conflict",
    r"sd [\d:]+: \[sd\w+\] tag#\d+ (FAILED Result: hostbyte=(DID_OK|0x00) .*|UNKNOWN\(0x2003\) Result: .*|CDB: .*)",
    r"(critical nexus error|reservation conflict error), dev sd\w+, sector 0 .*",
    r"sd [\d:]+: Parameters changed",  # what Linux says of "reservations preempted" and the like
)


class Node:
    """A host with the shared disk."""

    def __init__(self, host: LinuxHost, disk: str, key: str) -> None:
        self.host = host
        self.disk = disk
        self.key = key

    def ask(self, what: str) -> str:
        """Run PERSISTENT RESERVE IN."""
        self.host.sh(CLEAR_ATTENTIONS, self.disk)
        return self.host.run("sg_persist", "--in", what, self.disk)

    def order(self, *words: str) -> None:
        """Run PERSISTENT RESERVE OUT, with its key."""
        self.host.sh(CLEAR_ATTENTIONS, self.disk)
        self.host.run("sg_persist", "--out", *words, self.disk)

    def register(self, *words: str) -> None:
        self.order("--register", f"--param-sark={self.key}", *words)

    def reserve(self, kind: str) -> None:
        self.order("--reserve", f"--param-rk={self.key}", f"--prout-type={kind}")

    def writes(self) -> bool:
        """Tell whether it may write; by a command of its disk driver."""
        return self.host.result("bash", "-c", WRITE, "bash", self.disk).status == 0


@pytest.fixture(scope="module")
def other_host(network: LinuxNetwork, linux_folder: Path) -> Iterator[LinuxHost]:
    with LinuxHost(network, linux_folder, number=2) as other:
        yield other


@pytest.fixture
def other_log(other_host: LinuxHost) -> Iterator[KernelLog]:
    log = KernelLog(other_host)
    log.expect(*REFUSED)
    yield log
    assert log.surprises() == []


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, network: LinuxNetwork, host: LinuxHost, other_host: LinuxHost
) -> Iterator[tuple[NetworkAnnexd, list[OpenIscsi]]]:
    folder = tmp_path_factory.mktemp("annexd")
    hosts = [host, other_host]
    config = configuration(folder, network, [each.name for each in hosts], {"disk": 16 * MIB})
    with NetworkAnnexd(folder, config, network) as annexd:
        initiators = [OpenIscsi(each) for each in hosts]
        for initiator in initiators:
            initiator.discover()
            initiator.login()
        yield annexd, initiators
        for initiator in initiators:
            initiator.logout()


@pytest.fixture
def nodes(
    shared: tuple[NetworkAnnexd, list[OpenIscsi]], host: LinuxHost, other_host: LinuxHost, kernel_log: KernelLog,
    other_log: KernelLog,
) -> Iterator[tuple[Node, Node]]:  # fmt: skip
    kernel_log.expect(*REFUSED)
    assert other_log.lines() == []
    _, (initiator, other) = shared
    mine, others = Node(host, initiator.disk(), MINE), Node(other_host, other.disk(), OTHERS)
    yield mine, others
    mine.order("--register-ignore", f"--param-sark={MINE}")
    mine.order("--clear", f"--param-rk={MINE}")
    assert "NO registered" in mine.ask("--read-keys")


def test_who_is_not_registered_may_read_and_not_write(nodes: tuple[Node, Node], other_log: KernelLog) -> None:
    mine, others = nodes
    mine.register()
    mine.reserve(WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    assert MINE in mine.ask("--read-keys")
    assert "Write Exclusive, registrants only" in others.ask("--read-reservation")
    assert mine.writes()
    assert not others.writes()
    assert any("reservation conflict" in line for line in other_log.lines())
    others.register()
    assert others.writes()
    assert {MINE, OTHERS} <= set(others.ask("--read-full-status").replace("Key=", " ").split())


def test_a_host_preempts_another_that_is_out_then(nodes: tuple[Node, Node]) -> None:
    mine, others = nodes
    for node in nodes:
        node.register()
    others.reserve(EXCLUSIVE_ACCESS)
    assert not mine.writes()
    mine.order("--preempt", f"--param-rk={MINE}", f"--param-sark={OTHERS}", f"--prout-type={EXCLUSIVE_ACCESS}")
    assert mine.writes()
    assert not others.writes()
    assert OTHERS not in mine.ask("--read-keys")


def test_a_reservation_outlives_a_daemon_that_is_killed(
    nodes: tuple[Node, Node], shared: tuple[NetworkAnnexd, list[OpenIscsi]], kernel_log: KernelLog, other_log: KernelLog
) -> None:
    for log in (kernel_log, other_log):
        log.expect(r" connection\d+:0: detected conn error \(1020\)")
    annexd, _ = shared
    mine, others = nodes
    mine.register("--param-aptpl")
    mine.reserve(WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    annexd.kill()
    annexd.start()
    assert "Write Exclusive, registrants only" in others.ask("--read-reservation")
    assert MINE in others.ask("--read-keys")
    assert not others.writes()
    assert mine.writes()
