"""`watch`: what goes through each LU, host, array and pair, once a second.

It is made of two answers of GET /v1/statistics. In one there are the groups `lus`, `hosts`, `arrays` and `pairs`, in a
group its members by name, and in a member its counters since the daemon's start: `reads`, `writes`, `read_bytes`,
`written_bytes`, `busy_s` (the latencies of all of them together); and `queue`, which is how many it has now. A pair has
its state and what it is doing as well, which is shown as it is: these are not counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from config.durations import duration_words
from config.shell.client import Client
from config.shell.errors import Usage
from config.shell.sizes import count_words
from config.shell.terminal import Terminal, table

GROUPS = {"lus": "LU", "hosts": "host", "arrays": "array", "pairs": "pair"}
COLUMNS = ("read IOPS", "write IOPS", "read MB/s", "write MB/s", "latency ms", "queue")

# Of pairs alone: what /v1/statistics says → how it is shown.
PAIR_COLUMNS = ("state", "in sync", "blocks out", "copy MB/s", "left")
PAIR_KEYS = (
    "state", "direction", "fence_held", "in_sync_percent", "out_of_sync_blocks", "doing", "rate_bytes", "seconds_left",
    "stands_back",
)  # fmt: skip

Counters = dict[str, Any]


class Rates(NamedTuple):
    """What one of them did between two looks, per second; `latency_ms` is the mean, None when it is not known."""

    read_iops: float
    write_iops: float
    read_mb_s: float
    write_mb_s: float
    latency_ms: float | None
    queue: int


class Seen(NamedTuple):
    """One of them at a look: its rates, and its counters as they are."""

    rates: Rates
    counters: Counters


def watch(
    api: Client, terminal: Terminal, what: str, count: int, interval_s: float,
    sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic,
) -> None:  # fmt: skip
    """Show rates every `interval_s`, `count` times, or without end.

    Raises:
        Usage: there is no such group.
    """
    if what and what not in GROUPS:
        raise Usage("watch", f"{what[:80]!r} can not be watched", f"one of {', '.join(GROUPS)}")
    looks = _looks(api, count, interval_s, sleep, now)
    groups = [what] if what else list(GROUPS)
    if not terminal.console.is_terminal or terminal.as_json:
        for look in looks:
            _print(terminal, groups, look)
        return
    try:
        with Live(console=terminal.console, auto_refresh=False) as live:
            for look in looks:
                live.update(_shown(groups, look), refresh=True)
    except KeyboardInterrupt:
        return


def _looks(
    api: Client, count: int, interval_s: float, sleep: Callable[[float], None], now: Callable[[], float]
) -> Iterator[dict[str, dict[str, Seen]]]:
    before, then = api.get("/v1/statistics"), now()
    done = 0
    while not count or done < count:
        sleep(interval_s)
        after, at = api.get("/v1/statistics"), now()
        seconds = max(at - then, 1e-3)
        yield {group: _seen(before.get(group) or {}, after.get(group) or {}, seconds) for group in GROUPS}
        before, then = after, at
        done += 1


def _seen(before: dict[str, Counters], after: dict[str, Counters], seconds: float) -> dict[str, Seen]:
    return {name: Seen(row, after[name]) for name, row in rates(before, after, seconds).items()}


def rates(before: dict[str, Counters], after: dict[str, Counters], seconds: float) -> dict[str, Rates]:
    """Give the rates of each that is there after; one that is new, or began anew, counts from 0."""
    return {name: _rates(before.get(name) or {}, counters, seconds) for name, counters in after.items()}


def _rates(before: Counters, after: Counters, seconds: float) -> Rates:
    def more(key: str) -> float:
        was, is_ = before.get(key) or 0, after.get(key) or 0
        return float(is_ - was if is_ >= was else is_)

    operations = more("reads") + more("writes")
    busy_s = more("busy_s")
    # Latencies are sampled: between two looks that are close together there may be none.
    latency_ms = busy_s * 1000 / operations if operations and busy_s else None
    return Rates(
        more("reads") / seconds,
        more("writes") / seconds,
        more("read_bytes") / seconds / 1e6,
        more("written_bytes") / seconds / 1e6,
        latency_ms,
        int(after.get("queue") or 0),
    )


def _print(terminal: Terminal, groups: list[str], look: dict[str, dict[str, Seen]]) -> None:
    if terminal.as_json:
        terminal.document(
            {group: {name: _document(group, seen) for name, seen in look[group].items()} for group in groups}
        )
        return
    terminal.show(_shown(groups, look))


def _document(group: str, seen: Seen) -> Counters:
    more = {key: seen.counters.get(key) for key in PAIR_KEYS} if group == "pairs" else {}
    return seen.rates._asdict() | more


def _shown(groups: list[str], look: dict[str, dict[str, Seen]]) -> RenderableType:
    tables = [
        table(
            (GROUPS[group], *COLUMNS, *(PAIR_COLUMNS if group == "pairs" else ())),
            [
                (name, *_words(seen.rates), *(_pair_words(seen.counters) if group == "pairs" else ()))
                for name, seen in sorted(look[group].items())
            ],
            figures_from=1,
        )
        for group in groups
        if look[group]
    ]
    return Group(*tables) if tables else Text("nothing to watch")


def _words(row: Rates) -> tuple[str, ...]:
    latency = "-" if row.latency_ms is None else f"{row.latency_ms:.2f}"
    return (
        count_words(row.read_iops), count_words(row.write_iops),
        f"{row.read_mb_s:.1f}", f"{row.write_mb_s:.1f}", latency, str(row.queue),
    )  # fmt: skip


def _pair_words(counters: Counters) -> tuple[str, ...]:
    percent, left = counters.get("in_sync_percent"), counters.get("seconds_left")
    return (
        str(counters.get("state") or "-"),
        "-" if percent is None else f"{percent} %",
        str(counters.get("out_of_sync_blocks") or 0),
        f"{(counters.get('rate_bytes') or 0) / 1e6:.1f}" if counters.get("doing") else "-",
        "-" if left is None else duration_words(left),
    )
