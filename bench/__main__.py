"""Run the comparison: `python -m bench [--quick]`. As root: it serves a loop device.

Those that are compared serve the same storage and are asked in turn (A B A B …), so that whatever else the machine does
hits all. Processor time is the target's alone. Compare figures of one run only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import mirrors, table
from bench.loads import LOADS, Figure, Load, run
from bench.servers import ROOT, Annex, Server, Tgt
from daemon import compiled

DISK_BYTES = 256 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of the main loads, under a minute")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each load on each side (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run (default: 2)")
    parser.add_argument("--only", default="", help="only loads with this in their titles, e.g. '4 KiB read'")
    parser.add_argument("--storage", choices=("memory", "loop", "mirror"), action="append", help="default: all three")
    parser.add_argument("--interpreted", action="store_true", help="annexd without its compiled modules")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="event loop of annexd")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    loads = [load for load in LOADS if options.only in load.title]
    if options.quick and not options.only:
        loads = [load for load in LOADS if load.depth == 32 and load.size_bytes == 4096]
    wanted = options.storage or ["memory", "loop", "mirror"]
    if options.interpreted:
        os.environ[compiled.SWITCH] = "1"
    path = "interpreted" if options.interpreted or compiled.usable(ROOT) is None else "compiled"
    print(f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, ", end="")
    print(f"Python {platform.python_version()}, {path}, {options.loop}; ", end="")
    print(f"medians of {options.rounds} runs of {options.seconds} s")
    with (
        tempfile.TemporaryDirectory(prefix="annex-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="annex-bench-", dir="/dev/shm") as memory,
    ):
        place = Places(Path(folder), Path(memory), ["--loop", options.loop])
        if "memory" in wanted:
            place.compare("a file in memory", place.disk(place.memory / "disk"), loads, options)
        if "loop" in wanted:
            with loop_device(place.disk(place.folder / "disk")) as device:
                place.compare(f"a loop device over a file on {file_system(place.folder)}", device, loads, options)
        if "mirror" in wanted:
            place.mirrors([load for load in loads if load.write], options)
    return 0


class Places:
    """Where the storage of a run lies, and the comparisons made on it."""

    def __init__(self, folder: Path, memory: Path, annex_options: list[str]) -> None:
        self.folder = folder
        self.memory = memory
        self._annex_options = annex_options

    def disk(self, path: Path) -> Path:
        """Make a disk that is all there, so that no first write is slower than the next."""
        with path.open("wb") as file:
            for _ in range(DISK_BYTES >> 20):
                file.write(bytes(1 << 20))
        return path

    def compare(self, title: str, disk: Path, loads: list[Load], options: argparse.Namespace) -> None:
        """Compare tgt and annex on one disk."""
        print(f"\n{title}\n{table.HEADER}\n{table.COLUMNS}")
        with ExitStack() as stack:
            tgt = Tgt([disk], self.folder / "tgtd.log")
            stack.callback(tgt.stop)
            annex = Annex([disk], self.folder / f"annex-{disk.name}", self._annex_options)
            stack.callback(annex.stop)
            measure(loads, (tgt, 0), (annex, 0), options)

    def _disk_in(self, folder: Path, name: str) -> Path:
        return self.disk(folder / name)

    def mirrors(self, loads: list[Load], options: argparse.Namespace) -> None:
        """Compare mirrored writes, and copies, with what else there is."""
        runs = mirrors.Runs(options.rounds, options.seconds)
        for number, compare in enumerate((mirrors.beside_annexd, mirrors.beside_qemu)):
            place, memory = self.folder / f"mirror-{number}", self.memory / f"mirror-{number}"
            place.mkdir()
            memory.mkdir()
            compare(partial(self._disk_in, memory), place, self._annex_options, loads, runs)
            shutil.rmtree(memory)
        for name in ("copies", "large"):
            (self.folder / name).mkdir()
        mirrors.copies(self.folder / "copies", self.memory, self._annex_options, runs)
        mirrors.large(self.folder / "large", self._annex_options, runs)


def measure(
    loads: list[Load], first: tuple[Server, int], second: tuple[Server, int], options: argparse.Namespace
) -> None:
    """Run each load on both sides in turn, and print a line for it."""
    for load in loads:
        figures: tuple[list[Figure], list[Figure]] = ([], [])
        for _ in range(options.rounds):
            for (server, lun), side in zip((first, second), figures, strict=True):
                side.append(run(load, server, lun, options.seconds))
        wide = max(map(table.spread, figures))
        remark = f"   runs differ by {wide:.1f}×" if wide > 1.5 else ""
        print(table.line(load, *figures) + remark, flush=True)


@contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    """Attach a loop device to `file` for a while, with all of it in the page cache."""
    command = ["losetup", "--find", "--show", str(file)]
    device = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    try:
        with Path(device).open("rb") as opened:
            while opened.read(1 << 20):
                pass
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


def file_system(folder: Path) -> str:
    """Give the type of the file system that `folder` is on."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
