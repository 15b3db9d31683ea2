"""The connection to an external array as the backends see it; `daemon.array_link` is the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.volume import Buffer


class Answer(Protocol):
    """How a command ended; everything in it comes from the array and is untrusted.

    Attributes:
        status: the SCSI status, -1 when there is none.
        data_in: what was read; may be shorter than asked for.
        sense: sense data, b"" for none.
        residual: bytes of the expected transfer that the array did not want or have.
        undelivered: why there is no status, else None.
        detail: words for the log, with `undelivered`.
    """

    @property
    def status(self) -> int: ...
    @property
    def data_in(self) -> Buffer: ...
    @property
    def sense(self) -> bytes: ...
    @property
    def residual(self) -> int: ...
    @property
    def undelivered(self) -> Undelivered | None: ...
    @property
    def detail(self) -> str: ...


class PathListener(Protocol):
    """Who owns a path learns when it is there."""

    def path_up(self) -> None:
        """Learn that a session is there (a new I_T nexus; reservations of an older one may be gone, or still there)."""

    def path_down(self, reason: str, refused: bool) -> None:
        """Learn that the session ended, or that one attempt to get one failed.

        The commands in flight have all had their answers before. The path goes on trying by itself.

        Args:
            reason: for the log and the admin.
            refused: the array answered, and does not want annex: an admin has to do something.
        """


class ArrayPath(Protocol):
    """One session with one external array, made again whenever it ends.

    `submit` and `reset_unit` never raise and answer once, possibly before they return.
    """

    def start(self, listener: PathListener) -> None:
        """Begin to connect, and go on until `close`."""

    @property
    def submit(self) -> Callable[[Task], None]:
        """What sends a command, at once or as soon as the array's command window is open.

        A command that is aborted since its time is over, and whose abort has no answer either, ends the session.
        """

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        """Send LOGICAL UNIT RESET; `done(True)` when the array says that it is complete."""

    def drop(self, reason: str) -> None:
        """End the session without a word, and connect again."""

    def close(self, done: Callable[[], None]) -> None:
        """Log out, end the connection, and stay so."""
