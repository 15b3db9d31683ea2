"""docs/conformance.md says what is true: the tests that it names exist, and its tables are those of the code."""

import re
from pathlib import Path

from scsi.command_set import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "conformance.md").read_text()


def test_every_file_and_test_that_it_names_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`([^`\s]+)`", PAGE))
    files = {name for name in named if "/" in name}
    functions = {name for name in named if re.fullmatch(r"test_\w+", name)}
    assert len(files) > 10
    assert len(functions) > 50
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    assert [name for name in sorted(functions) if f"def {name}(" not in tests] == []


def test_its_table_of_commands_is_that_of_the_code() -> None:
    section = PAGE.split("## Commands\n")[1].split("\n## ")[0]
    listed = {
        (int(opcode, 16), name.strip())
        for opcode, names in re.findall(r"^\| ([0-9A-F]{2})h \| (.*?) \|", section, re.MULTILINE)
        for name in names.split(", ")
    }
    assert listed == {(row.opcode, row.name) for row in COMMANDS.rows}


def test_its_ledger_of_skips_is_the_list_that_the_suite_is_compared_with() -> None:
    expected = (ROOT / "tests" / "conformance" / "expected_skips.txt").read_text().splitlines()
    section = PAGE.split("## libiscsi's conformance suite\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", section, re.MULTILINE)
    assert listed == [tuple(line.split("\t")) for line in expected if not line.startswith("#")]


def test_all_that_linux_relies_on_is_listed_with_a_test() -> None:
    rows = re.findall(r"^\| X(\d+) \|.*\| `test_x\d\d_\w+`", PAGE, re.MULTILINE)
    assert list(map(int, rows)) == list(range(1, 15))


def test_every_must_of_rfc_7143_is_listed_with_a_test() -> None:
    rows = re.findall(r"^\| M(\d+) \|.*\| `test_m\d\d_\w+`", PAGE, re.MULTILINE)
    assert sorted(map(int, rows)) == list(range(1, 51))


def test_every_hole_that_others_had_is_listed_with_a_test() -> None:
    rows = re.findall(r"^\| V(\d+) \|.*\| `test_v\d\d_\w+`", PAGE, re.MULTILINE)
    assert list(map(int, rows)) == list(range(1, 45))
