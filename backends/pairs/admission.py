"""Every reason not to form a pair, and who may command one.

Spec: annex vendor-specific SCSI commands, version 1, "PAIR CREATE", "Who may", "Refusals".
"""

from __future__ import annotations

from collections.abc import Callable

from backends.pairs.pair import Pair
from backends.pairs.states import PairCommand, command_step
from backends.pairs.unit_directory import Unit, UnitDirectory
from backends.pairs.volumes import serves
from scsi.array_commands import FenceLevel, PairCreate
from scsi.errors import (
    AlreadyPaired,
    BlockLengthsDiffer,
    InvalidFieldInParameterList,
    NoSuchPair,
    PairSideNotReady,
    PairStateForbids,
    SameStorage,
    SecondaryInUse,
    SizesDiffer,
    TooManyPairs,
    WriteProtected,
)
from scsi.nexus import MappedUnit, Nexus

SECONDARY_NAA_OFFSET = 8


class Existing(Exception):
    """The two LUs are a pair already, in a state in which CREATE has nothing to do."""


def check_create(
    asker: Nexus,
    primary: Unit,
    parameters: PairCreate,
    units: UnitDirectory,
    pair_of: Callable[[bytes], Pair | None],
    room: bool,
) -> Unit:
    """Check all that can be known before anything is done.

    Args:
        asker: who sent the command.
        primary: the addressed LU.
        parameters: as decoded.
        units: every LU.
        pair_of: finds the pair of a LU.
        room: one more pair may exist.

    Returns:
        The secondary.

    Raises:
        Existing: nothing has to be done.
        ScsiError: the refusal.
    """
    if parameters.fence_level not in tuple(FenceLevel):
        raise InvalidFieldInParameterList(0)
    secondary = units.unit(parameters.secondary_naa)
    theirs = mapped(asker, parameters.secondary_naa)
    ours = mapped(asker, primary.logical_unit.naa)
    if secondary is None or theirs is None or ours is None:
        raise InvalidFieldInParameterList(SECONDARY_NAA_OFFSET, message="no such LU in the LUN map of this nexus")
    if secondary.logical_unit is primary.logical_unit:
        raise SameStorage("one LU on both sides")
    if ours.read_only or theirs.read_only:
        raise WriteProtected("both LUs must be mapped read-write")
    _check_paired(primary, secondary, pair_of)
    if not room:
        raise TooManyPairs
    _check_storage(primary, secondary)
    _check_in_use(asker, secondary, units)
    return secondary


def _check_paired(primary: Unit, secondary: Unit, pair_of: Callable[[bytes], Pair | None]) -> None:
    first = pair_of(primary.logical_unit.naa)
    second = pair_of(secondary.logical_unit.naa)
    if first is None and second is None:
        return
    if first is not second or first is None:
        raise AlreadyPaired
    step = command_step(first.state, PairCommand.CREATE)
    same_roles = first.naa(first.record.primary) == primary.logical_unit.naa
    if step is None or first.damaged or not same_roles:
        raise PairStateForbids
    raise Existing


def _check_storage(primary: Unit, secondary: Unit) -> None:
    ours, theirs = primary.virtual_device, secondary.virtual_device
    if not serves(ours) or not serves(theirs):
        raise PairSideNotReady(str(ours.fault() or theirs.fault()))
    if ours.block_bytes != theirs.block_bytes:
        raise BlockLengthsDiffer(f"{ours.block_bytes} and {theirs.block_bytes} bytes")
    if ours.blocks != theirs.blocks:
        raise SizesDiffer(f"{ours.blocks} and {theirs.blocks} blocks")
    if ours.shares_storage_with(theirs):
        raise SameStorage("a region of one lies on the storage of the other")
    if ours.read_only or theirs.read_only:
        raise PairSideNotReady("a side can only be read")


def _check_in_use(asker: Nexus, secondary: Unit, units: UnitDirectory) -> None:
    holder = secondary.logical_unit.reservations.holder
    if holder is not None and holder.initiator_name != asker.initiator_name:
        raise SecondaryInUse(f"reserved by {holder.initiator_name}")
    others = units.read_write_hosts(secondary.logical_unit.naa) - {asker.initiator_name}
    if others:
        raise SecondaryInUse(f"mapped read-write to {', '.join(sorted(others))}")


def check_command(asker: Nexus, pair: Pair, command: PairCommand) -> None:
    """Check that a nexus may command a pair.

    Raises:
        NoSuchPair: it does not see both LUs.
        WriteProtected: RESYNC and TAKEOVER need both mapped read-write.
    """
    maps = [mapped(asker, pair.naa(leg)) for leg in (0, 1)]
    if None in maps:
        raise NoSuchPair
    writes = {PairCommand.RESYNC, PairCommand.REVERSE, PairCommand.SWAP, PairCommand.TAKEOVER}
    if command in writes and any(unit is not None and unit.read_only for unit in maps):
        raise WriteProtected("both LUs must be mapped read-write")


def mapped(nexus: Nexus, naa: bytes) -> MappedUnit | None:
    """Find a LU in a nexus's LUN map; where it is mapped twice, a read-write mapping comes first."""
    found = [unit for unit in nexus.lun_map.values() if unit.logical_unit.naa == naa]
    return min(found, key=lambda unit: unit.read_only, default=None)


def visible(nexus: Nexus, pair: Pair) -> bool:
    """Tell whether a pair is listed for a nexus: at least one of its LUs is in the map."""
    return any(mapped(nexus, pair.naa(leg)) is not None for leg in (0, 1))
