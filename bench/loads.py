"""What is asked of a target: libiscsi's iscsi-perf for random reads, QEMU's own initiator for the rest."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass

from bench.servers import Server, cpu_seconds

BLOCK_BYTES = 512
LIMIT_S = 120.0
INITIATOR = "iqn.2026-11.io.annex.bench:host"


@dataclass(frozen=True)
class Load:
    """One workload.

    Attributes:
        title: for the table.
        size_bytes: of one request.
        depth: requests in flight.
        write: True for writes.
        random: iscsi-perf at random places; else qemu-img bench, one after the other through the LU.
    """

    title: str
    size_bytes: int
    depth: int
    write: bool = False
    random: bool = False


@dataclass(frozen=True)
class Figure:
    """What one run gave: requests a second, and processor time of the target per request."""

    iops: float
    cpu_us: float


LOADS = [
    Load("4 KiB random read, depth 32", 4096, 32, random=True),
    Load("4 KiB random read, depth 1", 4096, 1, random=True),
    Load("4 KiB read, depth 32", 4096, 32),
    Load("4 KiB read, depth 1", 4096, 1),
    Load("4 KiB write, depth 32", 4096, 32, write=True),
    Load("4 KiB write, depth 1", 4096, 1, write=True),
    Load("128 KiB random read, depth 32", 131072, 32, random=True),
    Load("128 KiB read, depth 32", 131072, 32),
    Load("128 KiB write, depth 32", 131072, 32, write=True),
]


def run(load: Load, server: Server, lun: int, seconds: float) -> Figure:
    """Put a load on a LU for about `seconds`."""
    return _iscsi_perf(load, server, lun, seconds) if load.random else _qemu_img(load, server, lun, seconds)


def _iscsi_perf(load: Load, server: Server, lun: int, seconds: float) -> Figure:
    command = ["iscsi-perf", "-i", INITIATOR, "-m", str(load.depth), "-b", str(load.size_bytes // BLOCK_BYTES)]
    command += ["-t", str(max(1, round(seconds))), "-r", server.url(lun)]
    before = cpu_seconds(server.pid)
    start = time.monotonic()
    output = _output(command)
    elapsed = time.monotonic() - start
    cpu = cpu_seconds(server.pid) - before
    averages = re.findall(r"iops average (\d+)", output)
    if not averages:
        raise RuntimeError(f"iscsi-perf gave no figure:\n{output}")
    iops = float(averages[-1])
    # It counts whole seconds of its own; the target was at work for all of them but the login.
    return Figure(iops, cpu / max(iops * min(elapsed, round(seconds)), 1.0) * 1e6)


def _qemu_img(load: Load, server: Server, lun: int, seconds: float) -> Figure:
    # It runs for a count, not for a time: a first short run tells which count.
    count = 2000 if load.depth > 1 else 500
    count = max(count, round(count / _qemu_img_once(load, server, lun, count) * seconds))
    before = cpu_seconds(server.pid)
    elapsed = _qemu_img_once(load, server, lun, count)
    cpu = cpu_seconds(server.pid) - before
    return Figure(count / elapsed, cpu / count * 1e6)


def _qemu_img_once(load: Load, server: Server, lun: int, count: int) -> float:
    command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(count), "-d", str(load.depth)]
    command += ["-s", str(load.size_bytes), *(["-w"] if load.write else []), server.url(lun)]
    output = _output(command)
    found = re.search(r"Run completed in ([0-9.]+) seconds", output)
    if not found:
        raise RuntimeError(f"qemu-img bench gave no figure:\n{output}")
    return max(float(found[1]), 1e-3)


def _output(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
