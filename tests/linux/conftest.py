"""A booted Linux host that tests share, and what its kernel may say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.open_iscsi import OpenIscsi

DISK_BYTES = 512 << 20  # mkfs.xfs makes nothing smaller than 300 MiB; the file is sparse


@pytest.fixture(scope="session")
def linux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linux")


@pytest.fixture(scope="session")
def network() -> Iterator[LinuxNetwork]:
    with LinuxNetwork() as network:
        yield network


@pytest.fixture(scope="session")
def host(network: LinuxNetwork, linux_folder: Path) -> Iterator[LinuxHost]:
    """A host with one network card; a module leaves it logged out."""
    with LinuxHost(network, linux_folder) as host:
        yield host


@pytest.fixture
def kernel_log(host: LinuxHost) -> Iterator[KernelLog]:
    """What the host's kernel says: the test fails if that is anything unusual."""
    log = KernelLog(host)
    yield log
    assert log.surprises() == []


class LoggedIn(NamedTuple):
    """A host with a disk of annexd; `file` is what holds its bytes."""

    annexd: NetworkAnnexd
    initiator: OpenIscsi
    disk: str
    file: Path


@pytest.fixture(scope="module")
def logged_in(tmp_path_factory: pytest.TempPathFactory, network: LinuxNetwork, host: LinuxHost) -> Iterator[LoggedIn]:
    folder = tmp_path_factory.mktemp("annexd")
    with NetworkAnnexd(folder, configuration(folder, network, [host.name], {"disk": DISK_BYTES}), network) as annexd:
        initiator = OpenIscsi(host)
        initiator.discover()
        initiator.login()
        yield LoggedIn(annexd, initiator, initiator.disk(), folder / "disk.img")
        initiator.logout()
