"""A Linux host finds annexd and logs in: digests, and every way to send the data of a write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fio import check_disk
from tests.support.linux_annexd import TARGET, NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("kernel_log")]

MIB = 1 << 20


@pytest.fixture(scope="module")
def annexd(tmp_path_factory: pytest.TempPathFactory, network: LinuxNetwork, host: LinuxHost) -> Iterator[NetworkAnnexd]:
    folder = tmp_path_factory.mktemp("annexd")
    with NetworkAnnexd(folder, configuration(folder, network, [host.name], {"disk": 64 * MIB}), network) as annexd:
        yield annexd


@pytest.fixture
def initiator(host: LinuxHost, annexd: NetworkAnnexd) -> Iterator[OpenIscsi]:
    """The host's, with a record of the target."""
    initiator = OpenIscsi(host)
    initiator.discover()
    yield initiator
    initiator.logout()


def negotiated(host: LinuxHost, key: str) -> str:
    """Give a value that the only session or its connection has, by its name in sysfs."""
    return host.sh('cat /sys/class/iscsi_*/*/"$1"', key).strip()


def test_a_host_logs_in_and_reads_a_disk(annexd: NetworkAnnexd, host: LinuxHost, initiator: OpenIscsi) -> None:
    (annexd.folder / "disk.img").write_bytes(b"annex!!\n" * (8 * MIB))
    assert TARGET in initiator.discover().output
    initiator.login()
    read = host.sh('dd if="$1" bs=1M count=4 iflag=direct status=none | sort | uniq -c', initiator.disk())
    assert read.split() == [str(MIB // 2), "annex!!"]


@pytest.mark.parametrize("header", ["None", "CRC32C"])
@pytest.mark.parametrize("data", ["None", "CRC32C"])
def test_data_is_right_with_and_without_digests(host: LinuxHost, initiator: OpenIscsi, header: str, data: str) -> None:
    initiator.login({"node.conn[0].iscsi.HeaderDigest": header, "node.conn[0].iscsi.DataDigest": data})
    check_disk(host, initiator.disk(), "--size=4M", "--direct=1", "--bsrange=512-128k")
    assert negotiated(host, "header_digest") == str(int(header == "CRC32C"))
    assert negotiated(host, "data_digest") == str(int(data == "CRC32C"))


@pytest.mark.parametrize(
    "bursts",
    [
        pytest.param((512, 1024), marks=pytest.mark.long),
        pytest.param((4096, 65536), marks=pytest.mark.long),
        (262144, 16776192),
    ],
)
@pytest.mark.parametrize("immediate", ["Yes", "No"])
@pytest.mark.parametrize("initial_r2t", ["Yes", "No"])
def test_data_is_right_however_that_of_a_write_is_sent(
    host: LinuxHost, initiator: OpenIscsi, initial_r2t: str, immediate: str, bursts: tuple[int, int]
) -> None:
    first, most = bursts
    settings = {
        "InitialR2T": initial_r2t,
        "ImmediateData": immediate,
        "FirstBurstLength": first,
        "MaxBurstLength": most,
    }
    initiator.login({f"node.session.iscsi.{name}": str(value) for name, value in settings.items()})
    check_disk(host, initiator.disk(), "--size=4M", "--direct=1", "--bsrange=512-1M")
    assert negotiated(host, "initial_r2t") == str(int(initial_r2t == "Yes"))
    assert negotiated(host, "immediate_data") == str(int(immediate == "Yes"))
    assert int(negotiated(host, "first_burst_len")) == first
    assert int(negotiated(host, "max_burst_len")) <= most
