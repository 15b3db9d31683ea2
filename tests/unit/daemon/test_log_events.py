import ast
import logging
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.log_events import BY_NAME, EVENTS

ROOT = Path(__file__).resolve().parents[3]
LAYERS = ("daemon", "backends", "scsi")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATTED = re.compile(r"%[a-z]")


def calls() -> Iterator[tuple[str, str, ast.Call, str | None]]:
    """List every log call of annexd: its place, its method, itself, and the event that it names."""
    for layer in LAYERS:
        for file in sorted((ROOT / layer).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in {"_log", "log", "logger"}
                    and node.func.attr in {*LEVELS, "exception", "log", "critical"}
                ):
                    place = f"{file.relative_to(ROOT)}:{node.lineno}"
                    extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), None)
                    event = ast.literal_eval(extra)["event"] if extra is not None else None
                    yield place, node.func.attr, node, event


CALLS = list(calls())


def test_every_line_above_debug_is_an_event_of_the_table() -> None:
    assert [place for place, method, _, event in CALLS if method != "exception" and event not in BY_NAME] == []


def test_every_event_of_the_table_is_logged_somewhere() -> None:
    logged = {event for _, _, _, event in CALLS} | {"internal_fault"}  # which is every traceback
    assert logged == set(BY_NAME) | {None}


@pytest.mark.parametrize(
    ("place", "method", "call", "event"), [pytest.param(*row, id=row[0]) for row in CALLS if row[3] is not None]
)
def test_a_line_has_the_level_the_text_and_the_fields_of_the_table(
    place: str, method: str, call: ast.Call, event: str
) -> None:
    row = BY_NAME[event]
    assert LEVELS[method] == row.level, place
    assert ast.literal_eval(call.args[0]) == row.text, place
    if not any(isinstance(argument, ast.Starred) for argument in call.args):
        assert len(call.args) - 1 == len(row.fields), place


def test_names_ids_and_fields_are_what_the_journal_takes() -> None:
    assert len({event.name for event in EVENTS}) == len({event.message_id for event in EVENTS}) == len(EVENTS)
    for event in EVENTS:
        assert uuid.UUID(event.message_id).hex == event.message_id
        assert len(FORMATTED.findall(event.text)) == len(event.fields)
        assert all(re.fullmatch(r"[a-z_]{1,57}", name) for name in (event.name, *event.fields))
        assert event.when
        assert event.remedy.endswith(".")


def test_the_page_of_events_is_made_from_the_table() -> None:
    made = subprocess.run([sys.executable, ROOT / "scripts" / "events.py", "--check"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
