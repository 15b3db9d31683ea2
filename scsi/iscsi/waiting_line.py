"""Commands that wait for memory or for their turn, and the account of a session's memory.

How it works: a command is charged with the data that it will move, when it starts; the charge is given back when its
answer has been taken by the adapter, so that answers which pile up in front of a slow host count too. A command that
does not fit waits, and every later one behind it. It is not refused: the window bounds how many can wait.

An ORDERED command is delivered after all earlier ones and before all later ones (SAM task attributes). Since writes
that collect data are delivered late, it waits until none does, and while it collects its own data all others wait.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from scsi.iscsi.pdu import ATTRIBUTE_ORDERED

if TYPE_CHECKING:
    from scsi.iscsi.events import ScsiCommand
    from scsi.iscsi.session import Session
    from scsi.iscsi.transfers import WriteTransfer


class WaitingLine:
    """The line of one session.

    Attributes:
        occupied: a new command may have to wait for another; look closely.
        charged_bytes: data of commands that have started.
        memory_bytes: what may be charged.
        queued_bytes: of what is charged, the part of answers that the adapter has not taken yet.
    """

    __slots__ = (
        "_advancing",
        "_max_charge",
        "_ordered_collecting",
        "_session",
        "_waiting",
        "charged_bytes",
        "memory_bytes",
        "occupied",
        "queued_bytes",
    )

    def __init__(self, session: Session, memory_bytes: int, max_charge_bytes: int) -> None:
        """Begin empty.

        Args:
            session: whose commands they are.
            memory_bytes: what may be charged.
            max_charge_bytes: the most that one command is charged with, so that any can start.
        """
        self._session = session
        self.memory_bytes = memory_bytes
        self._max_charge = max_charge_bytes
        self._waiting: deque[ScsiCommand] = deque()
        self._advancing = False
        self.clear()

    def clear(self) -> None:
        """Forget all commands and their charges."""
        self._waiting.clear()
        self._ordered_collecting = False
        self.occupied = False
        self.charged_bytes = 0
        self.queued_bytes = 0

    def __contains__(self, command: ScsiCommand) -> bool:
        return command in self._waiting

    def join(self, command: ScsiCommand, charge_bytes: int) -> None:
        """Put a command in line that can not simply be delivered, and see who can go on."""
        command.charged_bytes = min(charge_bytes, self._max_charge)
        self._waiting.append(command)
        self.occupied = True
        self.advance()

    def advance(self) -> None:
        """Let commands go on, as far as memory and their order allow."""
        if self._advancing:
            return  # a write that starts may be complete already, and come back here; the loop below goes on anyway
        self._advancing = True
        while self._waiting and not self._ordered_collecting and self._start_first():
            pass
        self._advancing = False
        self.occupied = bool(self._waiting) or self._ordered_collecting

    def _start_first(self) -> bool:
        """Let the first command go on, if it can."""
        session = self._session
        command = self._waiting[0]
        total = self.charged_bytes + command.charged_bytes
        ordered = command.attribute == ATTRIBUTE_ORDERED
        if total > self.memory_bytes or (ordered and session.collector.started):
            return False
        self._waiting.popleft()
        self.charged_bytes = total
        transfer: WriteTransfer | None = command.transfer
        if transfer is None:
            session.deliver(command)
        else:
            self._ordered_collecting = ordered
            session.collector.start(transfer)
        return True

    def leave(self, command: ScsiCommand) -> None:
        """Take a command out that does not wait any more, if it does; it has not been charged then."""
        if command in self._waiting:
            self._waiting.remove(command)
            command.charged_bytes = 0

    def collected(self, command: ScsiCommand) -> None:
        """Learn that a write which had started collects no longer."""
        if command.attribute == ATTRIBUTE_ORDERED:
            self._ordered_collecting = False

    def give_back(self, charge_bytes: int) -> None:
        """Take a charge back, and let commands go on with it."""
        self.charged_bytes -= charge_bytes
        if self.occupied:
            self.advance()

    def answers_taken(self) -> None:
        """Give back what answers were charged with, once the adapter has taken them."""
        charge_bytes, self.queued_bytes = self.queued_bytes, 0
        self.give_back(charge_bytes)
