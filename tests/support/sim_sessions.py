"""An array and the link to it, down to the bytes: annex's own target at the far end of connections that break.

How this works. `SimLink` is to an `ExternalArray` what `daemon.array_link` is: it makes one `InitiatorConnection` after
another. Each has a `_Line`: two directions that carry bytes in order, in pieces, each piece after a time of its own. A
line is cut at any byte: what was on its way to the array arrives in part, what was on its way back is lost, and the
array may learn of the end much later; until then it goes on with what it has, and keeps the session's reservation.
`SimArray` is the real target: connections, sessions, a target port and a logical unit, over a simulated disk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from backends.external.path import PathListener
from scsi.iscsi.connection import Connection
from scsi.iscsi.events import Event, LoggedIn, ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.initiator import InitiatorConnection
from scsi.iscsi.initiator_options import InitiatorEvent, InitiatorOptions, SessionReady
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.iscsi.registry import SessionRegistry
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.target import TargetPort
from tests.support.clock import VirtualScheduler, VirtualTimer
from tests.support.iscsi_peer import ADDRESSES, ISID, TARGET, FakeDirectory
from tests.support.sim_leg import SimLeg

NAA = bytes.fromhex("6a000000000000000000000000000001")
LUN = bytes(8)
OPTIONS = InitiatorOptions("iqn.2026-11.io.annex:sim", TARGET, ISID)
SPLIT = 0.2  # how often a piece is carried as two
LOGIN_S = 15.0
PAUSES_S = (0.2, 0.5, 2.0)  # before the next login


class Life(VirtualScheduler):
    """The clock of one life of annexd: what it had in mind ends with it, while the array and the wires go on.

    Attributes:
        alive: it has not ended.
        stopped: it stands still, as after SIGSTOP; what should have happened meanwhile happens at `go_on`.
    """

    def __init__(self, base: VirtualScheduler) -> None:
        super().__init__()
        self.alive = True
        self.stopped = False
        self._base = base
        self._missed: list[Callable[[], None]] = []

    def run(self, callback: Callable[[], None]) -> None:
        """Call back now, or when it goes on, or never."""
        if self.stopped:
            self._missed.append(callback)
        elif self.alive:
            callback()

    def go_on(self) -> None:
        """Go on after having stood still."""
        self.stopped = False
        missed, self._missed = self._missed, []
        for callback in missed:
            self.call_soon(callback)

    def _while_alive(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: self.run(callback)

    def now(self) -> float:
        return self._base.now()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> VirtualTimer:
        return self._base.call_later(delay_s, self._while_alive(callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._base.call_soon(self._while_alive(callback))

    def post(self, callback: Callable[[], None]) -> None:
        self._base.post(self._while_alive(callback))

    def run_until_idle(self) -> None:
        self._base.run_until_idle()

    def advance(self, seconds: float) -> None:
        self._base.advance(seconds)


class SimArray:
    """The array: one LU on a simulated disk.

    Attributes:
        unit: its LU.
        delay_s: how long bytes are on their way to it and back, at the least.
        keeps_sessions: a new login of the same initiator port ends no older session of it, as with tgt.
    """

    def __init__(self, scheduler: VirtualScheduler, disk: SimLeg, rng: random.Random) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.delay_s = 0.0
        self.keeps_sessions = rng.random() < 0.5
        self._disk = disk
        self._ends: set[_ArrayEnd] = set()
        self._start()

    def _start(self) -> None:
        self.unit = LogicalUnit(self._disk, NAA)
        self.port = TargetPort()
        self._registry = SessionRegistry()

    def accept(self, send: Callable[[bytes], None], close: Callable[[], None]) -> _ArrayEnd:
        """Give the array's end of a new connection."""
        end = _ArrayEnd(self, SessionRegistry() if self.keeps_sessions else self._registry, send, close)
        self._ends.add(end)
        return end

    def closed(self, end: _ArrayEnd) -> None:
        self._ends.discard(end)

    def lose_power(self) -> None:
        """Forget every session, every reservation, and what the disk had not made stable."""
        for end in tuple(self._ends):
            end.vanish()
        self._disk.crash(power=True)
        self._start()

    def reset(self) -> None:
        """Reset the LU as another initiator would."""
        self.unit.reset()

    def open_to_others(self) -> bool:
        """Whether another initiator could write now."""
        return self.unit.reservations.holder is None


class _ArrayEnd:
    """The array's end of one connection."""

    def __init__(
        self, array: SimArray, registry: SessionRegistry, send: Callable[[bytes], None], close: Callable[[], None]
    ) -> None:
        self._array = array
        self._port = array.port
        self._unit = array.unit
        self._send = send
        self._close = close
        self._over = False
        self._timer: VirtualTimer | None = None
        scheduler = array.scheduler
        self._connection = Connection(
            FakeDirectory(),
            registry,
            ADDRESSES,
            clock=scheduler.now,
            wake=lambda: scheduler.call_soon(self._look),
            random_bytes=array.rng.randbytes,
        )

    def received(self, data: bytes) -> None:
        if not self._over:
            self._act(self._connection.receive_data(data))
            self._look()

    def lost(self) -> None:
        """Learn that the connection is gone."""
        if not self._over:
            self._end()

    def vanish(self) -> None:
        """Be gone without another word."""
        self._over = True
        self._array.closed(self)

    def _look(self) -> None:
        if self._over:
            return
        connection = self._connection
        while True:
            out = b"".join(connection.data_to_send())
            if out:
                self._send(out)
            events = connection.take_events()
            if not events:
                break
            self._act(events)
        if connection.closing:
            self._close()
            self._end()
            return
        if self._timer is not None:
            self._timer.cancel()
        deadline = connection.next_deadline()
        if deadline is not None:
            scheduler = self._array.scheduler
            self._timer = scheduler.call_later(max(deadline - scheduler.now(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._over:
            self._act(self._connection.on_timer(self._array.scheduler.now()))
            self._look()

    def _end(self) -> None:
        self._over = True
        self._act(self._connection.connection_lost())
        self._array.closed(self)

    def _act(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case ScsiCommand():
                    self._port.execute(event)
                case TaskManagement():
                    self._port.manage(event)
                case LoggedIn():
                    session = event.session
                    lun_map = {LUN: MappedUnit(self._unit)}
                    session.nexus = Nexus(session.initiator_name, session.isid, TARGET, 1, False, lun_map)
                    self._port.nexus_created(session.nexus)
                case SessionEnded():
                    self._port.nexus_lost(event.session.nexus)


class _Direction:
    """Bytes on their way, in order."""

    def __init__(self, array: SimArray, deliver: Callable[[bytes], None]) -> None:
        self._array = array
        self._deliver = deliver
        self._arrives = 0.0
        self._pieces: deque[bytes] = deque()
        self.cut = False

    def put(self, data: bytes) -> None:
        if self.cut or not data:
            return
        rng = self._array.rng
        at = rng.randrange(len(data)) if rng.random() < SPLIT else 0
        for piece in (data[:at], data[at:]) if at else (data,):
            now = self._array.scheduler.now()
            delay_s = self._array.delay_s + rng.choice((0.0, 0.0, 0.0002, 0.001, 0.01))
            self._arrives = max(self._arrives, now + delay_s)
            self._pieces.append(piece)
            self._array.scheduler.call_later(self._arrives - now, self._next)

    def _next(self) -> None:
        if not self.cut:
            self._deliver(self._pieces.popleft())

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Call back once all has arrived that is on its way."""
        self._array.scheduler.call_later(max(self._arrives - self._array.scheduler.now(), 0.0), callback)

    def end(self) -> bytes:
        """Carry nothing more; give what was on its way."""
        self.cut = True
        return b"".join(self._pieces)


class _Line:
    """One connection between annexd and the array."""

    def __init__(self, link: SimLink, array: SimArray, scheduler: Life) -> None:
        self._link = link
        self._array = array
        self._scheduler = scheduler
        self._timer: VirtualTimer | None = None
        self._receiving = False
        self._ready = False
        self.over = False
        self._end = array.accept(self._from_array, self._closed_by_array)
        scheduler.call_later(LOGIN_S, self._login_too_long)
        self._to_array = _Direction(array, self._end.received)
        self._to_annexd = _Direction(array, lambda data: scheduler.run(lambda: self._received(data)))
        self.connection = InitiatorConnection(OPTIONS, scheduler.now, array.rng.randbytes, self._wake)
        self._wake()

    def cut(self, *, tell: bool = True) -> None:
        """Break it, wherever the bytes are; without `tell` there is nobody who would learn of it."""
        if self.over:
            return
        rng = self._array.rng
        self._to_annexd.end()
        left = self._to_array.end()
        self._end.received(left[: rng.randint(0, len(left))])
        self._array.scheduler.call_later(rng.choice((0.0, 0.0, 0.3, 3.0, 20.0)), self._end.lost)
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if tell:
            self._act(self.connection.connection_lost())

    def flush(self) -> None:
        """Put on the wire what there is."""
        if self.over:
            return
        self._to_array.put(b"".join(self.connection.data_to_send()))
        if self.connection.closing:
            self.cut()
            return
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.connection.next_deadline()
        if deadline is not None and deadline < float("inf"):
            self._timer = self._scheduler.call_later(max(deadline - self._scheduler.now(), 0.0), self._on_timer)

    def _login_too_long(self) -> None:
        if not self.over and not self._ready:
            self.cut()

    def _closed_by_array(self) -> None:
        self._to_annexd.when_empty(lambda: self._scheduler.run(self.cut))

    def _from_array(self, data: bytes) -> None:
        self._to_annexd.put(data)

    def _wake(self) -> None:
        if not self._receiving:
            self._scheduler.call_soon(self.flush)

    def _received(self, data: bytes) -> None:
        self._receiving = True
        self._act(self.connection.receive_data(data))
        self._receiving = False
        self.flush()

    def _on_timer(self) -> None:
        self._timer = None
        self._act(self.connection.on_timer(self._scheduler.now()))
        self.flush()

    def _act(self, events: list[InitiatorEvent]) -> None:
        for event in events:
            if isinstance(event, SessionReady):
                self._ready = True
                self._link.ready(self)
            else:
                self._link.ended(self, event.reason)


class SimLink:
    """An `ArrayPath` over lines to a `SimArray`.

    Attributes:
        down: no connection can be made.
        submit: see `ArrayPath`.
    """

    def __init__(self, array: SimArray, scheduler: Life) -> None:
        self.down = False
        self._array = array
        self._scheduler = scheduler
        self._listener: PathListener | None = None
        self._line: _Line | None = None
        self._closed = False
        self.submit: Callable[[Task], None] = self._not_sent

    def start(self, listener: PathListener) -> None:
        self._listener = listener
        self._connect()

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        if self._line is None:
            done(False)
        else:
            self._line.connection.reset_unit(lun, done)

    def drop(self, reason: str) -> None:
        del reason
        self.cut()

    def close(self, done: Callable[[], None]) -> None:
        self._closed = True
        self.cut()
        done()

    def cut(self) -> None:
        """Break the connection that there is."""
        if self._line is not None:
            self._line.cut()

    def die(self) -> None:
        """Learn that annexd is gone: its sockets go with it."""
        if self._line is not None:
            self._line.cut(tell=False)

    def ready(self, line: _Line) -> None:
        self.submit = line.connection.submit
        assert self._listener is not None
        self._listener.path_up()

    def ended(self, line: _Line, reason: str) -> None:
        if line is not self._line:
            return
        self._line = None
        self.submit = self._not_sent
        line.cut()
        self._failed(reason)

    def _connect(self) -> None:
        if self._closed:
            return
        if self.down:
            self._failed("no connection")
        else:
            self._line = _Line(self, self._array, self._scheduler)

    def _failed(self, reason: str) -> None:
        if not self._closed:
            self._scheduler.call_later(self._array.rng.choice(PAUSES_S), self._connect)
        assert self._listener is not None
        self._listener.path_down(reason, False)

    @staticmethod
    def _not_sent(task: Task) -> None:
        task.undeliver(Undelivered.NOT_SENT, "no session")
