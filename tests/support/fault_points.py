"""annexd that kills itself at a named point of the path of a write; run as a program, with annexd's own arguments.

How this works. Nothing of it is in annexd: this program puts wrappers around annexd's own methods, which run
interpreted then, and goes on as annexd. What to do stands in the file `fault` in the folder that `ANNEX_FAULT_FOLDER`
names, as `POINT COUNT`: at the COUNT-th time that the point is reached while the file is there, the process sends
itself SIGKILL. It is looked for each time, so that a test chooses the point when all is quiet. What else the file can
say is in `tests.support.fault_devices`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER, FILE = "ANNEX_FAULT_FOLDER", "fault"
R2TS = tuple(f"after R2T {number}" for number in (1, 2, 3, 4))  # of one command
# In the order in which a write comes to them.
POINTS = (
    "after CDB",
    *R2TS,
    "after data",
    "before mark",
    "after mark written",
    "after mark stable",
    "before legs",
    "only leg 0",
    "only leg 1",
    "after leg 0",
    "after leg 1",
    "before status",
    "after status",
)
COPYING = "while copying"  # the pair makes its legs equal
MARKS_SUFFIX = ".marks"


class Fault:
    """What is to happen, as the file says it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._reached = 0

    def chosen(self) -> tuple[str, int] | None:
        """Give what the file says."""
        try:
            name, number = self._file.read_text().rsplit(" ", 1)
        except FileNotFoundError:
            return None
        return name, int(number)

    def wanted(self, point: str) -> bool:
        """Tell whether the point is the chosen one, and has been reached often enough."""
        chosen = self.chosen()
        if chosen is None or chosen[0] != point:
            return False
        self._reached += 1
        return self._reached >= chosen[1]

    def reach(self, point: str) -> None:
        """Die here if that is what is wanted."""
        if self.wanted(point):
            die()


def die() -> None:
    """End this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: type, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put what `wrap` makes of a method in its place."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrap(original)))


def _before(owner: type, name: str, act: Callable[..., None]) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            act(*arguments, **named)
            return original(*arguments, **named)

        return wrapper

    around(owner, name, wrap)


def _after(owner: type, name: str, act: Callable[..., None]) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            act(*arguments, **named)
            return result

        return wrapper

    around(owner, name, wrap)


def install(fault: Fault) -> None:
    """Put the wrappers in place."""
    from scsi.iscsi.session import Session
    from scsi.iscsi.transfers import DataCollector

    _before(DataCollector, "start", _reaches(fault, "after CDB"))
    _after(DataCollector, "_request", lambda _, transfer: _when_sent(fault, f"after R2T {transfer.r2t_sn}"))
    _before(Session, "deliver_write", _reaches(fault, "after data"))
    _install_at_marks(fault)
    _install_at_legs(fault)


def _reaches(fault: Fault, point: str) -> Callable[..., None]:
    return lambda *_, **__: fault.reach(point)


def _install_at_marks(fault: Fault) -> None:
    from backends.pairs.stable_file import OsDirectory, OsFile

    marks: set[OsFile] = set()

    def opened(original: Callable[..., OsFile]) -> Callable[..., OsFile]:
        def wrapper(directory: OsDirectory, name: str, *size: int) -> OsFile:
            file = original(directory, name, *size)
            if name.endswith(MARKS_SUFFIX):
                marks.add(file)
            return file

        return wrapper

    def at_marks(point: str) -> Callable[..., None]:
        def act(file: OsFile, *_: Any) -> None:
            if file in marks:
                fault.reach(point)

        return act

    for name in ("open", "create"):
        around(OsDirectory, name, opened)
    _before(OsFile, "write", at_marks("before mark"))
    _after(OsFile, "write", at_marks("after mark written"))
    _after(OsFile, "sync", at_marks("after mark stable"))


def _install_at_legs(fault: Fault) -> None:
    from backends.pairs.mirror import Mirror, MirroredWrite
    from backends.virtual_device import VirtualDevice

    _before(Mirror, "write", _reaches(fault, "before legs"))
    alone: list[object] = []  # the write that one leg does not get

    def one_leg(original: Callable[..., None]) -> Callable[..., None]:
        def write(device: VirtualDevice, lba: int, data: Any, fua: bool, done: Callable[[Any], None]) -> None:
            other = 2 - device.number  # leg 0 is virtual device 1
            mirrored = getattr(done, "__self__", None)
            if not alone and isinstance(mirrored, MirroredWrite) and fault.wanted(f"only leg {other}"):
                alone.append(mirrored)
                return
            if not isinstance(mirrored, MirroredWrite):
                fault.reach(COPYING)
            original(device, lba, data, fua, done)

        return write

    around(VirtualDevice, "write", one_leg)

    def answered(leg: int) -> Callable[..., None]:
        def act(write: MirroredWrite, _error: object) -> None:
            if alone and write is alone[0]:
                die()
            fault.reach(f"after leg {leg}")

        return act

    for leg in (0, 1):
        _before(MirroredWrite, f"answered_{leg}", answered(leg))
    _before(Mirror, "ended", _reaches(fault, "before status"))
    _after(Mirror, "ended", lambda *_: _when_sent(fault, "after status"))


def _when_sent(fault: Fault, point: str) -> None:
    """Reach a point once what was just said is on its way."""
    if fault.wanted(point):
        asyncio.get_running_loop().call_later(0.01, die)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from daemon.main import main
    from tests.support import fault_devices

    chosen = Fault(Path(os.environ[FOLDER]))
    install(chosen)
    fault_devices.install(chosen)

    sys.exit(main())
