"""The wall clock can be set at any moment: nothing that annexd decides may come from it (F30)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# These say when something was, to people.
TELLERS = {"daemon/journal.py", "daemon/control/jobs.py", "daemon/control/route.py"}
WALL_CLOCK = {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime"}
OF_DATETIME = {"now", "utcnow", "today"}
OF_FILES = {"st_mtime", "st_ctime", "st_atime", "st_mtime_ns", "st_ctime_ns", "st_atime_ns"}
SOURCES = sorted(path for name in ("scsi", "backends", "daemon") for path in (ROOT / name).rglob("*.py"))


def readings(source: str) -> list[str]:
    """List where a module reads the wall clock, or times that came from it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}:
            found += [f"{node.lineno}: from {node.module}" for name in node.names if name.name != "monotonic"]
        if isinstance(node, ast.Attribute):
            of_time = isinstance(node.value, ast.Name) and node.value.id == "time" and node.attr in WALL_CLOCK
            of_datetime = ast.unparse(node.value).endswith(("datetime", "date")) and node.attr in OF_DATETIME
            if of_time or of_datetime or node.attr in OF_FILES:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_decided_by_the_wall_clock(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in TELLERS:
        assert readings(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "from time import time",
        "import datetime as dt\ndt.datetime.now()",
        "a.stat().st_mtime",
    ],
)
def test_the_check_finds_it(source: str) -> None:
    assert readings(source)


def test_monotonic_time_is_no_wall_clock() -> None:
    assert readings("import time\ntime.monotonic()\nself._scheduler.now()\nself.clock()") == []
