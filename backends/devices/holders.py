"""Who holds a block device or a file that annex was refused: a name for the admin, from /proc and /sys."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")
_MOST_PROCESSES = 3  # named in one message


def device_holder(number: int, proc: Path = PROC, sys: Path = SYS) -> str:
    """Say who holds the block device `number` (an `st_rdev`), a partition of it, or the disk that it is a part of.

    The kernel tells only that somebody does; this is found by looking where holders leave traces, so that what can
    not be seen from here (another container's mounts, say) is "another program".
    """
    names = _relatives(number, sys)
    for find in (_mount, _swap, _stacked):
        if holder := find(names, proc, sys):
            return holder
    return _processes(set(names), proc) or "held by another program"


def lock_holder(file: os.stat_result, proc: Path = PROC) -> str:
    """Say which process holds the flock of a file."""
    identity = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in _lines(proc / "locks"):
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF"; "->" marks one that waits
        fields = line.split()
        if len(fields) == 8 and fields[1] == "FLOCK" and fields[5] == identity:
            return f"held by {_process(proc / fields[4])}"
    return "held by another program"


def file_system(device: int, proc: Path = PROC) -> str:
    """Give the type of the file system with the device number `device` (an `st_dev`), "" when not mounted here."""
    for fields, kind, _ in _mounts(proc / "self/mountinfo"):
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            return kind
    return ""


def _relatives(number: int, sys: Path) -> dict[int, str]:
    """Device numbers that an exclusive holder of `number` excludes, with their names."""
    place = (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    names = {number: place.name}
    around = [place.parent] if (place / "partition").exists() else [part.parent for part in place.glob("*/partition")]
    for relative in around:
        major, _, minor = "".join(_lines(relative / "dev")).strip().partition(":")
        if major.isdigit() and minor.isdigit():
            names[os.makedev(int(major), int(minor))] = relative.name
    return names


def _mount(names: dict[int, str], proc: Path, _: Path) -> str | None:
    numbers = {f"{os.major(number)}:{os.minor(number)}": name for number, name in names.items()}
    # A daemon may run in a mount namespace of its own; process 1 shows what the machine has mounted.
    for mountinfo in (proc / "self/mountinfo", proc / "1/mountinfo"):
        for fields, _kind, source in _mounts(mountinfo):
            # btrfs and overlays show device numbers of their own: there the source tells.
            name = numbers.get(fields[2]) or next((name for name in names.values() if source == f"/dev/{name}"), None)
            if name:
                return f"{name} is mounted at {_unescaped(fields[4])}"
    return None


def _swap(names: dict[int, str], proc: Path, _: Path) -> str | None:
    for line in _lines(proc / "swaps")[1:]:
        path = _unescaped(line.split()[0]) if line.strip() else ""
        for number, name in names.items():
            if path == f"/dev/{name}" or _device_number(path) == number:
                return f"{name} is in use as swap"
    return None


def _stacked(names: dict[int, str], _: Path, sys: Path) -> str | None:
    for number, name in names.items():
        place = sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
        for holder in sorted((place / "holders").glob("*")):
            called = "".join(_lines(sys / "class/block" / holder.name / "dm/name")).strip()
            return f"{name} is part of {holder.name}{f' ({called})' if called else ''}"
    for file in sorted((sys / "block").glob("loop*/loop/backing_file")):
        backing = "".join(_lines(file)).strip()
        if backing in {f"/dev/{name}" for name in names.values()}:
            return f"{Path(backing).name} is under {file.parents[1].name}"
    return None


def _processes(numbers: set[int], proc: Path) -> str | None:
    found = []
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # not ours to look into, or gone
            continue
        if any(_device_number(str(descriptor)) in numbers for descriptor in descriptors):
            found.append(_process(process))
    more = f" and {len(found) - _MOST_PROCESSES} more" if len(found) > _MOST_PROCESSES else ""
    return f"open in {', '.join(found[:_MOST_PROCESSES])}{more}" if found else None


def _process(place: Path) -> str:
    name = "".join(_lines(place / "comm")).strip()
    return f"process {place.name}{f' ({name})' if name else ''}"


def _device_number(path: str) -> int | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - Path() per descriptor of every process is slow
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _mounts(mountinfo: Path) -> Iterator[tuple[list[str], str, str]]:
    """Give per mount its fields before the separator, its type, and its source (proc_pid_mountinfo(5))."""
    for line in _lines(mountinfo):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) >= 6 and len(kind) >= 2:
            yield fields, kind[0], _unescaped(kind[1])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
