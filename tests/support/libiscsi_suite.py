"""libiscsi's conformance suite, iscsi-test-cu, test by test.

Most tests run on a unit that annexd serves by two paths. A few are about something which that unit can not have at the
same time, and run on another one: a read-only one, one with physical blocks of several logical ones, one whose host is
limited, so that a sanitize takes its time.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

LIMIT_S = 110

# The test waits a minute at a time until a sanitize has ended; here a second is enough.
_SHORT_SLEEP = """
#include <time.h>
unsigned int sleep(unsigned int seconds) {
    struct timespec wait = {seconds < 60 ? seconds : 1, 0};
    nanosleep(&wait, 0);
    return 0;
}
"""

_ELSEWHERE = {
    "ReadOnly": "read-only",
    "Sanitize.Reset": "limited",
    "CompareAndWrite.InvalidDataOutSize": "physical",
    "WriteSame10.InvalidDataOutSize": "physical",
    "WriteSame10.UnmapUnaligned": "physical",
    "WriteSame16.InvalidDataOutSize": "physical",
    "WriteSame16.UnmapUnaligned": "physical",
    "WriteAtomic16.InvalidDataOutSize": "physical",
}
_TEST = re.compile(r"^  Test: (\S+) \.\.\.")
_SKIPPED = re.compile(r"\[SKIPPED\] *(.*)")


class Outcome(NamedTuple):
    """How a test ended.

    Attributes:
        passed: it did not fail.
        skips: what it left out, in its own words.
    """

    passed: bool
    skips: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(("passed" if self.passed else "FAILED", *(f"skipped: {reason}" for reason in self.skips)))


@cache
def tests_of(family: str) -> tuple[str, ...]:
    """List the tests of a family as Suite.Test."""
    listed = subprocess.run(["iscsi-test-cu", "--list"], capture_output=True, text=True, timeout=30, check=True).stdout
    return tuple(
        line.split(".", 1)[1] for line in listed.split() if line.startswith(f"{family}.") and line.count(".") == 2
    )


def run_family(family: str, urls: Mapping[str, tuple[str, ...]], folder: Path) -> dict[str, Outcome]:
    """Run every test of a family; give the outcomes by Suite.Test.

    Args:
        family: ALL, SCSI, iSCSI or LINUX.
        urls: by kind of unit ("main", "read-only", "limited", "physical"): its paths; a kind that is not there is main.
        folder: for what is made.
    """
    places: dict[str, list[str]] = {}
    for name in tests_of(family):
        place = _ELSEWHERE.get(name) or _ELSEWHERE.get(name.split(".")[0], "main")
        places.setdefault(place if place in urls else "main", []).append(name)
    found: dict[str, Outcome] = {}
    for place, names in places.items():
        found |= _run(family, names, urls[place], folder)
    return found


def _run(family: str, names: list[str], urls: tuple[str, ...], folder: Path) -> dict[str, Outcome]:
    wanted = ",".join(f"{family}.{name}" for name in _by_suite(family, names))
    command = ["iscsi-test-cu", "--dataloss", "--allow-sanitize", f"--test={wanted}", *urls]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        env=os.environ | {"LD_PRELOAD": str(_short_sleep(folder))},
        check=False,
    )
    outcomes = _read(done.stdout)
    assert sorted(outcomes) == sorted(names), done.stdout[-4000:] + done.stderr[-2000:]
    for name, outcome in outcomes.items():
        assert outcome.passed, f"{family}.{name}\n{done.stdout}"
    return outcomes


def _by_suite(family: str, names: list[str]) -> Iterable[str]:
    """Name whole suites where they are wanted whole: the tests of some hold on to what the one before left."""
    wanted = set(names)
    for suite in dict.fromkeys(name.split(".")[0] for name in names):
        tests = [name for name in tests_of(family) if name.startswith(f"{suite}.")]
        if wanted.issuperset(tests):
            yield suite
        else:
            yield from (name for name in tests if name in wanted)


def _read(output: str) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    suite, name = "", ""
    skips: list[str] = []
    for line in output.splitlines():
        if line.startswith("Suite: "):
            suite = line.removeprefix("Suite: ").strip()
            continue
        if found := _TEST.match(line):
            name, skips = f"{suite}.{found[1]}", []
        skips += _SKIPPED.findall(line)
        if name and (ended := re.search(r"(passed|FAILED)\s*(\[|$)", line)) and name not in outcomes:
            outcomes[name] = Outcome(
                ended[1] == "passed", tuple(reason.removesuffix("passed").strip() for reason in skips)
            )
    return outcomes


def _short_sleep(folder: Path) -> Path:
    library = folder / "short_sleep.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=_SHORT_SLEEP, text=True, timeout=30, check=True)
    return library
