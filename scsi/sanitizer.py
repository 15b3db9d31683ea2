"""A sanitize: every block of a unit is overwritten, or written with zeroes and unmapped, whatever happens meanwhile.

A sanitize goes through the unit by commands from within (`scsi.inside`), at the pace that the host which asked is
limited to. It is not a task of that host: aborts, resets and the end of the session do not end it. Until it has ended
hosts may ask little more of the unit than how far it is; after one that failed, until a sanitize works or, if the host
had allowed that (AUSE), EXIT FAILURE MODE gives up. One that a crash cut short begins again with the next start.

Spec: SBC-4 "Sanitize operations".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scsi import provisioning
from scsi.block_commands import transfer_limit_blocks
from scsi.commands import Allow, Command
from scsi.errors import InternalTargetFailure, SanitizeFailed, SanitizeInProgress, ScsiError
from scsi.inside import WRITE_16, InsideTask, inside_cdb, inside_row
from scsi.nexus import MappedUnit, Nexus
from scsi.saved_parameters import Document
from scsi.status import Status
from scsi.volume import Allocation, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

KIND: Final = "sanitize"  # of what is saved while one is under way

PIECE_BYTES: Final = 1 << 20
UNMAP_BYTES: Final = 16 << 20

_PROGRESS_DENOMINATOR: Final = 0x10000

_SYNCHRONIZE_CACHE_16, _WRITE_SAME_16 = 0x91, 0x93
_UNMAP_WITHOUT_DATA = 0x09  # UNMAP and NDOB of WRITE SAME

# The host that asked may be gone, and what it had reserved with it: the unit itself is who asks for the pieces.
_EXEMPT: Final[dict[str, Any]] = {"allow": Allow.ANYWHERE, "while_sanitized": True}
_WRITE = inside_row(WRITE_16, **_EXEMPT)
_FLUSH = inside_row(_SYNCHRONIZE_CACHE_16, **_EXEMPT)
_UNMAP = inside_row(_WRITE_SAME_16, rows=provisioning.ROWS, **_EXEMPT)


class _Session(NamedTuple):
    """Whose the commands from within are: nobody's that could be lost."""

    nexus: Nexus


class Pass(NamedTuple):
    """One way through all of the unit.

    Attributes:
        block: what each block is written with.
        unmap: it is unmapped after that, and blocks without storage are left out.
    """

    block: bytes
    unmap: bool = False


def _to_document(passes: list[Pass], *, may_be_left: bool) -> Document:
    blocks = list(dict.fromkeys(block for block, _ in passes))
    return {
        "blocks": [block.hex() for block in blocks],
        "passes": [[blocks.index(block), unmap] for block, unmap in passes],
        "may_be_left": may_be_left,
    }


def _from_document(document: Document) -> list[Pass]:
    blocks = [bytes.fromhex(block) for block in document["blocks"]]
    return [Pass(blocks[index], bool(unmap)) for index, unmap in document["passes"]]


class Sanitizer:
    """What is sanitized of one logical unit, and whether the last time went well.

    Attributes:
        running: one is under way.
        failed: the last one did not work.
        may_be_left: EXIT FAILURE MODE is allowed after it.
    """

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self.running = False
        self.failed = False
        self.may_be_left = False
        self._progress = 0
        self._session = _Session(Nexus("", bytes(6), "", 0, False, {}))
        self._cut_short: list[Pass] = []
        document = unit.saved.get(KIND)
        if document is not None:
            self.running = True
            self.may_be_left = bool(document["may_be_left"])
            self._cut_short = _from_document(document)

    @property
    def error(self) -> ScsiError | None:
        """What hosts' commands are refused with now; None when there is nothing of it."""
        self.resume()
        if self.running:
            return SanitizeInProgress(progress=self._progress)
        return SanitizeFailed() if self.failed else None

    def start(
        self,
        passes: list[Pass],
        mapped: MappedUnit,
        begun: Callable[[], None],
        ended: Callable[[ScsiError | None], None],
    ) -> None:
        """Begin a sanitize, once it is on stable storage that there is one.

        Args:
            passes: what is done, in this order.
            mapped: the unit as the host sees it that asked, with its limit.
            begun: called when it will be done, whatever happens.
            ended: called once, possibly before this returns; without `begun` nothing was done.
        """
        before = self.failed
        self.running, self.failed, self._progress = True, False, 0
        self._unit.refresh()

        def saved(problem: str) -> None:
            if problem:
                self.running, self.failed = False, before
                self._unit.refresh()
                ended(InternalTargetFailure(problem))
            else:
                begun()
                self._walk(passes, mapped, ended)

        if self._unit.saved.kept:
            self._unit.saved.save(KIND, _to_document(passes, may_be_left=self.may_be_left), saved)
        else:
            saved("")

    def resume(self) -> None:
        """Go on with a sanitize that was cut short, as soon as the volume can serve."""
        if self._cut_short and self._unit.volume.fault() is None:
            passes, self._cut_short = self._cut_short, []
            self._walk(passes, MappedUnit(self._unit), lambda _error: None)

    def _walk(self, passes: list[Pass], mapped: MappedUnit, ended: Callable[[ScsiError | None], None]) -> None:
        _Walk(self._unit, self._session, passes, mapped, self._moved, lambda error: self._end(error, ended)).go_on()

    def leave_failure(self) -> None:
        """Give up a sanitize that failed.

        Raises:
            SanitizeFailed: the host that asked for it did not allow that.
        """
        if self.failed:
            if not self.may_be_left:
                raise SanitizeFailed
            self._unit.saved.save(KIND, None, _nothing_to_be_done)
            self.failed = False
            self._unit.refresh()

    def _moved(self, done_blocks: int, all_blocks: int) -> None:
        self._progress = done_blocks * _PROGRESS_DENOMINATOR // all_blocks

    def _end(self, error: ScsiError | None, ended: Callable[[ScsiError | None], None]) -> None:
        if error is None:
            self._unit.saved.save(KIND, None, _nothing_to_be_done)
        self.running, self.failed = False, error is not None
        self._unit.refresh()
        ended(error)


def _nothing_to_be_done(_problem: str) -> None:
    """A record that stays although its sanitize has ended costs one more sanitize, and no data that is wanted."""


class _Walk:
    """One sanitize under way: a command after the other."""

    def __init__(
        self,
        unit: LogicalUnit,
        session: _Session,
        passes: list[Pass],
        mapped: MappedUnit,
        moved: Callable[[int, int], None],
        end: Callable[[ScsiError | None], None],
    ) -> None:
        self._unit = unit
        self._session = session
        self._mapped = MappedUnit(unit)
        self._limit = mapped.limit
        self._moved = moved
        self._end = end
        self._all_blocks = unit.volume.blocks * len(passes)
        self._done_blocks = 0
        self._steps = self._all_steps(passes)
        self._runs: list[Allocation] = []
        self._moving = False
        self._more = False

    def go_on(self) -> None:
        """Take the next step. One that ends before it returns comes back here, where the loop that runs goes on."""
        self._more = True
        if self._moving:
            return
        self._moving = True
        while self._more:
            self._more = False
            step = next(self._steps, None)
            if step is None:
                self._end(None)
                break
            step()
        self._moving = False

    def _all_steps(self, passes: list[Pass]) -> Iterator[Callable[[], None]]:
        blocks = self._unit.volume.blocks
        at_once = UNMAP_BYTES // self._unit.volume.block_bytes
        for block, unmap in passes:
            for first in range(0, blocks, at_once):
                count = min(at_once, blocks - first)
                if unmap:
                    yield from self._erase(first, count, block)
                else:
                    yield from self._overwrite(first, count, block)
                self._done_blocks += count
                self._moved(self._done_blocks, self._all_blocks)
        yield lambda: self._run(_FLUSH, inside_cdb(_SYNCHRONIZE_CACHE_16, 0, 0), b"")

    def _overwrite(self, first: int, count: int, block: bytes) -> Iterator[Callable[[], None]]:
        most = min(PIECE_BYTES // len(block), transfer_limit_blocks(self._unit))
        for lba in range(first, first + count, most):
            blocks = min(most, first + count - lba)
            cdb, data = inside_cdb(WRITE_16, lba, blocks), block * blocks
            yield lambda cdb=cdb, data=data: self._run(_WRITE, cdb, data)  # type: ignore[misc]  # bound early

    def _erase(self, first: int, count: int, block: bytes) -> Iterator[Callable[[], None]]:
        """Write what has storage, so that nothing of it is left in there, and give the storage back."""
        end = first + count
        while first < end:
            yield lambda lba=first: self._look(lba, end - lba)  # type: ignore[misc]  # bound early
            for blocks, mapped in self._runs:
                if mapped:
                    yield from self._overwrite(first, blocks, block)
                    cdb = bytearray(inside_cdb(_WRITE_SAME_16, first, blocks))
                    cdb[1] = _UNMAP_WITHOUT_DATA
                    yield lambda cdb=bytes(cdb): self._run(_UNMAP, cdb, b"")  # type: ignore[misc]  # bound early
                first += blocks

    def _look(self, lba: int, blocks: int) -> None:
        def done(result: list[Allocation] | VolumeError) -> None:
            if isinstance(result, VolumeError):
                self._end(SanitizeFailed(str(result)))
            else:
                self._runs = result
                self.go_on()

        self._unit.volume.allocation(lba, blocks, done)

    def _run(self, row: Command, cdb: bytes, data: bytes) -> None:
        def ended(task: InsideTask) -> None:
            if task.status == Status.TASK_ABORTED:
                self._run(row, cdb, data)  # a host's reset is none of ours; it waits for the one that was aborted
            elif task.status != Status.GOOD:
                self._end(SanitizeFailed(f"status {task.status:02X}h, sense {task.sense.hex()}"))
            else:
                self.go_on()

        task = InsideTask(self._session, self._mapped, cdb, data, ended)

        def go() -> None:
            self._unit.execute_row(task, row)

        if self._limit is None or self._limit.admit(task, len(data), go):
            go()
