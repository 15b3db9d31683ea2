"""/pairs in the shell: how a pair is shown, its pace, and what is out of sync."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.shell.main import main
from tests.support.fake_api import FakeApi

Cli = Callable[..., tuple[int, str, str]]

ROW: dict[str, Any] = {
    "number": 1, "primary": "a", "secondary": "b", "state": "COPY", "copied_percent": 37, "out_of_sync_blocks": 1290,
    "direction": "primary → secondary", "doing": "copying", "compared_percent": None, "rate_mib_s": 118.44,
    "seconds_left": 200, "stands_back": False, "fence_held": True, "waiting_for": None, "fault": None,
}  # fmt: skip


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path) as running:
        running.state["pairs"] = [dict(ROW)]
        yield running


@pytest.fixture
def cli(api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["--socket", str(api.path), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "a → b, 37 %, 1290 blocks out of sync, copying 118.4 MiB/s, 3 min left, fence held, COPY"),
        ({"direction": "secondary → primary", "stands_back": True},
         "a ← b, 37 %, 1290 blocks out of sync, copying 118.4 MiB/s, 3 min left, hosts are busy, fence held, COPY"),
        ({"state": "PAIR", "copied_percent": 100, "out_of_sync_blocks": 0, "doing": "comparing",
          "compared_percent": 5, "seconds_left": None},
         "a → b, 100 %, comparing 118.4 MiB/s, 5 % compared, fence held, PAIR"),
        ({"doing": None, "waiting_for": "/vdevs/b: link lost", "fence_held": False},
         "a → b, 37 %, 1290 blocks out of sync, waits for /vdevs/b: link lost, COPY"),
        ({"state": "PSUE", "doing": None, "fault": "the leg of b was lost", "waiting_for": "a resync"},
         "a → b, 37 %, 1290 blocks out of sync, waits for a resync, fence held, PSUE, the leg of b was lost"),
    ],
    ids=["copy", "copy back", "comparison", "waits", "lost"],
)  # fmt: skip
def test_ls_shows_how_a_pair_gets_on(api: FakeApi, cli: Cli, changes: dict[str, Any], words: str) -> None:
    api.state["pairs"][0].update(changes)
    code, out, err = cli("/pairs", "ls")
    assert (code, err) == (0, "")
    assert f"[{words}]" in out


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("pace=200MiB",), {"pace_mib_s": 200}),
        (("pace=0",), {"pace_mib_s": 0}),
        (("least_pace=4MiB", "pace=1G"), {"least_pace_mib_s": 4, "pace_mib_s": 1024}),
    ],
)
def test_the_pace_is_changed(api: FakeApi, cli: Cli, words: tuple[str, ...], body: dict[str, int]) -> None:
    assert cli("/pairs/1", "set", *words)[0] == 0
    assert api.requests == [("PATCH", "/v1/pairs/1", body)]


@pytest.mark.parametrize("words", [("least_pace=0",), ("pace=1500K",), ("speed=1M",), ()])
def test_a_pace_that_can_not_be_is_refused_before_annexd_is_asked(
    api: FakeApi, cli: Cli, words: tuple[str, ...]
) -> None:
    assert cli("/pairs/1", "set", *words)[0] != 0
    assert api.requests == []


def test_what_is_out_of_sync_is_listed_page_by_page(api: FakeApi, cli: Cli) -> None:
    page = {"block_bytes": 512, "out_of_sync_blocks": 40, "ranges": [{"first_lba": 8, "blocks": 16}], "next_lba": 80}
    api.answers["GET", "/v1/pairs/1/out_of_sync"] = [page]
    code, out, _ = cli("/pairs/1", "ranges", "limit=1")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["40", "blocks", "of", "512", "bytes", "are", "out", "of", "sync"]
    assert ["8", "16"] in lines
    assert lines[-1] == ["more:", "ranges", "first_lba=80"]
    assert json.loads(cli("--json", "/pairs/1", "ranges")[1]) == page


def test_nothing_out_of_sync_is_said_in_one_line(api: FakeApi, cli: Cli) -> None:
    page = {"block_bytes": 4096, "out_of_sync_blocks": 0, "ranges": [], "next_lba": None}
    api.answers["GET", "/v1/pairs/1/out_of_sync"] = [page]
    assert cli("/pairs/1", "ranges")[1] == "0 blocks of 4096 bytes are out of sync\n"
