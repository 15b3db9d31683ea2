"""CHAP between annexd and a Linux host: for discovery, for sessions, both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import PORT, TARGET, NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost, Result
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("kernel_log")]

MIB = 1 << 20
SECRET, OWN_SECRET, DISCOVERY_SECRET = "secret of the host", "secret of annexd", "secret of discovery"
AUTHENTICATION_FAILED, LOGIN_FAILED = 24, 19  # exit codes of iscsiadm
WRONG = "not the secret at all"
ONE_WAY = {"authmethod": "CHAP", "username": "host", "password": SECRET}
BOTH_WAYS = ONE_WAY | {"username_in": "annex", "password_in": OWN_SECRET}
DISCOVERY = {"authmethod": "CHAP", "username": "discoverer", "password": DISCOVERY_SECRET}


@pytest.fixture(scope="module")
def annexd(tmp_path_factory: pytest.TempPathFactory, network: LinuxNetwork, host: LinuxHost) -> Iterator[NetworkAnnexd]:
    """One that shows nothing, and lets nobody in, without CHAP."""
    folder = tmp_path_factory.mktemp("annexd")
    config = configuration(folder, network, [host.name], {"disk": 16 * MIB}, chap={"name": "host", "secret": SECRET})
    config["discovery"] = {"chap": {"name": "discoverer", "secret": DISCOVERY_SECRET}}
    with NetworkAnnexd(folder, config, network) as annexd:
        yield annexd


@pytest.fixture(scope="module")
def proving(annexd: NetworkAnnexd) -> None:
    """Have annexd prove itself as well from now on."""
    config = json.loads(annexd.file.read_text())
    config["targets"][0]["acls"][0]["mutual_chap"] = {"name": "annex", "secret": OWN_SECRET}
    annexd.reload(config)


def discover(host: LinuxHost, settings: Mapping[str, str]) -> Result:
    """Ask annexd for its targets, with these of iscsiadm's settings for discovery."""
    record = ("iscsiadm", "-m", "discoverydb", "-t", "sendtargets", "-p", f"{host.network.address()}:{PORT}")
    host.result(*record, "-o", "delete")  # that of the test before
    host.run(*record, "-o", "new")
    for name, value in settings.items():
        host.run(*record, "-o", "update", "-n", f"discovery.sendtargets.auth.{name}", "-v", value)
    return host.result(*record, "--discover")


@pytest.mark.parametrize(
    "settings",
    [{}, DISCOVERY | {"password": WRONG}, DISCOVERY | {"username": "nobody"}, ONE_WAY],
    ids=["none", "wrong secret", "wrong name", "a session's"],
)
@pytest.mark.usefixtures("annexd")
def test_discovery_shows_nothing_without_its_own_secret(host: LinuxHost, settings: Mapping[str, str]) -> None:
    result = discover(host, settings)
    assert result.status == AUTHENTICATION_FAILED, result
    assert TARGET not in result.output


@pytest.fixture
def initiator(host: LinuxHost, annexd: NetworkAnnexd) -> Iterator[OpenIscsi]:
    """The host's, which has discovered the target with CHAP."""
    assert TARGET in discover(host, DISCOVERY).output
    yield OpenIscsi(host)
    host.run("iscsiadm", "-m", "node", "-T", TARGET, "-o", "delete")  # settings are not for the next test


def login(initiator: OpenIscsi, settings: Mapping[str, str]) -> Result:
    return initiator.login({f"node.session.auth.{name}": value for name, value in settings.items()}, check=False)


ALGORITHMS = ["MD5", "SHA1", "SHA256", "SHA3-256"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_host_logs_in_with_its_secret(host: LinuxHost, initiator: OpenIscsi, algorithm: str) -> None:
    assert login(initiator, {**ONE_WAY, "chap_algs": algorithm}).status == 0
    assert initiator.disk()
    host.run("iscsiadm", "-m", "node", "-T", TARGET, "--logout")


def refused(initiator: OpenIscsi, settings: Mapping[str, str], kernel_log: KernelLog) -> int:
    kernel_log.expect(r" connection\d+:0: detected conn error \(1020\)")
    return login(initiator, settings).status


@pytest.mark.parametrize(
    "settings",
    [{}, ONE_WAY | {"password": WRONG}, ONE_WAY | {"username": "nobody"}, BOTH_WAYS],
    ids=["none", "wrong secret", "wrong name", "asks for proof"],
)
def test_a_host_is_not_let_in(initiator: OpenIscsi, settings: Mapping[str, str], kernel_log: KernelLog) -> None:
    assert refused(initiator, settings, kernel_log) == AUTHENTICATION_FAILED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.usefixtures("proving")
def test_a_host_and_annexd_prove_themselves(host: LinuxHost, initiator: OpenIscsi, algorithm: str) -> None:
    assert login(initiator, {**BOTH_WAYS, "chap_algs": algorithm}).status == 0
    assert initiator.disk()
    host.run("iscsiadm", "-m", "node", "-T", TARGET, "--logout")


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (ONE_WAY, AUTHENTICATION_FAILED),
        (BOTH_WAYS | {"password_in": WRONG}, LOGIN_FAILED),
        (BOTH_WAYS | {"username_in": "nobody"}, LOGIN_FAILED),
    ],
    ids=["asks for no proof", "another secret", "another name"],
)
@pytest.mark.usefixtures("proving")
def test_a_host_does_not_go_in_where_annexd_is_not_who_it_should_be(
    initiator: OpenIscsi, settings: Mapping[str, str], status: int, kernel_log: KernelLog
) -> None:
    assert refused(initiator, settings, kernel_log) == status
