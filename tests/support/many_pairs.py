"""A running annexd with many pairs, each leg of which is a file of its own, on this machine or under an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
def many_pairs(
    folder: Path,
    count: int,
    leg_bytes: int,
    *,
    fence_level: str = "status",
    kinds: str = "LE",
    formed: int | None = None,
) -> Iterator[ManyPairs]:
    """Start all of it, and form the pairs, which are equal from the start.

    Args:
        folder: for files and state.
        count: how many pairs.
        leg_bytes: size of each leg.
        fence_level: of the pairs.
        kinds: where the legs lie, two letters for each pair and again from the front: Local, or External.
        formed: how many of them are formed; None for all.
    """
    primaries = [folder / f"primary-{at}.img" for at in range(count)]
    secondaries = [folder / f"secondary-{at}.img" for at in range(count)]
    for path in primaries + secondaries:
        with path.open("wb") as file:
            file.truncate(leg_bytes)
    (folder / "state").mkdir(mode=0o700)
    devices: list[dict[str, Any]] = []
    virtual_devices: list[dict[str, Any]] = []
    luns: list[dict[str, Any]] = []
    with Tgt(folder) as tgt:
        target = tgt.add_target(ARRAY_TARGET)
        for lun in range(2 * count):
            at, half = divmod(lun, 2)
            path = (primaries, secondaries)[half][at]
            name = f"{('primary', 'secondary')[half]}{at}"
            if kinds[lun % len(kinds)] == "L":
                devices.append({"name": name, "path": str(path)})
                region: dict[str, Any] = {"device": name}
            else:
                tgt.add_lun(target, path, lun=lun + 1)
                region = {"array": "old", "lun": lun + 1}
            virtual_devices.append({"name": name, "regions": [region]})
            luns.append({"lun": lun, "virtual_device": name})
        everybody = {"addresses": ["127.0.0.0/8"], "array_control": True}
        portals = [f"127.0.0.1:{free_port()}"]
        config = {
            "version": 2,
            "state_directory": str(folder / "state"),
            "devices": devices,
            "arrays": [{"name": "old", "portal": f"127.0.0.1:{tgt.port}", "target": ARRAY_TARGET}],
            "virtual_devices": virtual_devices,
            "targets": [{"name": TARGET, "portals": portals, "luns": luns, "anyone": everybody}],
        }
        with Served(folder, config) as annexd:
            api = ControlClient(folder / "control.sock")
            numbers = []
            for at in range(count if formed is None else formed):
                form = {"primary": f"primary{at}", "secondary": f"secondary{at}", "copy": False}
                made = api.ask("POST", "/v1/pairs", form | {"fence_level": fence_level})
                assert made.status == 201, made
                numbers.append(made.document["pair"]["number"])
            yield ManyPairs(annexd, tgt, api, primaries, secondaries, numbers)
