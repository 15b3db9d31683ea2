"""The device server of one logical unit: takes commands, checks them, runs them, ends them.

A command's way: `execute` → its row of the table → reserved bits → `run` of the row → the volume → `finish` or `fail`
→ `Task.complete`. That is all while nothing unusual is going on. Unit attentions of the nexus, a reservation, a task
that is not SIMPLE, a drain, an aborted write that still runs: any of these sends the command the long way first,
through `scsi.admission`, which knows their rules. One flag and two comparisons decide which way.

Spec: SAM-6 "SCSI command model"; SPC-6 "Device server".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from scsi import identifying_information, mode_parameters, unit_attention
from scsi.admission import Admission
from scsi.array_services import ArrayServices
from scsi.atomic_writes import AtomicWrites
from scsi.command_set import COMMANDS
from scsi.commands import CDB_BYTES, Command, Medium
from scsi.copy_manager import CopyManager
from scsi.counters import Counters
from scsi.errors import (
    ScsiError,
    StatusError,
)
from scsi.log_pages import LogZeroes
from scsi.mode_parameters import ModeParameters
from scsi.nexus import Limit, Nexus
from scsi.orwrite import Generations
from scsi.persistent_reserve import PersistentReservations
from scsi.redo import RedoLog
from scsi.reservations import Reservations
from scsi.sanitizer import Sanitizer
from scsi.saved_parameters import NOT_KEPT, SavedParameters
from scsi.self_test import SelfTests
from scsi.sense import encode_sense
from scsi.status import Status, TaskAttribute
from scsi.tasks import Task
from scsi.volume import Buffer, Volume
from scsi.write_through import WriteThrough

_GOOD: Final = int(Status.GOOD)
_CHECK_CONDITION: Final = int(Status.CHECK_CONDITION)
_CONDITION_MET: Final = int(Status.CONDITION_MET)
_SIMPLE: Final = int(TaskAttribute.SIMPLE)


class _Gone:
    """What `TaskSet.running` does not have."""


class LogicalUnit:
    """One logical unit, whoever sees it and by whatever LUN.

    Attributes:
        naa: its NAA id, 16 bytes; VPD page 83h.
        serial: VPD page 80h; ASCII.
        product, revision: standard INQUIRY data; ASCII, cut at 16 and 4 characters.
        array_services: what is behind ARRAY IN and ARRAY OUT, or None when the unit does not have them.
        nexuses: those that see the unit now.
        saved: what it keeps across restarts.
        reservations: who has it reserved, by RESERVE.
        persistent_reservations: who is registered, and who holds a persistent reservation.
        modes, saved_modes: what hosts have set in its mode pages, in force and kept across restarts.
        identifying_information: what hosts have written down about it, by type.
        commands: its command table.
        counters: what it has done.
        self_tests, echo_buffers: of SEND DIAGNOSTIC, and of WRITE BUFFER by nexus.
        log_zeroes: what hosts have set to zero of that.
        copy_manager: its EXTENDED COPY commands.
        sanitizer: its SANITIZE, if one is under way or has failed.
        atomic_writes: its WRITE ATOMIC commands that have to be completed first.
        redo_log: where those are recorded; without it there is no such command.
        orwrite_generations: of the bitmaps that ORWRITE changes.
    """

    def __init__(
        self,
        volume: Volume,
        naa: bytes,
        *,
        serial: str = "",
        product: str = "VIRTUAL DISK",
        revision: str = "1",
        array_services: ArrayServices | None = None,
        saved: SavedParameters = NOT_KEPT,
    ) -> None:
        """Put a logical unit on a volume.

        Args:
            volume: where its blocks are.
            naa: NAA id of 16 bytes.
            serial: unit serial number; by default the id in hexadecimal.
            product: product identification.
            revision: product revision level.
            array_services: see the class.
            saved: what it keeps across restarts.

        Raises:
            ValueError: what was saved is none of ours.
        """
        assert len(naa) == 16
        self.naa = naa
        self.serial = serial or naa.hex()
        self.product = product
        self.revision = revision
        self.array_services = array_services
        self.nexuses: set[Nexus] = set()
        self.saved = saved
        self.reservations = Reservations(self.refresh)
        self.persistent_reservations = PersistentReservations(self, saved)
        self.modes = self.saved_modes = mode_parameters.decode_saved(saved.get(mode_parameters.KIND))
        self.identifying_information = identifying_information.decode_saved(saved.get(identifying_information.KIND))
        self.commands = COMMANDS
        self.counters = Counters()
        self.log_zeroes: LogZeroes = {}
        self.self_tests = SelfTests(self)
        self.echo_buffers: dict[Nexus, bytes] = {}
        self.copy_manager = CopyManager()
        self.sanitizer = Sanitizer(self)
        self.atomic_writes = AtomicWrites(self)
        self.redo_log: RedoLog | None = None
        self.orwrite_generations = Generations()
        self._volume = volume if self.modes.write_cache else WriteThrough(volume)
        self._below = volume  # the same, or what is under it while WCE is 0
        self._write_protected = volume.read_only  # as hosts were told
        self._admission = Admission(self)
        self._task_set = self._admission.tasks
        # Of the objects above, for the fast path.
        self._plain = self.commands.plain
        self._running = self._task_set.running
        self._careful = False  # commands are to go the long way
        self._admitted: set[Nexus] = set()  # but for those of these, which a reservation lets do anything
        self._inactive = False  # a nexus has a target port that is not active
        self._unsettled = False  # and the task set is a reason for it
        self.refresh()

    def __repr__(self) -> str:
        return f"<LogicalUnit {self.naa.hex()}>"

    @property
    def volume(self) -> Volume:
        """Where the blocks are.

        It may be exchanged while hosts use the unit, between `drain` and `resume`; hosts are told by unit attentions
        if it has another size or another kind of cache, or begins or ceases to be thin.
        """
        return self._volume

    @volume.setter
    def volume(self, volume: Volume) -> None:
        old = self._volume
        self._below = volume
        self._volume = volume = volume if self.modes.write_cache else WriteThrough(volume)
        if (old.blocks, old.block_bytes) != (volume.blocks, volume.block_bytes):
            self.capacity_changed()
        # A host that believes that there is no cache never flushes it.
        if old.write_cache != volume.write_cache:
            self.establish_unit_attention(*unit_attention.MODE_PARAMETERS_CHANGED)
        if (old.deallocation is None) != (volume.deallocation is None):
            self.establish_unit_attention(*unit_attention.INQUIRY_DATA_CHANGED)
        self.tell_write_protection()

    def tell_write_protection(self) -> None:
        """Tell the hosts if the volume has become write-protected, or has ceased to be.

        Linux looks at that again when inquiry data are said to have changed, and at nothing else.
        """
        protected = self._volume.read_only
        if protected != self._write_protected:
            self._write_protected = protected
            self.establish_unit_attention(*unit_attention.MODE_PARAMETERS_CHANGED)
            self.establish_unit_attention(*unit_attention.INQUIRY_DATA_CHANGED)

    @property
    def has_write_cache(self) -> bool:
        """Tell whether WCE can be 1."""
        return self._below.write_cache

    def use_modes(self, modes: ModeParameters, by: Nexus | None = None) -> None:
        """Put mode parameters in force; every nexus but `by` is told.

        With WCE going to 0, the caller has the unit drained and flushed: no host flushes it after that.
        """
        if modes != self.modes:
            self._put_in_force(modes)
            self.establish_unit_attention(*unit_attention.MODE_PARAMETERS_CHANGED, but=by)

    def _put_in_force(self, modes: ModeParameters) -> None:
        self.modes = modes
        self._volume = self._below if modes.write_cache else WriteThrough(self._below)
        self.refresh()

    @property
    def queue(self) -> int:
        """How many commands it has now: started ones, waiting ones, and aborted ones that still run below."""
        tasks = self._task_set
        return len(tasks.running) + len(tasks.waiting) + len(tasks.aborted)

    # --- Commands -----------------------------------------------------------------------------------------------------

    def execute(self, task: Task) -> None:
        """Carry out a command; it ends with `Task.complete`, possibly before this returns. Raises nothing."""
        self.counters.commands += 1
        nexus = task.session.nexus
        attentions = nexus.attentions  # those of other units stay for as long as a host does not use these
        if (
            (self._careful and nexus not in self._admitted)
            or task.attribute > _SIMPLE
            or (attentions and self in attentions)
        ):
            self._admission.execute(task)
            return
        cdb = task.cdb
        self._running[task] = row = self._plain[cdb[0]]
        try:
            if row is None or int.from_bytes(cdb, "big") & row.reserved or len(cdb) != CDB_BYTES:
                row = self._admission.find_row(task)
                self._running[task] = row
                row.refuse_reserved(cdb)
                if row.exclusive:
                    self._admission.run_or_hold(task, row)
                    return
            row.run(self, task, row.decode(cdb))
        except (ScsiError, StatusError) as error:
            self.fail(task, error)
        except Exception:  # noqa: BLE001 - the outermost handler: one command fails, the session goes on
            self._admission.fail_by_a_bug(task)

    def execute_limited(self, task: Task, limit: Limit) -> None:
        """Carry out a command as soon as the limit of its host admits it; only reads and writes are limited."""
        row = self._plain[task.cdb[0]] or self._admission.find_row_or_none(task)
        if row is None or (row.medium is not Medium.READ and row.medium is not Medium.WRITE):
            self.execute(task)
            return
        limited = self._task_set.limited

        def go() -> None:
            del limited[task]
            self.execute(task)

        if limit.admit(task, task.data_in_bytes + task.data_out_bytes, go):
            self.execute(task)
        else:
            limited[task] = limit

    def execute_row(self, task: Task, row: Command) -> None:
        """Carry out what a copy manager asks on behalf of a host: by the row it gives, and otherwise as `execute`."""
        self.counters.commands += 1
        self._admission.execute(task, row)

    def finish(self, task: Task, data_in: Buffer = b"", data_out_used: int | None = None) -> None:
        """End a task with GOOD.

        Args:
            task: one that `execute` was given. Has it ended already, nothing happens.
            data_in: data for the host, cut at the allocation length by the caller.
            data_out_used: how much data-out the command is about, when that is not what the host announced.
        """
        if self._running.pop(task, _Gone) is _Gone:
            self._admission.end_aborted(task)
            return
        task.complete(_GOOD, data_in, b"", data_out_used)
        if self._unsettled:
            self._task_set.ended(task)
            self._admission.settle()

    def finish_met(self, task: Task) -> None:
        """End a task with CONDITION MET; otherwise as `finish`."""
        if self._running.pop(task, _Gone) is _Gone:
            self._admission.end_aborted(task)
            return
        task.complete(_CONDITION_MET, b"", b"")
        if self._unsettled:
            self._task_set.ended(task)
            self._admission.settle()

    def fail(self, task: Task, error: ScsiError | StatusError, data_out_used: int | None = None) -> None:
        """End a task with CHECK CONDITION and sense data, or with another status; otherwise as `finish`."""
        if self._running.pop(task, _Gone) is _Gone:
            self._admission.end_aborted(task)
            return
        if isinstance(error, ScsiError):
            sense = encode_sense(error, descriptor=self.modes.descriptor_sense)
            self.counters.count_error((_CHECK_CONDITION, error.key, error.asc, error.ascq))
            task.complete(_CHECK_CONDITION, b"", sense, data_out_used)
        else:
            self.counters.count_error((int(error.status), 0, 0, 0))
            task.complete(error.status, b"", b"", data_out_used)
        if self._unsettled:
            self._task_set.ended(task)
            self._admission.settle()

    # --- Aborts, drains -----------------------------------------------------------------------------------------------

    def abort(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """Abort tasks at once; what the volume still does for them goes on, and overtakes no newer command.

        Args:
            unwanted: picks them among those that wait or run.

        Returns:
            The tasks that were aborted.
        """
        return self._admission.abort(unwanted)

    def drain(self, done: Callable[[], None]) -> None:
        """Hold commands for the volume that come from now on; call back once it has none of the earlier ones.

        Commands that do not touch the volume go on, ARRAY OUT among them: it is one of those that may need a drain.

        Args:
            done: called once, possibly before this returns. Each `drain` needs its `resume`.
        """
        self._admission.drain(done)

    def resume(self) -> None:
        """Let the held commands run."""
        self._admission.resume()

    def reset(self, *, hard: bool = False) -> None:
        """Do a logical unit reset; every nexus is told, the one that asked for it as well: Linux waits for that.

        Args:
            hard: it is a hard reset, as a reset of the target is, and ends what a logical unit reset leaves.

        Spec: SAM-6 "Logical unit reset", "Hard reset"; RFC 7143 11.5.1.
        """
        if hard:
            self.orwrite_generations = Generations()
        self.reservations.clear()
        self.establish_unit_attention(*unit_attention.DEVICE_RESET)
        self.abort(lambda _task: True)
        old = self.modes
        self._put_in_force(self.saved_modes)
        if old.write_cache != self.modes.write_cache:
            # What was written before is flushed here if hosts will not do so any more; all of them must learn of it,
            # though of the rest a reset tells enough.
            self._below.flush(lambda _error: None)
            self.establish_unit_attention(*unit_attention.MODE_PARAMETERS_CHANGED)

    def use_redo_log(self, redo_log: RedoLog) -> None:
        """Have WRITE ATOMIC from now on; what a crash has left in the log is completed before anything else."""
        self.redo_log = redo_log
        for redo in redo_log.found:
            self.atomic_writes.add(redo)

    def access_changed(self) -> None:
        """Take note that the access state of a nexus's target port may be another."""
        self._inactive = any(not nexus.port_group.active for nexus in self.nexuses)
        self.refresh()

    def refresh(self) -> None:
        """Find out again which commands go the short way: a reservation, a sanitize or the like has come or gone."""
        self._unsettled = self._task_set.unsettled
        persistent, holder = self.persistent_reservations, self.reservations.holder
        reserved = persistent.held or holder is not None
        others = (
            self._unsettled
            or self.modes.software_write_protect
            or self.sanitizer.running
            or self.sanitizer.failed
            or self.atomic_writes.incomplete
            or self._inactive
        )
        self._careful = others or reserved
        if self._admitted or reserved:
            nexuses = self.nexuses if reserved and not others else ()
            self._admitted = {
                nexus
                for nexus in nexuses
                if (holder is None or holder is nexus) and (not persistent.held or persistent.admits(nexus))
            }

    # --- Nexuses ------------------------------------------------------------------------------------------------------

    def attach(self, nexus: Nexus) -> None:
        """Let a nexus see the unit."""
        self.nexuses.add(nexus)
        self.access_changed()

    def detach(self, nexus: Nexus) -> None:
        """Forget a nexus that is lost: its tasks are aborted."""
        self.abort(lambda task: task.session.nexus is nexus)
        self._forget(nexus)

    def hide(self, nexus: Nexus) -> list[Task]:
        """Forget a nexus that does not see the unit any more, and goes on. What runs ends by itself, with its answer.

        Returns:
            The tasks that have not started, for the caller to end.
        """
        tasks = [task for task in self._task_set.unstarted() if task.session.nexus is nexus]
        for task in tasks:
            self._task_set.withdraw(task)
        self._forget(nexus)
        self._admission.settle()
        return tasks

    def _forget(self, nexus: Nexus) -> None:
        self.nexuses.discard(nexus)
        self.access_changed()
        self.reservations.release(nexus)
        self.copy_manager.forget(nexus)
        self.echo_buffers.pop(nexus, None)
        unit_attention.forget(nexus, self)

    def establish_unit_attention(self, asc: int, ascq: int, but: Nexus | None = None) -> None:
        """Make a unit attention pending for every nexus of the unit except `but`."""
        for nexus in self.nexuses:
            if nexus is not but:
                unit_attention.establish(nexus, self, asc, ascq)

    def capacity_changed(self) -> None:
        """Tell the hosts that the volume has another size."""
        self.establish_unit_attention(*unit_attention.CAPACITY_CHANGED)
