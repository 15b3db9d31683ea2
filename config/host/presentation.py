"""How annexhost shows what it found: rich tables for people, plain values for `--json`."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from config.durations import duration_words
from config.host.address import decode_lun
from config.host.pair_watch import CopyRate
from scsi.array_commands import (
    AcquisitionRow,
    AcquisitionState,
    Capabilities,
    FenceLevel,
    PairFlag,
    PairRow,
    PairState,
    RegionKind,
    RegionRow,
    StateCode,
    VirtualDeviceFlag,
    VirtualDeviceRow,
)
from scsi.sense import describe_sense

Document = dict[str, Any]


class Answer(NamedTuple):
    """What a verb found: one JSON document, and the same for a person."""

    document: Document
    shown: RenderableType


PAIR_FLAG_WORDS = {
    PairFlag.SECONDARY_WRITABLE: "secondary writable",
    PairFlag.FENCE_HELD: "fence held",
    PairFlag.COPYING_TO_PRIMARY: "copying to the primary",
    PairFlag.UNVERIFIED: "not yet verified",
    PairFlag.SECONDARY_IS_CURRENT: "secondary is current",
    PairFlag.SECONDARY_MAY_BE_OLD: "secondary may be old",
}
VIRTUAL_DEVICE_FLAG_WORDS = {
    VirtualDeviceFlag.EXTERNAL_REGIONS: "external",
    VirtualDeviceFlag.LOCAL_REGIONS: "local",
    VirtualDeviceFlag.PRIMARY: "primary",
    VirtualDeviceFlag.SECONDARY: "secondary",
}

# Why a pair is in a state, as far as the wire says.
_CAUSES = {
    PairState.PSUS: "split by command",
    PairState.SSWS: "the secondary has taken over",
}

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def printable(text: str) -> Text:
    """Show text of the array's or a host's choosing: no control character or markup of it reaches the terminal."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def size_words(size_bytes: int) -> str:
    """Give a size in the largest binary unit in which it is at least one."""
    power = min((max(size_bytes, 1).bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{size_bytes / 1024**power:.4g} {UNITS[power]}"


def describe_capabilities(capabilities: Capabilities) -> Answer:
    """Show what the array can do."""
    document = capabilities._asdict() | {"features": _names(capabilities.features)}
    table = _table(["capability", "value"])
    for name, value in document.items():
        table.add_row(name.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value))
    return Answer({"capabilities": document}, table)


def describe_virtual_devices(rows: Sequence[VirtualDeviceRow]) -> Answer:
    """Show virtual devices."""
    table = _table(["vdev", "LUN", "NAA", "size", "block", "regions", "state", "kind"])
    documents = []
    for row in rows:
        kinds = _words(row.flags, VIRTUAL_DEVICE_FLAG_WORDS)
        state = StateCode(row.state).name.lower()
        lun = decode_lun(row.lun)
        documents.append(row._asdict() | {"flags": _names(row.flags), "state": state, "lun": lun, "naa": row.naa.hex()})
        table.add_row(
            str(row.number),
            str(lun),
            row.naa.hex(),
            size_words(row.blocks * row.block_bytes),
            str(row.block_bytes),
            str(row.regions),
            state,
            ", ".join(kinds),
        )
    return Answer({"virtual_devices": documents}, table)


def describe_regions(rows: Sequence[RegionRow]) -> Answer:
    """Show the regions of a virtual device."""
    table = _table(["region", "kind", "state", "first LBA", "blocks", "LBA underneath", "external LU", "copied in"])
    documents = []
    for row in rows:
        kind, state = RegionKind(row.kind).name.lower(), StateCode(row.state).name.lower()
        external_id = row.external_id.hex() if row.kind == RegionKind.EXTERNAL else ""
        documents.append(row._asdict() | {"kind": kind, "state": state, "external_id": external_id})
        table.add_row(
            str(row.number),
            kind,
            state,
            str(row.lba),
            str(row.blocks),
            str(row.device_lba),
            external_id,
            f"{row.copied_in_percent} %",
        )
    return Answer({"regions": documents}, table)


def pair_document(row: PairRow) -> Document:
    """Give a pair's row as plain values."""
    return row._asdict() | {
        "state": PairState(row.state).name,
        "fence_level": FenceLevel(row.fence_level).name.lower(),
        "flags": _names(row.flags),
        "primary_naa": row.primary_naa.hex(),
        "secondary_naa": row.secondary_naa.hex(),
        "label": row.label.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "direction": direction(row),
        "cause": cause(row),
    }


def direction(row: PairRow) -> str:
    """Say in which direction a pair copies, or would by itself."""
    back = row.state == PairState.SSWS or bool(row.flags & PairFlag.SECONDARY_IS_CURRENT)
    return "secondary → primary" if back else "primary → secondary"


def cause(row: PairRow) -> str:
    """Say why a pair is in its state, as far as the wire tells; "" when there is nothing to say."""
    if row.state == PairState.PSUE:
        current = "secondary" if row.flags & PairFlag.SECONDARY_IS_CURRENT else "primary"
        return f"a leg has failed; that of the {current} has the newest data"
    return _CAUSES.get(row.state, "")


def _notes(row: PairRow, rates: Mapping[int, CopyRate]) -> str:
    notes = [cause(row)]
    if row.state == PairState.COPY:
        notes.append(direction(row))
    rate = rates.get(row.number)
    if rate is not None:
        notes.append(f"{rate.bytes_a_second / (1 << 20):.1f} MiB/s")
        notes.append("no progress" if rate.seconds_left is None else f"{duration_words(rate.seconds_left)} left")
    return ", ".join(filter(None, [*notes, *_words(row.flags, PAIR_FLAG_WORDS)]))


def describe_pairs(rows: Sequence[PairRow], rates: Mapping[int, CopyRate] | None = None) -> Answer:
    """Show pairs; the ids of the two stand one above the other, so that 80 columns are enough."""
    table = _table(["pair", "state", "in sync", "blocks out", "level", "primary\nsecondary", "label", "notes"])
    for row in rows:
        table.add_row(
            str(row.number),
            PairState(row.state).name,
            f"{row.in_sync_percent} %",
            str(row.out_of_sync_blocks),
            FenceLevel(row.fence_level).name.lower(),
            f"{row.primary_naa.hex()}\n{row.secondary_naa.hex()}",
            printable(row.label),
            _notes(row, rates or {}),
        )
    return Answer({"pairs": [pair_document(row) for row in rows]}, table)


def acquisition_document(row: AcquisitionRow) -> Document:
    """Give an acquisition's row as plain values."""
    failed = row.state == AcquisitionState.FAILED
    return {
        "id": row.identifier,
        "state": AcquisitionState(row.state).name.lower(),
        "sense": f"{row.sense_key:02X}/{row.asc:02X}/{row.ascq:02X}" if failed else None,
        "problem": describe_sense(row.sense_key, row.asc, row.ascq) if failed else None,
        "vdev_naa": row.vdev_naa.hex(),
        "lba": row.lba,
        "blocks": row.blocks,
        "block_bytes": row.block_bytes,
        "crc32c": f"{row.crc32c:08x}" if row.state == AcquisitionState.READY else None,
        "left_s": row.left_s,
        "handed_over_blocks": row.handed_over_blocks,
    }


def describe_acquisitions(rows: Sequence[AcquisitionRow]) -> Answer:
    """Show the acquisitions of this host."""
    table = _table(["id", "state", "vdev", "first LBA", "blocks", "handed over", "CRC32C", "left", "problem"])
    documents = [acquisition_document(row) for row in rows]
    for document in documents:
        table.add_row(
            str(document["id"]),
            document["state"],
            document["vdev_naa"],
            str(document["lba"]),
            str(document["blocks"]),
            str(document["handed_over_blocks"]),
            document["crc32c"] or "",
            f"{document['left_s']} s",
            document["problem"] or "",
        )
    return Answer({"acquisitions": documents}, table)


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _names(flags: enum.IntFlag) -> list[str]:
    return [flag.name.lower() for flag in type(flags) if flag in flags and flag.name]


def _words(flags: enum.IntFlag, words: dict[Any, str]) -> list[str]:
    return [word for flag, word in words.items() if flag in flags]
