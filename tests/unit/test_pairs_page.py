"""docs/pairs.md says what is true: each fault and each promise has its row, and the tests and seeds it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scsi.array_commands import PairState

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pairs.md").read_text()
SIMULATOR = (ROOT / "tests" / "sim" / "test_pairs.py").read_text()
FAULTS, PROMISES = 31, 10


def rows(letter: str, title: str) -> dict[int, str]:
    """Give the rows of a section's table by their number, with what stands in the last column."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = re.findall(rf"^\| {letter}(\d+) \|(?:.*\|)? (.*) \|$", section, re.MULTILINE)
    assert len(found) == len({number for number, _ in found}), "a row is there twice"
    return {int(number): shown for number, shown in found}


TABLES = {
    "I": (rows("I", "The promises, and what shows them"), PROMISES),
    "F": (rows("F", "The faults, and what shows what becomes of them"), FAULTS),
}


@pytest.mark.parametrize("letter", TABLES)
def test_each_fault_and_each_promise_has_a_row(letter: str) -> None:
    table, count = TABLES[letter]
    assert list(table) == list(range(1, count + 1))


@pytest.mark.parametrize("letter", TABLES)
def test_each_row_names_a_test_or_a_seed_or_says_that_there_is_none(letter: str) -> None:
    for number, shown in TABLES[letter][0].items():
        assert re.search(r"`test_\w+`|\bseeds? \d|[Nn]ot there yet", shown), f"{letter}{number}"


def test_each_test_that_it_names_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_each_seed_that_it_names_is_run_by_name() -> None:
    named = {seed for words in re.findall(r"\bseeds? (\d+(?:(?:, | and )\d+)*)", PAGE) for seed in words.split()}
    named = {seed.rstrip(",") for seed in named if seed != "and"}
    assert named
    assert [seed for seed in sorted(named) if f"pytest.param({seed}, " not in SIMULATOR] == []


def test_its_states_are_those_of_the_code() -> None:
    section = PAGE.split("\n## States\n")[1].split("\n**Fence level**")[0]
    listed = set(re.findall(r"^\| ([A-Z]{4}) \|", section, re.MULTILINE))
    assert listed == {state.name for state in PairState} - {"SMPL"}
