"""`annexhost pair …`."""

from __future__ import annotations

from rich.live import Live

from config.host.array import Array
from config.host.errors import HostToolError, Refused, Usage
from config.host.pair_watch import CopyRates
from config.host.presentation import Answer, describe_pairs, pair_document
from config.host.scsi_device import COMMAND_TIMEOUT_S
from config.host.verbs import POLL_INTERVAL_S, Run, resolve_naa
from scsi.array_commands import (
    IMMEDIATE,
    RESYNC_REVERSE,
    RESYNC_SWAP,
    SPLIT_SECONDARY_WRITABLE,
    ArrayOut,
    FenceLevel,
    PairCreate,
    PairRow,
    PairState,
    encode_label,
    encode_pair_create,
)

MOST_PACE_MIB_S = 0xFFFF
VERIFY_TIMEOUT_S = 7 * 24 * 3600.0


def create(run: Run) -> Answer:
    """`annexhost pair create`: form a pair with the addressed logical unit as the primary."""
    options = run.options
    if not 0 <= options.pace <= MOST_PACE_MIB_S:
        raise Usage(f"--pace is a number of MiB/s between 0 (no limit) and {MOST_PACE_MIB_S}")
    try:
        encode_label(options.label)
    except ValueError as error:
        raise Usage(f"--label: {error}") from error
    level = FenceLevel[options.fence.upper()]
    with run.array() as array:
        secondary = resolve_naa(run, array, options.secondary)
        parameters = PairCreate(level, options.nocopy, options.pace, secondary, options.label)
        array.order(ArrayOut.PAIR_CREATE, parameters=encode_pair_create(parameters))
        return _after(run, array)


def split(run: Run) -> Answer:
    """`annexhost pair split`."""
    return _order(run, ArrayOut.PAIR_SPLIT, SPLIT_SECONDARY_WRITABLE if run.options.secondary_writable else 0)


def resync(run: Run) -> Answer:
    """`annexhost pair resync`."""
    flags = (RESYNC_REVERSE if run.options.reverse else 0) | (RESYNC_SWAP if run.options.swap else 0)
    return _order(run, ArrayOut.PAIR_RESYNC, flags)


def takeover(run: Run) -> Answer:
    """`annexhost pair takeover`, sent to the secondary."""
    return _order(run, ArrayOut.PAIR_TAKEOVER)


def verify(run: Run) -> Answer:
    """`annexhost pair verify`; everything is read on both sides, so it takes its time."""
    if run.options.immediate:
        return _order(run, ArrayOut.PAIR_VERIFY, IMMEDIATE)
    return _order(run, ArrayOut.PAIR_VERIFY, timeout_s=VERIFY_TIMEOUT_S)


def delete(run: Run) -> Answer:
    """`annexhost pair delete`; shows the pair as it was."""
    with run.array() as array:
        row = _find(run, array)
        array.order(ArrayOut.PAIR_DELETE, run.options.pair)
        return Answer({"deleted": pair_document(row)}, f"pair {row.number} deleted; both sides keep their data")


def display(run: Run) -> Answer | None:
    """`annexhost pair display`; with --watch again and again until interrupted."""
    with run.array() as array:
        if not run.options.watch:
            return describe_pairs(array.pairs(run.options.pair))
        if run.terminal.as_json:
            raise Usage("--watch and --json exclude each other")
        rates = CopyRates(run.now)
        block_bytes = _BlockLengths(array)
        with Live(console=run.terminal.console, auto_refresh=False) as live:
            while True:
                rows = array.pairs(run.options.pair)
                live.update(describe_pairs(rows, rates.look(rows, block_bytes.of)).shown, refresh=True)
                run.sleep(1.0)


class _BlockLengths:
    """The block lengths of pairs, which the rows of pairs do not have; asked for once."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._by_naa: dict[bytes, int] | None = None

    def of(self, row: PairRow) -> int | None:
        if self._by_naa is None:
            self._by_naa = {device.naa: device.block_bytes for device in self._array.virtual_devices()}
        return self._by_naa.get(row.primary_naa) or self._by_naa.get(row.secondary_naa)


def _order(run: Run, action: ArrayOut, flags: int = 0, timeout_s: float = COMMAND_TIMEOUT_S) -> Answer:
    with run.array() as array:
        array.order(action, run.options.pair, flags, timeout_s=timeout_s)
        return _after(run, array)


def _after(run: Run, array: Array) -> Answer:
    row = _wait(run, array) if getattr(run.options, "wait", False) else _find(run, array)
    return describe_pairs([row])


def _find(run: Run, array: Array) -> PairRow:
    """Find the pair that the command was about: by its number, or as that of the addressed logical unit."""
    number = getattr(run.options, "pair", 0)
    if number:
        rows = array.pairs(number)
    else:
        naa = array.own_naa()
        rows = [row for row in array.pairs() if naa in {row.primary_naa, row.secondary_naa}]
    if not rows:
        raise Refused("the array reports no such pair", 0, (0x5, 0x80, 0x08))
    return rows[0]


def _wait(run: Run, array: Array) -> PairRow:
    """Watch the pair until it is no longer copying.

    Raises:
        HostToolError: it left COPY for another state than PAIR.
    """
    with run.terminal.progress("copying") as set_progress:
        while True:
            row = _find(run, array)
            set_progress(row.in_sync_percent, f"pair {row.number}")
            if row.state != PairState.COPY:
                break
            run.sleep(POLL_INTERVAL_S)
    if row.state != PairState.PAIR:
        raise HostToolError(
            f"pair {row.number} is now in state {PairState(row.state).name}, "
            f"with {row.out_of_sync_blocks} blocks out of sync; see `annexhost pair display`"
        )
    return row
