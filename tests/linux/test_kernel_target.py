"""The Linux kernel's own target as the external array of annexd, and annexhost on a Linux host that has its disks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.annexd import ROOT
from tests.support.fio import load, wait_for_load
from tests.support.kernel_log import KernelLog
from tests.support.linux_annexd import NetworkAnnexd, configuration
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.linux_target import TARGET, KernelDisk, LinuxTarget
from tests.support.open_iscsi import OpenIscsi

pytestmark = [
    pytest.mark.linux,
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.usefixtures("kernel_log"),
]

MIB = 1 << 20
DISK_BYTES = 16 * MIB


class Arrays(NamedTuple):
    """A Linux host with disks of annexd.

    `local` is a file; `external` is an LU of the kernel's target, and so is `open_to_all`, which can not be reserved.
    """

    annexd: NetworkAnnexd
    kernel: LinuxTarget
    host: LinuxHost
    local: str
    external: str
    open_to_all: str
    file: Path

    def annexhost(self, *words: str) -> Any:
        """Run annexhost on the host; give its document."""
        return json.loads(self.host.run(str(ROOT / "bin" / "annexhost"), "--json", *words))

    def wait_until_seen(self, disk: str, *, read_only: bool) -> None:
        """Wait until the host's kernel takes a disk for one that may be written, or not; nobody has it rescanned."""
        script = 'until [ "$(cat "/sys/block/${1#/dev/}/ro")" = "$2" ]; do sg_turs "$1" || sleep 0.05; done'
        self.host.sh(script, disk, str(int(read_only)))

    def sha256(self, disk: str) -> str:
        """Give the checksum of a disk as the host reads it."""
        return self.host.sh('dd if="$1" bs=1M iflag=direct status=none | sha256sum', disk).split()[0]


@pytest.fixture(scope="module")
def arrays(
    tmp_path_factory: pytest.TempPathFactory, network: LinuxNetwork, host: LinuxHost, linux_folder: Path
) -> Iterator[Arrays]:
    folder = tmp_path_factory.mktemp("annexd")
    config = configuration(folder, network, [host.name], {"local": DISK_BYTES})
    with LinuxHost(network, linux_folder, number=9) as kernel_host:
        kernel = LinuxTarget(kernel_host, [KernelDisk("open", DISK_BYTES), KernelDisk("old", DISK_BYTES)], [])
        (folder / "old").write_bytes(random.Random(3).randbytes(DISK_BYTES))
        kernel.fill("old", folder / "old")
        kernel.set_attribute("open", "emulate_pr", 0)
        config["arrays"] = [{"name": "old", "portal": kernel.portal, "target": TARGET}]
        for number, (name, lun) in enumerate((("old", 1), ("open", 0)), 1):
            config["virtual_devices"].append({"name": name, "regions": [{"array": "old", "lun": lun}]})
            config["targets"][0]["luns"].append({"lun": number, "virtual_device": name})
        with NetworkAnnexd(folder, config, network) as annexd:
            initiator = OpenIscsi(host)
            initiator.discover()
            initiator.login()
            local, external, open_to_all = (initiator.disk(lun) for lun in range(3))
            yield Arrays(annexd, kernel, host, local, external, open_to_all, folder / "local.img")
            initiator.logout()


def test_the_kernel_s_target_is_set_up_and_saved(arrays: Arrays) -> None:
    assert [target["wwn"] for target in json.loads(arrays.kernel.saved())["targets"]] == [TARGET]


def test_a_host_reads_the_array_s_disk_through_annexd(arrays: Arrays) -> None:
    (row,) = [row for row in arrays.annexhost("vdevs", arrays.local)["virtual_devices"] if row["lun"] == 1]
    assert (row["state"], row["flags"], row["blocks"]) == ("ready", ["external_regions"], DISK_BYTES // 512)
    assert arrays.sha256(arrays.external) == arrays.kernel.sha256("old")


def test_a_disk_that_can_not_be_reserved_has_no_compare_and_write_and_is_a_disk_otherwise(arrays: Arrays) -> None:
    host, disk = arrays.host, arrays.open_to_all
    limit = "Maximum compare and write length: "
    assert f"{limit}0 " in host.run("sg_vpd", "--page=bl", disk)
    assert f"{limit}255 " in host.run("sg_vpd", "--page=bl", arrays.external)
    for opcode in ("0x89", "0x8b"):
        assert "NOT supported" in host.run("sg_opcodes", f"--opcode={opcode}", disk)
        assert "NOT supported" not in host.run("sg_opcodes", f"--opcode={opcode}", arrays.external)
    host.sh("head -c 1024 /dev/zero >/run/zeros")
    refused = host.result("sg_compare_and_write", "--in=/run/zeros", "--lba=9", disk)
    assert "Invalid opcode" in refused.errors
    host.sh('head -c 16M /dev/urandom | dd of="$1" bs=1M oflag=direct iflag=fullblock conv=fsync status=none', disk)
    assert arrays.sha256(disk) == arrays.kernel.sha256("open")


def test_external_data_is_acquired_and_transferred_from_inside_the_host(arrays: Arrays) -> None:
    """The kernel's session outlives each annexhost, and with it the acquisition."""
    arrays.annexhost("acquire", arrays.local, "--vdev", "1", "--id", "7", "--lba", "100", "--blocks", "20000")
    arrays.annexhost("transfer", arrays.local, "7", "-o", "/run/copy")
    wanted = random.Random(3).randbytes(DISK_BYTES)[100 * 512 :][: 20000 * 512]
    assert arrays.host.run("sha256sum", "/run/copy").split()[0] == hashlib.sha256(wanted).hexdigest()


def test_a_pair_is_formed_copied_and_compared_while_the_host_writes(arrays: Arrays, kernel_log: KernelLog) -> None:
    kernel_log.expect(
        r"sd [\d:]+: (Mode parameters|Inquiry data has) changed", r"sd [\d:]+: \[sd\w+\] Write Protect is on"
    )
    kernel_log.expect(r"sd [\d:]+: \[sd\w+\] Mode Sense: \w\w 00 90 08")
    # Linux flushes no disk that it can not write to. It is to flush the one that it can write to now.
    kernel_log.expect(r"sd [\d:]+: \[sd\w+\] Write cache: disabled, read cache: enabled, supports DPO and FUA")
    arrays.host.sh('head -c 16M /dev/urandom | dd of="$1" bs=1M oflag=direct iflag=fullblock status=none', arrays.local)
    with load(arrays.host, arrays.local, "--direct=1", "--bs=4k"):
        words = ("--secondary", "1", "--fence", "data", "--wait")
        (pair,) = arrays.annexhost("pair", "create", arrays.local, *words)["pairs"]
        assert (pair["state"], pair["in_sync_percent"]) == ("PAIR", 100)
        arrays.wait_until_seen(arrays.external, read_only=True)
        wait_for_load(arrays.host, arrays.local)
    assert arrays.annexhost("pair", "verify", arrays.local)
    assert arrays.sha256(arrays.local) == arrays.kernel.sha256("old")
    assert arrays.sha256(arrays.local) == hashlib.sha256(arrays.file.read_bytes()).hexdigest()

    (pair,) = arrays.annexhost("pair", "takeover", arrays.external)["pairs"]  # the two change places
    assert pair["state"] == "PAIR"
    arrays.wait_until_seen(arrays.external, read_only=False)
    arrays.wait_until_seen(arrays.local, read_only=True)
    script = 'cat "/sys/block/${1#/dev/}/queue/write_cache"'
    assert arrays.host.sh(script, arrays.external) == "write back\n"
    with load(arrays.host, arrays.external, "--direct=1", "--bs=4k"):
        wait_for_load(arrays.host, arrays.external)
    arrays.annexhost("pair", "delete", arrays.external)
    assert arrays.sha256(arrays.external) == arrays.kernel.sha256("old")
    assert arrays.sha256(arrays.local) == arrays.kernel.sha256("old")
