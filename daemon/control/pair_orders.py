"""Orders of an admin to pairs: the same engine, checks and refusals as for a host's SCSI commands.

The engine asks whose order it is, and what that one sees. An admin sees every logical unit, read-write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from backends.pairs.pacing import MOST_PACE_MIB_S, Pace
from backends.pairs.pair import Pair
from daemon.callbacks import answered
from daemon.control.errors import RefusedError, UnknownError
from daemon.control.jobs import Job, JobRow, Jobs
from daemon.control.views import PairRow, pair_row
from daemon.daemon import Daemon
from daemon.units import Unit
from scsi.array_commands import RESYNC_REVERSE, RESYNC_SWAP, ArrayOut, FenceLevel, PairCreate, PairState
from scsi.errors import ScsiError
from scsi.nexus import MappedUnit, Nexus
from scsi.sense import describe_sense

ADMIN = "annex:admin"  # no host has this name: it is no iSCSI name


class PairForm(msgspec.Struct, forbid_unknown_fields=True):
    """What a pair is formed of, by names of virtual devices; `copy` False says that both hold the same already."""

    primary: str
    secondary: str
    fence_level: Literal["never", "status", "data"] = "never"
    copy: bool = True
    pace_mib_s: int = 0
    label: str = ""


class PaceForm(msgspec.Struct, forbid_unknown_fields=True):
    """How fast a pair copies and compares; what is missing or null stays as it is."""

    pace_mib_s: int | None = None
    least_pace_mib_s: int | None = None


class PairAnswer(msgspec.Struct):
    """The pair after an order, and the job that goes on because of it."""

    pair: PairRow
    job: JobRow | None


class _Order(NamedTuple):
    action: ArrayOut
    flags: int = 0
    at_secondary: bool = False


ORDERS = {
    "split": _Order(ArrayOut.PAIR_SPLIT),
    "resync": _Order(ArrayOut.PAIR_RESYNC),
    "reverse": _Order(ArrayOut.PAIR_RESYNC, RESYNC_REVERSE),
    "swap": _Order(ArrayOut.PAIR_RESYNC, RESYNC_SWAP),
    "takeover": _Order(ArrayOut.PAIR_TAKEOVER, at_secondary=True),
}


class PairOrders:
    """Carries them out."""

    def __init__(self, daemon: Daemon, jobs: Jobs) -> None:
        self._daemon = daemon
        self._jobs = jobs

    async def form(self, form: PairForm) -> PairAnswer:
        """Form a pair; the answer comes when it exists, its copy goes on as a job.

        Raises:
            UnknownError: there is no such virtual device.
            RefusedError: see `backends.pairs.admission`.
        """
        primary, secondary = self._unit(form.primary), self._unit(form.secondary)
        _check_pace("pace_mib_s", form.pace_mib_s, 0)
        if len(form.label.encode()) > 32 or not form.label.isprintable():
            raise RefusedError("label", "is longer than 32 bytes, or has characters that do not print")
        level = FenceLevel[form.fence_level.upper()]
        naa = secondary.virtual_device.naa
        parameters = PairCreate(level, not form.copy, form.pace_mib_s, naa, form.label)
        book = self._daemon.assembly.pairs
        await self._carried_out("/pairs", lambda done: book.create(self._asker(), primary, parameters, done))
        pair = book.pair_of(naa)
        if pair is None:
            raise RefusedError("/pairs", "the pair was ended again at once")
        return self._answer(pair, "copy")

    async def order(self, pair: Pair, name: str) -> PairAnswer:
        """Split, resync, reverse, swap or take over.

        Raises:
            RefusedError: the pair's state does not allow it, or it failed.
        """
        order = ORDERS[name]
        leg = pair.secondary if order.at_secondary else pair.record.primary
        unit = self._daemon.assembly.units.unit(pair.naa(leg))
        if unit is None:
            raise RefusedError(f"/pairs/{pair.number}", "one of its logical units is gone")
        book = self._daemon.assembly.pairs
        await self._carried_out(
            f"/pairs/{pair.number}",
            lambda done: book.command(self._asker(), pair, order.action, order.flags, unit, done),
        )
        return self._answer(pair, name)

    async def set_pace(self, pair: Pair, form: PaceForm) -> PairRow:
        """Change how fast a pair copies and compares, at once, also what is under way.

        Raises:
            RefusedError: it is not within its bounds, or can not be stored.
        """
        before = Pace(pair.record.pace_mib_s, pair.record.least_pace_mib_s)
        wanted = Pace(
            before.most_mib_s if form.pace_mib_s is None else form.pace_mib_s,
            before.least_mib_s if form.least_pace_mib_s is None else form.least_pace_mib_s,
        )
        _check_pace("pace_mib_s", wanted.most_mib_s, 0)
        _check_pace("least_pace_mib_s", wanted.least_mib_s, 1)
        if pair.damaged:
            raise RefusedError(f"/pairs/{pair.number}", "its record is damaged", "delete it")
        await self._carried_out(f"/pairs/{pair.number}", lambda done: pair.set_pace(wanted, done))
        return pair_row(self._daemon, pair)

    def verify(self, pair: Pair) -> PairAnswer:
        """Begin to compare both sides; what differs is copied again.

        Raises:
            RefusedError: the pair's state does not allow it.
        """
        unit = self._daemon.assembly.units.unit(pair.naa(pair.record.primary))
        if unit is None:
            raise RefusedError(f"/pairs/{pair.number}", "one of its logical units is gone")
        job = self._jobs.begin("verify", pair)

        def over(error: Exception | None) -> None:
            job.end("done" if error is None else "failed", None if error is None else _words(error))

        job.stop = partial(pair.synchronizer.cancel, over)
        self._daemon.assembly.pairs.command(self._asker(), pair, ArrayOut.PAIR_VERIFY, 0, unit, over)
        row = job.refresh()
        if row.state == "failed":  # refused at once, so it was never a job
            self._jobs.forget(row.id)
            raise RefusedError(f"/pairs/{pair.number}", row.error or "can not be compared")
        return PairAnswer(pair_row(self._daemon, pair), row)

    async def dissolve(self, pair: Pair) -> None:
        """End a pair, also one whose virtual devices are gone; each side keeps its own data.

        Raises:
            RefusedError: that can not be now.
        """
        book = self._daemon.assembly.pairs
        await self._carried_out(f"/pairs/{pair.number}", lambda done: book.dissolve(self._asker(), pair, done))

    async def dissolve_all(self, place: str, pairs: list[Pair]) -> None:
        """End pairs all at once, or none.

        Raises:
            RefusedError: that can not be now.
        """
        book = self._daemon.assembly.pairs
        if pairs:
            await self._carried_out(place, lambda done: book.dissolve_all(self._asker(), pairs, done))

    def _answer(self, pair: Pair, kind: str) -> PairAnswer:
        job: Job | None = self._jobs.begin(kind, pair) if pair.state is PairState.COPY else None
        return PairAnswer(pair_row(self._daemon, pair), job.refresh() if job else None)

    async def _carried_out(self, place: str, begin: Callable[[Callable[[Exception | None], None]], object]) -> None:
        error = await answered(begin)
        if error is not None:
            raise RefusedError(place, _words(error))

    def _unit(self, name: str) -> Unit:
        device = self._daemon.assembly.virtual_devices.get(name)
        unit = self._daemon.assembly.units.unit(device.naa) if device is not None else None
        if unit is None:
            raise UnknownError(f"/vdevs/{name}", "there is no such virtual device")
        return unit

    def _asker(self) -> Nexus:
        units = self._daemon.assembly.units.units()
        lun_map = {
            number.to_bytes(8, "big"): MappedUnit(unit.logical_unit, read_only=False)
            for number, unit in enumerate(units)
        }
        return Nexus(ADMIN, bytes(6), "", 0, True, lun_map)


def _check_pace(name: str, mib_s: int, least: int) -> None:
    if not least <= mib_s <= MOST_PACE_MIB_S:
        remedy = "0 is no limit" if least == 0 else f"{MOST_PACE_MIB_S}: do not stand back for hosts"
        raise RefusedError(name, f"{mib_s} is not within {least} … {MOST_PACE_MIB_S} MiB/s", remedy)


def _words(error: Exception) -> str:
    """Say why the engine refused, in the words that a host's admin would see, and its own."""
    said = str(error)
    if not isinstance(error, ScsiError):
        return said
    words = describe_sense(error.key, error.asc, error.ascq)
    return words if said in words else f"{words}: {said}"
