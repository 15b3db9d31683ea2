"""The copies of a pair on a real annexd: they go on where a crash ended them, leave holes, and stand back for hosts."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT, Annexd
from tests.support.control import ControlClient
from tests.support.host import GOOD, Host
from tests.support.load import BLOCK_BYTES, SLOT_BLOCKS, Load
from tests.support.pair_commands import create_pair, the_pair, wait_for_pair, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
EXTENT_BYTES = 4 * MIB
SLOTS = 64
LIMIT_S = 60.0


class Sides(NamedTuple):
    """annexd with two local files, and its control API."""

    annexd: Annexd
    api: ControlClient
    primary: Path
    secondary: Path

    def form(self, pace_mib_s: int = 0) -> None:
        with Host(self.annexd.port) as host:
            assert create_pair(host, 1, FenceLevel.STATUS, pace_mib_s=pace_mib_s).status == GOOD

    def copied(self) -> None:
        with Host(self.annexd.port) as host:
            wait_for_pair(host, PairState.PAIR)
        assert self.primary.read_bytes() == self.secondary.read_bytes()

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/v1/pairs/1")
        return found


@pytest.fixture
def sides(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """Begin with a primary of so many MiB, as `sides` is parametrized, and a secondary full of something else."""
    primary, secondary = tmp_path / "primary.img", tmp_path / "secondary.img"
    size = request.param * MIB
    # Zeroes that are there, which is what the load takes for never written; behind them what no hole can stand for.
    written = SLOTS * SLOT_BLOCKS * BLOCK_BYTES
    primary.write_bytes(bytes(written) + random.Random(1).randbytes(size - written))
    secondary.write_bytes(b"\xa5" * size)
    control = tmp_path / "control.sock"
    options = ("--control", str(control))
    with Annexd(tmp_path, ("--local", primary), ("--local", secondary), options=options) as annexd:
        yield Sides(annexd, ControlClient(control), primary, secondary)


@pytest.mark.long
@pytest.mark.parametrize("sides", [64], indirect=True)
def test_f03_after_a_kill_an_initial_copy_goes_on_and_copies_no_more_again_than_what_was_not_stable(
    sides: Sides,
) -> None:
    size = sides.primary.stat().st_size
    sides.form(pace_mib_s=4)
    with Host(sides.annexd.port) as host:
        # An extent is closed, flushed, when it was not used for 10 s: by then some are, and the last ones are not.
        row = wait_until(host, lambda row: row.out_of_sync_blocks * BLOCK_BYTES <= 8 * MIB)
    sides.annexd.kill()
    at_most = size - row.out_of_sync_blocks * BLOCK_BYTES
    sides.annexd.start()
    again = sides.row()["out_of_sync_blocks"] * BLOCK_BYTES
    copied = sides.api.get("/v1/statistics")["pairs"]["1"]["copied_blocks"] * BLOCK_BYTES
    assert again + copied <= size - EXTENT_BYTES, "what was copied first is not copied again"
    assert again + copied >= size - at_most, "what was never copied is"
    assert sides.api.ask("PATCH", "/v1/pairs/1", {"pace_mib_s": 0}).status == 200
    sides.copied()
    assert sides.api.get("/v1/statistics")["pairs"]["1"]["copied_blocks"] * BLOCK_BYTES <= size - EXTENT_BYTES


@pytest.mark.parametrize("sides", [32], indirect=True)
def test_a_copy_stands_back_while_a_host_is_busy_and_its_pace_can_be_changed_meanwhile(sides: Sides) -> None:
    load = Load(SLOTS, seed=1)
    sides.form(pace_mib_s=4)  # 8 s
    row = sides.row()
    assert (row["state"], row["doing"], row["direction"], row["stands_back"]) == (
        "COPY", "copying", "primary → secondary", False,
    )  # fmt: skip
    assert sides.api.ask("PATCH", "/v1/pairs/1", {"least_pace_mib_s": 1}).document["least_pace_mib_s"] == 1
    deadline = time.monotonic() + LIMIT_S
    with Host(sides.annexd.port) as host:
        while not (row := sides.row())["stands_back"]:
            load.run(host, 20)
            assert time.monotonic() < deadline
            assert row["state"] == "COPY"
        assert row["doing"] == "copying"
        assert load.check(host) == []
    assert sides.api.ask("PATCH", "/v1/pairs/1", {"pace_mib_s": 0}).document["pace_mib_s"] == 0
    sides.copied()
    assert (sides.row()["doing"], sides.row()["stands_back"]) == (None, False)
    assert load.failed == []


@pytest.mark.long
@pytest.mark.parametrize("sides", [32], indirect=True)
def test_a_copy_that_runs_is_shown_with_rate_and_time_left_by_both_tools(sides: Sides) -> None:
    sides.form(pace_mib_s=4)  # 8 s
    cli: list[str | Path] = [ROOT / "bin" / "annexcli", "--socket", str(sides.api.path)]
    watched = subprocess.run(
        [*cli, "--json", "watch", "pairs", "count=1", "interval=1"],
        capture_output=True, text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    pair = json.loads(watched.stdout)["pairs"]["1"]
    assert (pair["state"], pair["doing"], pair["direction"]) == ("COPY", "copying", "primary → secondary")
    assert pair["rate_bytes"] > 0
    assert pair["seconds_left"] > 0
    host = subprocess.Popen(
        [ROOT / "bin" / "annexhost", "pair", "display", sides.annexd.url(0), "--watch"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip
    with host:
        with suppress(subprocess.TimeoutExpired):
            host.wait(3)  # what is tested is what it shows from the second look on, a second after the first
        host.send_signal(signal.SIGINT)
        shown, said = host.communicate(timeout=LIMIT_S)
    assert (host.returncode, said) == (130, "")
    assert re.search(r"COPY +\d+ %.*primary → secondary, \d+\.\d MiB/s, \d+ s left", shown)
    assert sides.api.ask("PATCH", "/v1/pairs/1", {"pace_mib_s": 0}).status == 200
    sides.copied()
    listed = subprocess.run([*cli, "/pairs", "ls"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert re.search(r"→ .*100 %, PAIR\]", listed.stdout), listed.stdout


@pytest.mark.parametrize("sides", [16], indirect=True)
def test_a_copy_leaves_holes_where_the_source_has_some(sides: Sides) -> None:
    with sides.primary.open("r+b") as file:
        file.truncate(4 * MIB)
        file.truncate(16 * MIB)  # a hole up to the end
        file.seek(9 * MIB)
        file.write(os.urandom(4096))
    before = sides.secondary.stat().st_blocks * 512
    assert before >= 16 * MIB
    sides.form()
    sides.copied()
    assert sides.secondary.stat().st_blocks * 512 < 6 * MIB
    with Host(sides.annexd.port) as host:
        assert not the_pair(host).out_of_sync_blocks


@pytest.mark.parametrize("direction", ["to the array", "from the array"])
def test_a_copy_from_and_to_a_thin_array_leaves_holes(tmp_path: Path, direction: str) -> None:
    data, full = tmp_path / "data.img", tmp_path / "full.img"
    with data.open("wb") as file:
        file.truncate(16 * MIB)
        file.write(os.urandom(MIB))
        file.seek(9 * MIB + 4096)
        file.write(os.urandom(4096))
    full.write_bytes(b"\xa5" * (16 * MIB))
    inside, outside = (data, full) if direction == "to the array" else (full, data)
    folder = tmp_path / "array"
    folder.mkdir()
    with Annexd(folder, ("--local", outside)) as array:
        sources: list[tuple[str, str | Path]] = [("--local", inside), ("--array", array.url(0))]
        if direction == "from the array":
            sources.reverse()
        with Annexd(tmp_path, *sources) as annexd, Host(annexd.port) as host:
            assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
            wait_for_pair(host, PairState.PAIR)
            assert data.read_bytes() == full.read_bytes()
            assert full.stat().st_blocks * 512 < 2 * MIB
