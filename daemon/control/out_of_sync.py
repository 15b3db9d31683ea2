"""GET /v1/pairs/{number}/out_of_sync: which blocks of a pair are not known to be equal, page by page."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from backends.pairs.pair import Pair
from config.errors import ConfigError

RANGES, MOST_RANGES = 100, 1000
_MOST_LBA = (1 << 64) - 1


class BlockRange(msgspec.Struct):
    """Blocks that follow each other, of `block_bytes` bytes each."""

    first_lba: int
    blocks: int


class OutOfSync(msgspec.Struct):
    """Ranges in order; `next_lba` is the `first_lba` of the next page, None when this is the last.

    They are made of groups of 4 KiB: one block that differs counts as its group. `out_of_sync_blocks` is of the whole
    pair.
    """

    block_bytes: int
    out_of_sync_blocks: int
    ranges: list[BlockRange]
    next_lba: int | None


def out_of_sync(pair: Pair, query: Mapping[str, str]) -> OutOfSync:
    """List ranges of a pair.

    Args:
        pair: the pair.
        query: of the URL: `first_lba`, where to begin; `limit`, how many ranges.

    Raises:
        ConfigError: one of these is no number, or too large.
    """
    first_lba = _number(query, "first_lba", 0, 0, _MOST_LBA)
    limit = _number(query, "limit", RANGES, 1, MOST_RANGES)
    dirty = pair.mirror.dirty
    runs, following = dirty.ranges(first_lba, limit)
    ranges = [BlockRange(run.lba, run.blocks) for run in runs]
    return OutOfSync(dirty.block_bytes, dirty.dirty_blocks(), ranges, following)


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise ConfigError(name, f"{text[:40]!r} is not a number within {least} … {most}")
    return int(text)
