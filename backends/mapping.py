"""The mapping table: which region of which device or array each virtual device maps to, kept across restarts.

How this works: the configuration says what a virtual device is made of, by names; the table gives it, once, its
number, its NAA id and its regions' numbers, and adds what only contact with the device can tell: capacity, block
length, and the id of an external LU. From then on the table leads. A configuration that gives a known virtual device
other regions is refused, since hosts would find other data under the same id. A virtual device that is deleted while
the daemon runs loses its row, for good; one that is missing from the file at a start keeps it, and gets the same ids
when it comes back. A configuration may give the NAA id, as a saved one does: then that is the id of a new row, and a
row with that id whose name is gone from the file follows it to its new name. Numbers are counted up for ever and never
used again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from backends.naa import is_own, make_naa
from backends.state_directory import StateDirectory, StateError
from backends.workers import Workers
from scsi.volume import Done, Fault, VolumeError

_FILE = "mapping"


class RegionRow(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A region: where it lies, and what was learnt there.

    Attributes:
        number: unique in the daemon; 0 in a definition that has none yet.
        kind: "local" or "external".
        device: name of a local device, and `path` where it is.
        array: name of an external array, and `lun` at which the LU was found.
        first_lba: on the device or external LU.
        wanted_blocks: what the configuration says; 0 for all to the end.
        id: of the external LU, hexadecimal: as configured, or as learnt; "" until then.
        blocks: capacity, learnt or configured; 0 until then.
        block_bytes: block length, learnt; 0 until then.
    """

    kind: Literal["local", "external"]
    number: int = 0
    device: str = ""
    path: str = ""
    array: str = ""
    lun: int = 0
    first_lba: int = 0
    wanted_blocks: int = 0
    id: str = ""
    blocks: int = 0
    block_bytes: int = 0

    def __str__(self) -> str:
        where = f"{self.device} ({self.path})" if self.kind == "local" else f"{self.array}/{self.lun}"
        identity = f" id {self.id}" if self.id else ""
        return f"{where}{identity} from LBA {self.first_lba}, {self.wanted_blocks or 'all'} blocks"

    def is_same(self, wanted: RegionRow) -> bool:
        """Tell whether a configuration's region is this one."""
        if (self.kind, self.device, self.path, self.array, self.first_lba) != (
            wanted.kind, wanted.device, wanted.path, wanted.array, wanted.first_lba,
        ):  # fmt: skip
            return False
        if self.id and wanted.id and self.id != wanted.id:
            return False
        # An external LU named by its id may move to another LUN; one named by LUN alone may not.
        if self.lun != wanted.lun and not (self.id and self.id == wanted.id):
            return False
        return wanted.wanted_blocks in {self.wanted_blocks, self.blocks or self.wanted_blocks}


class VirtualDeviceRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A virtual device: its name in the configuration, its ids, its regions in order."""

    name: str
    number: int
    naa: str
    regions: list[RegionRow]

    @property
    def naa_bytes(self) -> bytes:
        """The NAA id as it goes on the wire."""
        return bytes.fromhex(self.naa)


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    next_virtual_device: int = 1
    next_region: int = 1
    virtual_devices: list[VirtualDeviceRow] = []


class MappingTable:
    """The table of one daemon."""

    def __init__(
        self, state: StateDirectory, workers: Workers, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Load the table.

        Raises:
            StateError: the file is damaged.
        """
        self._state = state
        self._workers = workers
        self._random_bytes = random_bytes
        self._table = self._load()
        self._index()
        self._saving: list[Done] = []
        self._save_next: list[Done] = []

    def define(
        self, wanted: Sequence[tuple[str, Sequence[RegionRow]]], ids: Mapping[str, str] | None = None
    ) -> list[VirtualDeviceRow]:
        """Give the rows of a configuration's virtual devices, in order; new ones get their ids and are saved. Blocks.

        Args:
            wanted: per virtual device its name and its regions.
            ids: the NAA ids that the configuration gives, hexadecimal, by name.

        Raises:
            StateError: a known virtual device is defined otherwise than before, or the table can not be saved; then
                nothing has changed.
        """
        table = msgspec.convert(msgspec.to_builtins(self._table), _Table)
        known = {row.name: row for row in table.virtual_devices}
        names = [name for name, _ in wanted]
        ids = ids or {}
        for name, regions in wanted:
            naa = ids.get(name, "")
            row = known.get(name)
            if row is None:
                row = next((row for row in table.virtual_devices if row.naa == naa and row.name not in names), None)
                if row is not None:
                    row.name = name
            if row is None:
                self._check_free(table.virtual_devices, name, naa)
                row = self._new_row(table, name, regions, naa)
            else:
                self._follow(row, regions, naa)
        if table != self._table:
            self._state.write(_FILE, msgspec.to_builtins(table))
            self._table = table
            self._index()
        return [self._by_name[name] for name in names]

    def check(self, name: str, wanted: Sequence[RegionRow], naa: str = "") -> None:
        """Check that a virtual device may be made of these regions, and have this id, if one is given.

        Raises:
            StateError: it is known, and made of others, or has another; or another has the id.
        """
        row = self._by_name.get(name)
        if row is not None:
            self._check_same(row, wanted, naa)
        else:
            self._check_free(self._table.virtual_devices, name, naa)

    def new_id(self) -> str:
        """Make an id that no virtual device has, hexadecimal."""
        return make_naa(self._random_bytes).hex()

    def add(self, name: str, wanted: Sequence[RegionRow], done: Done, naa: str = "") -> VirtualDeviceRow:
        """Give the row of a virtual device that a running daemon gets; made anew if it is not known.

        Args:
            name: in the configuration.
            wanted: its regions; `check` has passed them.
            done: called back once the row is stable, or with the reason why it is not.
            naa: its id, hexadecimal; `check` has passed it. "" for the one that it has, or a new one.
        """
        row = self._by_name.get(name)
        if row is None:
            row = self._new_row(self._table, name, wanted, naa)
            self._index()
        else:
            self._follow(row, wanted, naa)
        self._save_soon(done)
        return row

    def forget(self, name: str, done: Done) -> None:
        """Drop the row of a virtual device that was deleted; its numbers and its id are not used again.

        Args:
            name: of a known one.
            done: called back once that is stable. With an error the row is gone all the same, and the next thing that
                is recorded makes it stable.
        """
        self._table.virtual_devices.remove(self._by_name[name])
        self._index()
        self._save_soon(done)

    def learn(self, number: int, blocks: int, block_bytes: int, identifier: bytes, done: Done) -> None:
        """Record what first contact with the region `number` found; `done` once it is stable.

        Args:
            number: of the region.
            blocks: its capacity.
            block_bytes: its block length.
            identifier: VPD 83 designator of the external LU; b"" for a local region.
            done: called back.
        """
        region = self.region(number)
        assert region is not None
        region.blocks = blocks
        region.block_bytes = block_bytes
        region.id = identifier.hex()
        self._save_soon(done)

    def resize(self, number: int, blocks: int, done: Done) -> None:
        """Record another capacity of the region `number`; `done` once it is stable."""
        region = self.region(number)
        assert region is not None
        region.blocks = blocks
        self._save_soon(done)

    def rows(self) -> list[VirtualDeviceRow]:
        """List all, also those that the configuration does not have any more."""
        return list(self._table.virtual_devices)

    def by_name(self, name: str) -> VirtualDeviceRow | None:
        """Find a virtual device by its name in the configuration."""
        return self._by_name.get(name)

    def by_number(self, number: int) -> VirtualDeviceRow | None:
        """Find a virtual device by its number."""
        return self._by_number.get(number)

    def by_naa(self, naa: bytes) -> VirtualDeviceRow | None:
        """Find a virtual device by its NAA id."""
        return self._by_naa.get(naa)

    def region(self, number: int) -> RegionRow | None:
        """Find a region by its number."""
        return self._regions.get(number)

    def _index(self) -> None:
        rows = self._table.virtual_devices
        self._by_name = {row.name: row for row in rows}
        self._by_number = {row.number: row for row in rows}
        self._by_naa = {row.naa_bytes: row for row in rows}
        self._regions = {region.number: region for row in rows for region in row.regions}

    def _check_free(self, rows: Iterable[VirtualDeviceRow], name: str, naa: str) -> None:
        owner = next((row for row in rows if row.naa == naa), None)
        if owner is not None:
            problem = f"virtual device {name!r} is given the id {naa}, which is that of virtual device {owner.name!r}"
            raise StateError(self._state.path / f"{_FILE}.json", problem, "delete that first, or leave the id out")

    def _check_same(self, row: VirtualDeviceRow, wanted: Sequence[RegionRow], naa: str) -> None:
        if naa and naa != row.naa:
            problem = f"virtual device {row.name!r} has the id {row.naa}; the configuration now says {naa}"
            raise StateError(self._state.path / f"{_FILE}.json", problem, "leave the id out, or delete it first")
        same = len(row.regions) == len(wanted) and all(map(RegionRow.is_same, row.regions, wanted))
        if not same:
            problem = (
                f"virtual device {row.name!r} is number {row.number}, made of {_listed(row.regions)}; "
                f"the configuration now says {_listed(wanted)}"
            )
            raise StateError(self._state.path / f"{_FILE}.json", problem, "give what is made otherwise another name")

    def _follow(self, row: VirtualDeviceRow, wanted: Sequence[RegionRow], naa: str) -> None:
        self._check_same(row, wanted, naa)
        for region, want in zip(row.regions, wanted, strict=True):
            region.lun = want.lun
            region.id = region.id or want.id

    def _new_row(self, table: _Table, name: str, wanted: Sequence[RegionRow], naa: str) -> VirtualDeviceRow:
        row = VirtualDeviceRow(name=name, number=table.next_virtual_device, naa=naa or self.new_id(), regions=[])
        table.next_virtual_device += 1
        for want in wanted:
            row.regions.append(msgspec.structs.replace(want, number=table.next_region, blocks=want.wanted_blocks))
            table.next_region += 1
        table.virtual_devices.append(row)
        return row

    def _save_soon(self, done: Done) -> None:
        if self._saving:
            self._save_next.append(done)
        else:
            self._save([done])

    def _save(self, waiting: list[Done]) -> None:
        self._saving = waiting
        content = msgspec.to_builtins(self._table)

        def saved(result: Exception | None) -> None:
            error = None if result is None else VolumeError(Fault.BLOCKED, str(result))
            self._saving = []
            following, self._save_next = self._save_next, []
            if following:
                self._save(following)
            for done in waiting:
                done(error)

        self._workers.submit(lambda: self._state.write(_FILE, content), saved)

    def _load(self) -> _Table:
        content = self._state.read(_FILE)
        if content is None:
            return _Table()
        try:
            table = msgspec.convert(content, _Table)
            _check(table)
        except ValueError as error:  # msgspec's ValidationError is one
            raise StateError(self._state.path / f"{_FILE}.json", str(error)) from error
        return table


def _listed(regions: Iterable[RegionRow]) -> str:
    return " + ".join(map(str, regions))


def _check(table: _Table) -> None:
    rows = table.virtual_devices
    regions = [region for row in rows for region in row.regions]
    _check_numbers("virtual device", [row.number for row in rows], table.next_virtual_device)
    _check_numbers("region", [region.number for region in regions], table.next_region)
    for what, values in (("name", [row.name for row in rows]), ("NAA id", [row.naa for row in rows])):
        if len(set(values)) != len(values):
            raise ValueError(f"a {what} of a virtual device stands twice")
    for row in rows:
        if not row.regions or not is_own(row.naa_bytes):
            raise ValueError(f"virtual device {row.number} has no region or a wrong NAA id")
    for region in regions:
        bytes.fromhex(region.id)
        if min(region.first_lba, region.wanted_blocks, region.blocks, region.block_bytes, region.lun) < 0:
            raise ValueError(f"region {region.number} has a negative number in it")
        if not (region.device if region.kind == "local" else region.array):
            raise ValueError(f"region {region.number} lies nowhere")


def _check_numbers(what: str, numbers: list[int], next_number: int) -> None:
    if len(set(numbers)) != len(numbers) or not all(0 < number < next_number for number in numbers):
        raise ValueError(f"a {what} number stands twice or is out of range")
