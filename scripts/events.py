"""Make docs/events.md from the table of events: `python scripts/events.py`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from daemon.log_events import EVENTS, LogEvent

PAGE = ROOT / "docs" / "events.md"
_HEAD = """# What annexd logs

Under systemd each line goes to the journal with its fields, else to standard error. `journalctl -u annexd` shows the
lines, `journalctl -u annexd -p warning` those that may need somebody, `journalctl ANNEX_EVENT=pair_state` all lines of
one event, `journalctl ANNEX_PAIR=1` all lines about one pair, `journalctl -o verbose` all fields. MESSAGE_ID is for
programs: it stays what it is, whatever becomes of the text.

What is not printable in a name that a host or an array gives itself is written as an escape, and what is long is cut. A
traceback follows its line with `  | ` in front. Events with a limit are those that a stranger can cause: above it they
are counted, and one line says how many were left out.

This page is made from the table in `daemon/log_events.py` by `scripts/events.py`.
"""


def page() -> str:
    """Give the page."""
    parts = [_HEAD]
    for level in (logging.ERROR, logging.WARNING, logging.INFO):
        name = logging.getLevelName(level).lower()
        parts.append(f"## Level {name}\n")
        parts += [_section(event) for event in EVENTS if event.level == level]
    return "\n".join(parts)


def _section(event: LogEvent) -> str:
    rows = [
        f"### {event.name}\n",
        f"`{event.text}`\n",
        f"When {event.when}. {event.remedy}\n",
        f"- MESSAGE_ID={event.message_id}",
    ]
    if event.fields:
        rows.append(f"- fields: {', '.join('ANNEX_' + name.upper() for name in event.fields)}")
    if event.most_per_minute:
        rows.append(f"- at most {event.most_per_minute} lines a minute")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or check it; give the exit code."""
    parser = argparse.ArgumentParser(prog="events.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell by the exit code whether it is up to date")
    options = parser.parse_args()
    if not options.check:
        PAGE.write_text(page())
    elif page() != PAGE.read_text():
        sys.stderr.write(f"{PAGE.relative_to(ROOT)} is not what python scripts/events.py makes\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
