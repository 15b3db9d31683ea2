import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon import journal
from daemon.log_events import BY_NAME

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = (
    "iqn.2026-11.io.annex:a\n2026-11-23 ERROR daemon: all is lost",
    "\x1b[2J\x1b]0;title\x07",
    "\r\0\x85\u2028\u202e\ufeff",
    "n" * 65536,
    "\n" * 65536,
    "\udcff\ud800",
    "%s %d %n {0}",
)


def record(level: int, text: str, *arguments: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("daemon.test", level, __file__, 1, text, arguments, exc_info)
    made.__dict__.update(extra)
    return made


def session_begun(host: str) -> logging.LogRecord:
    row = BY_NAME["session_begun"]
    return record(row.level, row.text, host, "iqn.2026-11.io.annex:target", event=row.name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- Lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("text", ["%r has logged in to %s", "%s has logged in to %s"])
def test_a_name_never_breaks_a_line_nor_pushes_the_rest_out_of_it(name: str, text: str) -> None:
    line = journal.Lines().format(record(logging.INFO, text, name, "the-target"))
    assert line.isprintable()
    assert len(line) < 1200
    assert line.endswith("has logged in to the-target")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_argument_is_escaped_and_cut_too(name: str) -> None:
    line = journal.Lines().format(record(logging.ERROR, "%s", ValueError(name)))
    assert line.isprintable()
    assert len(line) < 1200


def test_a_traceback_is_set_off_by_a_mark_on_each_of_its_lines() -> None:
    try:
        raise ValueError("a\n2026-11-23 ERROR daemon: forged\x1b[2J" + "n" * 65536)
    except ValueError:
        made = record(logging.ERROR, "a fault", exc_info=sys.exc_info())
    first, *others = journal.Lines().format(made).split("\n")
    assert first.endswith("ERROR daemon.test: a fault")
    assert "Traceback" in others[0]
    assert all(line.startswith(journal.TRACEBACK_MARK) and line.isprintable() for line in others)
    assert all(len(line) <= journal.LINE_CHARACTERS + 4 for line in others)


def test_a_deep_traceback_is_cut_in_the_middle() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep_too(levels)
        raise ValueError("at the bottom")

    def deep_too(levels: int) -> None:
        deep(levels - 1)

    try:
        deep(200)
    except ValueError:
        made = record(logging.ERROR, "a fault", exc_info=sys.exc_info())
    lines = journal.Lines().format(made).split("\n")
    assert len(lines) <= journal.TRACEBACK_LINES + 2
    assert lines[-1].endswith("ValueError: at the bottom")


def test_printable_text_of_any_script_stays_as_it_is() -> None:
    assert journal.plain("pair 1: COPY → PAIR, für 漢字", 100) == "pair 1: COPY → PAIR, für 漢字"


# --- The journal ------------------------------------------------------------------------------------------------------


def test_an_event_has_its_id_its_name_and_its_fields_in_the_journal() -> None:
    sent: list[dict[str, Any]] = []
    handler = journal.JournalHandler(lambda **fields: sent.append(fields))
    handler.handle(record(logging.INFO, "pair %d: %s → %s", 1, "COPY", "PAIR", event="pair_state"))
    assert sent == [
        {
            "message": "pair 1: COPY → PAIR",
            "priority": 6,
            "syslog_identifier": "annexd",
            "logger": "daemon.test",
            "message_id": BY_NAME["pair_state"].message_id,
            "annex_event": "pair_state",
            "annex_pair": "1",
            "annex_before": "COPY",
            "annex_state": "PAIR",
        }
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_field_of_the_journal_is_printable_and_short(name: str) -> None:
    sent: list[dict[str, Any]] = []
    journal.JournalHandler(lambda **fields: sent.append(fields)).handle(session_begun(name))
    (fields,) = sent
    assert all(value.isprintable() for value in fields.values() if isinstance(value, str))
    assert fields["annex_target"] == "iqn.2026-11.io.annex:target"
    assert len(fields["annex_host"]) <= journal.VALUE_CHARACTERS


def test_a_traceback_without_an_event_is_a_fault_of_annex() -> None:
    try:
        raise KeyError
    except KeyError:
        made = record(logging.ERROR, "a worker's callback failed", exc_info=sys.exc_info())
    fields = journal.fields(made, "text")
    assert (fields["annex_event"], fields["priority"]) == ("internal_fault", 3)


def test_a_journal_that_fails_costs_the_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_fields: Any) -> None:
        raise OSError("no journal")

    journal.JournalHandler(fail).handle(session_begun("iqn.2026-11.io.annex:host"))
    assert "no journal" in capsys.readouterr().err


def test_standard_error_is_the_journal_only_if_the_service_manager_says_that_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        found = os.fstat(file.fileno())
        assert journal.goes_to_journal(f"{found.st_dev}:{found.st_ino}", file.fileno())
        for other in ("", ":", f"{found.st_dev}:{found.st_ino + 1}", "nonsense"):
            assert not journal.goes_to_journal(other, file.fileno())
    assert not journal.goes_to_journal("1:2", 10_000)


_SENDER = """
import logging, os, socket, sys
sys.path.insert(0, {root!r})
from daemon import journal
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("/run/systemd/journal/socket")
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{{found.st_dev}}:{{found.st_ino}}"
journal.start(logging.INFO)
logging.getLogger("daemon.test").info("pair %d: %s → %s", 7, "COPY", "a\\nb", extra={{"event": "pair_state"}})
listener.settimeout(10)
sys.stdout.buffer.write(listener.recv(65536))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a journal of its own needs a mount namespace, and that root")
def test_journald_gets_the_fields_as_its_protocol_has_them() -> None:
    script = _SENDER.format(root=str(ROOT))
    mount = 'mkdir -p /run/systemd/journal && mount -t tmpfs none /run/systemd/journal && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    for line in (
        "MESSAGE=pair 7: COPY → a\\nb", "PRIORITY=6", f"MESSAGE_ID={BY_NAME['pair_state'].message_id}",
        "ANNEX_EVENT=pair_state", "ANNEX_PAIR=7", "ANNEX_STATE=a\\nb", "SYSLOG_IDENTIFIER=annexd",
    ):  # fmt: skip
        assert line in lines
    assert done.stderr == b""


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def log(clock: Clock, lines: list[str]) -> Callable[[logging.LogRecord], None]:
    """Give what logs a record through a limited handler to `lines`."""

    class Keep(logging.Handler):
        def emit(self, made: logging.LogRecord) -> None:
            lines.append(journal.message(made))

    handler = Keep()
    handler.addFilter(journal.RateLimit(clock, handler.handle))
    return lambda made: void(handler.handle(made))


def void(_: object) -> None:
    """Have no value."""


def refused(number: int) -> logging.LogRecord:
    row = BY_NAME["login_refused"]
    return record(row.level, row.text, f"192.0.2.1 port {number}", "iqn.x", "no ACL", event=row.name)


def test_a_stranger_gets_a_bounded_number_of_lines_a_minute_and_one_that_counts_the_rest(
    log: Callable[[logging.LogRecord], None], clock: Clock, lines: list[str]
) -> None:
    most = BY_NAME["login_refused"].most_per_minute
    for number in range(10_000):
        clock.now += 0.001
        log(refused(number))
    assert len(lines) == most
    clock.now += 60
    log(refused(0))
    assert len(lines) == most + 2
    assert lines[-2] == f"login_refused: {10_000 - most} more lines like these were left out"


def test_the_count_of_what_was_left_out_comes_with_the_next_line_of_any_kind(
    log: Callable[[logging.LogRecord], None], clock: Clock, lines: list[str]
) -> None:
    most = BY_NAME["login_refused"].most_per_minute
    for number in range(most + 1):
        log(refused(number))
    log(record(logging.INFO, "stopping", event="daemon_stopping"))
    assert lines[most:] == ["stopping"]
    clock.now += 61
    log(record(logging.INFO, "stopped", event="daemon_stopped"))
    assert lines[most + 1 :] == ["login_refused: 1 more lines like these were left out", "stopped"]


def test_what_no_stranger_can_cause_has_no_limit(log: Callable[[logging.LogRecord], None], lines: list[str]) -> None:
    for _ in range(1000):
        log(record(logging.INFO, "pair %d: %s → %s", 1, "COPY", "PAIR", event="pair_state"))
    assert len(lines) == 1000


def test_one_kind_of_line_does_not_use_up_the_limit_of_another(
    log: Callable[[logging.LogRecord], None], lines: list[str]
) -> None:
    for number in range(1000):
        log(refused(number))
    del lines[:]
    log(session_begun("iqn.2026-11.io.annex:host"))
    assert len(lines) == 1


def test_a_quiet_minute_says_nothing(log: Callable[[logging.LogRecord], None], clock: Clock, lines: list[str]) -> None:
    log(refused(1))
    clock.now += 120
    log(refused(2))
    assert len(lines) == 2
