"""Mirrored writes beside what they are made of, and beside QEMU's mirror; copies beside qemu-img convert; large pairs.

Everything but the large pair lies in memory. The ratios are those that matter to who chooses: what a mirror costs a
host that has its disk on annex now, and how annex does what others do as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from bench import table
from bench.loads import LIMIT_S, Figure, Load, run
from bench.qemu import STORAGE_DAEMON, QemuStorage
from bench.servers import ROOT, Annex, Server, Tgt

COPY_BYTES = 512 << 20
LARGE_BYTES = 1 << 40
_ANNEXHOST = str(ROOT / "bin/annexhost")

Disk = Callable[[str], Path]
S = TypeVar("S", bound=Server)
Side = tuple[Server, int]


class Runs(NamedTuple):
    """How much to measure: rounds of every load, seconds of each run."""

    rounds: int
    seconds: float


def beside_annexd(disk: Disk, folder: Path, options: list[str], loads: Sequence[Load], runs: Runs) -> None:
    """Print what a pair reaches with a second annexd as its array, beside each of its legs alone."""
    print("\nmirrored writes, the array a second annexd")
    print(table.columns("plain", "on the array", "through annex", "mirrored", ratio="mirrored/lower"))
    with ExitStack() as stack:
        array = stack.enter_context(_running(Annex([disk("secondary"), disk("other")], folder / "array", options)))
        sources: list[Path | str] = [disk("plain"), disk("primary"), array.url(0), array.url(1)]
        annex = stack.enter_context(_running(Annex(sources, folder / "annex", options)))
        _pair(annex, 1, 2, "--nocopy")
        for load in loads:
            sides: list[Side] = [(annex, 0), (array, 1), (annex, 3), (annex, 1)]
            figures = _measure(load, sides, runs)
            plain, straight, _, mirrored = ([figure.iops for figure in side] for side in figures)
            lower = map(min, plain, straight)
            print(table.row(load, figures, [one / other for one, other in zip(mirrored, lower, strict=True)]))


def beside_qemu(disk: Disk, folder: Path, options: list[str], loads: Sequence[Load], runs: Runs) -> None:
    """Print what a pair reaches with tgt as its array, beside a mirror job of QEMU to the same array."""
    print("\nmirrored writes, the array tgt: annex, and qemu-storage-daemon's mirror job (copy-mode write-blocking)")
    if shutil.which(STORAGE_DAEMON) is None:
        print(f"{STORAGE_DAEMON} is not there (Debian: qemu-system-common): left out")
        return
    print(table.columns("QEMU plain", "QEMU mirrored", "annex plain", "annex mirrored", ratio="annex/QEMU"))
    with ExitStack() as stack:
        array = stack.enter_context(_running(Tgt([disk("secondary"), disk("other")], folder / "tgtd.log")))
        qemu = QemuStorage([disk("qemu-plain"), disk("qemu-primary")], array.url(1), folder / "qemu")
        stack.enter_context(_running(qemu))
        sources: list[Path | str] = [disk("plain"), disk("primary"), array.url(0)]
        annex = stack.enter_context(_running(Annex(sources, folder / "annex", options)))
        _pair(annex, 1, 2, "--nocopy")
        for load in loads:
            figures = _measure(load, [(qemu, 0), (qemu, 1), (annex, 0), (annex, 1)], runs)
            theirs, ours = figures[1], figures[3]
            print(table.row(load, figures, [one.iops / other.iops for one, other in zip(ours, theirs, strict=True)]))


def copies(folder: Path, memory: Path, options: list[str], runs: Runs) -> None:
    """Print how fast an initial copy is, beside qemu-img convert to the same array (tgt)."""
    print("\ninitial copy of random data to tgt, beside qemu-img convert")
    local, remote = memory / "copy-local", memory / "copy-remote"
    local.write_bytes(os.urandom(COPY_BYTES))
    remote.write_bytes(bytes(COPY_BYTES))
    rates: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        array = stack.enter_context(_running(Tgt([remote], folder / "tgtd.log")))
        annex = stack.enter_context(_running(Annex([local, array.url(0)], folder / "annex", options)))
        convert = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(local), array.url(0)]
        for _ in range(runs.rounds):
            rates[0].append(COPY_BYTES / _seconds(lambda: _call(convert)) / 1e6)
            _pair(annex, 0, 1, "--wait")
            rates[1].append(COPY_BYTES / _copy_seconds(annex.log()) / 1e6)
            _call([_ANNEXHOST, "pair", "delete", annex.url(0)])
    print(table.rates("qemu-img convert", rates[0], "annex", rates[1]))
    for path in (local, remote):
        path.unlink()


def large(folder: Path, options: list[str], runs: Runs) -> None:
    """Print how long annexd takes to start with a pair of 1 TiB, nothing of it dirty, after it was killed."""
    print("\nstart after kill -9 with a pair of 1 TiB, and with none")
    paths = [folder / "local", folder / "remote"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(LARGE_BYTES)
    seconds: tuple[list[float], list[float]] = ([], [])
    for state, times in zip((folder / "paired", folder / "alone"), seconds, strict=True):
        with _running(Annex([*paths], state, options)) as annex:
            if times is seconds[0]:
                _pair(annex, 0, 1, "--nocopy")
            annex.kill()
        for _ in range(runs.rounds):
            start = time.monotonic()
            with _running(Annex([*paths], state, options)) as annex:
                times.append(time.monotonic() - start)
                annex.kill()
    print(f"{median(seconds[0]):.2f} s, {median(seconds[1]):.2f} s")


def _measure(load: Load, sides: list[Side], runs: Runs) -> list[list[Figure]]:
    """Run a load on every side in turn, again and again; give the figures side by side."""
    rounds = [[run(load, server, lun, runs.seconds) for server, lun in sides] for _ in range(runs.rounds)]
    return [list(side) for side in zip(*rounds, strict=True)]


def _pair(annex: Annex, primary: int, secondary: int, *options: str) -> None:
    _call([_ANNEXHOST, "pair", "create", *options, "--secondary", str(secondary), annex.url(primary)])


def _seconds(work: Callable[[], None]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _copy_seconds(log: str) -> float:
    """Give how long the last copy took, by annexd's log: annexhost looks but now and then whether it is over."""
    begun, done = (
        datetime.fromisoformat(re.findall(rf"^(\S+ \S+) .* copying {word}", log, re.MULTILINE)[-1])
        for word in ("begins", "is done")
    )
    return (done - begun).total_seconds()


def _call(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")


@contextmanager
def _running(server: S) -> Iterator[S]:
    try:
        yield server
    finally:
        server.stop()
