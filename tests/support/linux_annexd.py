"""An annexd that real Linux hosts log in to: `annexd serve` in their `LinuxNetwork`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from config.model import split_portal
from tests.support.annexd import START_LIMIT_S
from tests.support.linux_network import LinuxNetwork
from tests.support.served import POLL_S, Served

PORT = 3260
TARGET = "iqn.2026-11.org.example:annex"


class NetworkAnnexd(Served):
    """`annexd serve` with `config`, inside `network`; it is up once its first portal takes connections."""

    def __init__(self, folder: Path, config: dict[str, Any], network: LinuxNetwork) -> None:
        super().__init__(folder, config)
        self._portal = split_portal(config["targets"][0]["portals"][0])
        self._network = network

    def _command(self) -> list[str]:
        return self._network.inside(*super()._command())

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self._network.takes_connections(*self._portal):
            if self.ended() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"annexd serve did not come up\n{self.log()}")
            time.sleep(POLL_S)


def configuration(
    folder: Path, network: LinuxNetwork, hosts: Iterable[str], disks: Mapping[str, int], **host_settings: Any
) -> dict[str, Any]:
    """Give the configuration of one target, on every Ethernet, with a LUN a disk.

    Args:
        folder: where the disks' files are made.
        network: whose addresses are the portals.
        hosts: names of those that may log in.
        disks: name and size in bytes, in the order of the LUNs.
        host_settings: what else stands in the hosts' ACLs.
    """
    for name, size_bytes in disks.items():
        with (folder / f"{name}.img").open("ab") as file:
            file.truncate(size_bytes)
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(folder / f"{name}.img")} for name in disks],
        "virtual_devices": [{"name": name, "regions": [{"device": name}]} for name in disks],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"{network.address(ethernet)}:{PORT}" for ethernet in range(network.ethernets)],
                "luns": [{"lun": lun, "virtual_device": name} for lun, name in enumerate(disks)],
                "acls": [{"initiator": name, **host_settings} for name in hosts],
            }
        ],
    }
