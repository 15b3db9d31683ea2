"""A running annexd with many pairs: the primaries in a file, one part each, and the secondaries on LUs of an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.control import ControlClient
from tests.support.host import Host
from tests.support.ports import free_port
from tests.support.served import Served
from tests.support.tgt import Tgt

TARGET = "iqn.2026-11.org.example:pairs"
ARRAY_TARGET = "iqn.2026-11.org.example:array"
HOST = "iqn.2026-11.org.example:test-host"
ISID = b"\x80\0\0\0\0"


class ManyPairs(NamedTuple):
    """annexd, its array, its control API, and the files under the legs; pair n, from 0, is LUNs 2n and 2n + 1."""

    annexd: Served
    array: Tgt
    api: ControlClient
    primaries: list[Path]
    secondaries: list[Path]
    numbers: list[int]

    def host(self, number: int = 1) -> Host:
        return Host(self.annexd.port, target=TARGET, name=HOST, isid=ISID + bytes([number]))


@contextmanager
def many_pairs(folder: Path, count: int, leg_bytes: int, *, fence_level: str = "status") -> Iterator[ManyPairs]:
    """Start all of it, and form the pairs, which are equal from the start."""
    primaries = [folder / f"primary-{at}.img" for at in range(count)]
    secondaries = [folder / f"secondary-{at}.img" for at in range(count)]
    for path in primaries + secondaries:
        with path.open("wb") as file:
            file.truncate(leg_bytes)
    (folder / "state").mkdir(mode=0o700)
    with Tgt(folder) as tgt:
        target = tgt.add_target(ARRAY_TARGET)
        for lun, path in enumerate(secondaries, 1):
            tgt.add_lun(target, path, lun=lun)
        config = {
            "version": 2,
            "state_directory": str(folder / "state"),
            "devices": [{"name": f"disk{at}", "path": str(path)} for at, path in enumerate(primaries)],
            "arrays": [{"name": "old", "portal": f"127.0.0.1:{tgt.port}", "target": ARRAY_TARGET}],
            "virtual_devices": [
                {"name": f"{side}{at}", "regions": [region]}
                for at in range(count)
                for side, region in (
                    ("primary", {"device": f"disk{at}"}),
                    ("secondary", {"array": "old", "lun": at + 1}),
                )
            ],
            "targets": [
                {
                    "name": TARGET,
                    "portals": [f"127.0.0.1:{free_port()}"],
                    "luns": [
                        {"lun": 2 * at + half, "virtual_device": f"{side}{at}"}
                        for at in range(count)
                        for half, side in enumerate(("primary", "secondary"))
                    ],
                    "anyone": {"addresses": ["127.0.0.0/8"], "array_control": True},
                }
            ],
        }
        with Served(folder, config) as annexd:
            api = ControlClient(folder / "control.sock")
            numbers = []
            for at in range(count):
                form = {"primary": f"primary{at}", "secondary": f"secondary{at}", "copy": False}
                made = api.ask("POST", "/v1/pairs", form | {"fence_level": fence_level})
                assert made.status == 201, made
                numbers.append(made.document["pair"]["number"])
            yield ManyPairs(annexd, tgt, api, primaries, secondaries, numbers)
