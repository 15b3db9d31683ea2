"""libiscsi's conformance suite against the running daemon: nothing fails, and only what is listed is left out.

What each test does on each kind of unit is in `expected/`, a line each; `expected_skips.txt` has why something is left
out on a local unit, and how often in all families together.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.host import GOOD, Host
from tests.support.libiscsi_suite import Outcome, run_family
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(600)]

EXPECTED = Path(__file__).with_name("expected")
SKIPS = Path(__file__).with_name("expected_skips.txt")
UPDATE = "ANNEX_UPDATE_EXPECTED"  # set to anything, the lists are written instead of compared

DISK_BYTES = 16 << 20
LIMIT_BYTES_PER_S = 2 << 20  # so that a sanitize of the disk takes 8 s
MOST_SKIPS = 40
ARRAY_TARGET = "iqn.2026-11.org.example:array"
TARGET = "iqn.2026-11.org.example:{}"
FAMILIES = ("ALL", "SCSI", "iSCSI", "LINUX")


class Bench(NamedTuple):
    """A running annexd with the units of a kind, and the files that they lie on."""

    annexd: Served
    urls: dict[str, tuple[str, ...]]
    files: dict[str, Path]

    def clear(self) -> None:
        """Have blocks read as zeroes: some tests take that for granted."""
        with Host(self.annexd.port, target=TARGET.format("main")) as host:
            for lba in range(0, DISK_BYTES // 512, 8192):
                cdb = b"\x93\x01" + lba.to_bytes(8, "big") + (8192).to_bytes(4, "big") + bytes(2)
                assert host.command(cdb).status == GOOD


# A virtual device's regions, by kind. `near` is in memory, where a block is as good as a page: GetLBAStatus.UnmapSingle
# is wrong about larger physical blocks (it asks for block 9 then, and takes 16 for the right answer).
REGIONS: dict[str, list[dict[str, Any]]] = {
    "local": [{"device": "near"}],
    "external": [{"array": "old", "lun": 1}],
    "mixed": [
        {"device": "near", "first_lba": 0, "blocks": 8192 + 1024},
        {"array": "old", "lun": 1, "first_lba": 512, "blocks": DISK_BYTES // 512 - 8192 - 1024},
    ],
    "paired": [{"device": "near"}],
}


@contextmanager
def bench(folder: Path, kind: str) -> Iterator[Bench]:
    """Serve a unit of a kind by two portals, and three more targets for what it can not be at the same time."""
    ports = [free_port() for _ in range(5)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, Tgt(folder) as array:
        files = {"near": Path(memory, "near.img"), "large": folder / "large.img", "far": folder / "far.img"}
        for file in files.values():
            with file.open("wb") as disk:
                disk.truncate(DISK_BYTES)
        parameters = {"thin_provisioning": "1", "lbppbe": "0"}
        array.add_lun(array.add_target(ARRAY_TARGET), files["far"], parameters=parameters)
        config = _config(folder, kind, ports, files, array.port)
        with Served(folder, config) as annexd:
            if kind == "paired":
                with Host(annexd.port, target=TARGET.format("main")) as host:
                    assert create_pair(host, 1, FenceLevel.DATA).status == GOOD
                    wait_for_pair(host, PairState.PAIR)
            places = {"main": ports[:2], "read-only": ports[2:3], "limited": ports[3:4]}
            if kind == "local":
                places["physical"] = ports[4:]
            urls = {
                name: tuple(f"iscsi://127.0.0.1:{port}/{TARGET.format(name)}/0" for port in portals)
                for name, portals in places.items()
            }
            yield Bench(annexd, urls, files)
            assert "Traceback" not in annexd.log()


def _config(folder: Path, kind: str, ports: list[int], files: dict[str, Path], array_port: int) -> dict[str, Any]:
    def target(name: str, portals: list[int], *luns: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": TARGET.format(name),
            "portals": [f"127.0.0.1:{port}" for port in portals],
            "luns": [{"lun": number} | lun for number, lun in enumerate(luns)],
            "anyone": {"addresses": ["127.0.0.1"], "array_control": True},
        }

    virtual_devices = [{"name": "v", "regions": REGIONS[kind]}, {"name": "vlarge", "regions": [{"device": "large"}]}]
    unit: dict[str, Any] = {"virtual_device": "v"}
    main = [unit]
    if kind == "paired":
        virtual_devices.append({"name": "vfar", "regions": [{"array": "old", "lun": 1}]})
        main.append({"virtual_device": "vfar"})
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(files[name])} for name in ("near", "large")],
        "arrays": [{"name": "old", "portal": f"127.0.0.1:{array_port}", "target": ARRAY_TARGET}],
        "virtual_devices": virtual_devices,
        "targets": [
            target("main", ports[:2], *main),
            target("read-only", ports[2:3], unit | {"read_only": True}),
            target("limited", ports[3:4], unit | {"max_bytes_per_s": LIMIT_BYTES_PER_S}),
            target("physical", ports[4:], {"virtual_device": "vlarge"}),
        ],
    }


def check(kind: str, family: str, outcomes: dict[str, Outcome]) -> None:
    """Compare with the list of what each test of a family does on a kind of unit."""
    lines = [f"{name}: {outcome}" for name, outcome in sorted(outcomes.items())]
    file = EXPECTED / f"{kind}-{family}.txt"
    if UPDATE in os.environ:
        file.write_text("".join(f"{line}\n" for line in lines))
    assert lines == file.read_text().splitlines()


def run(folder: Path, kind: str, families: tuple[str, ...]) -> Counter[str]:
    """Run families on a kind of unit; count what was left out, by its reason."""
    skips: Counter[str] = Counter()
    with bench(folder, kind) as running:
        for family in families:
            running.clear()
            outcomes = run_family(family, running.urls, folder)
            check(kind, family, outcomes)
            skips.update(reason for outcome in outcomes.values() for reason in outcome.skips)
        if kind == "paired":
            with Host(running.annexd.port, target=TARGET.format("main")) as host:
                wait_for_pair(host, PairState.PAIR)
            assert running.files["near"].read_bytes() == running.files["far"].read_bytes()
    return skips


def test_every_test_of_every_family_passes_and_only_what_is_listed_is_left_out(tmp_path: Path) -> None:
    skips = run(tmp_path, "local", FAMILIES)
    listed = [line.split("\t") for line in SKIPS.read_text().splitlines() if not line.startswith("#")]
    assert {words: int(count) for count, words, _ in listed} == dict(skips)
    assert skips.total() <= MOST_SKIPS


@pytest.mark.long
@pytest.mark.parametrize("kind", ["external", "mixed", "paired"])
def test_every_test_of_every_family_passes_on_other_units(tmp_path: Path, kind: str) -> None:
    run(tmp_path, kind, FAMILIES)
