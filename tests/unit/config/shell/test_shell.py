"""annexcli against a stand-in of the API: what it asks for, what it shows, and how it ends."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.shell import progress
from config.shell.main import main
from tests.support.fake_api import FakeApi

IQN = "iqn.2026-11.org.example:t1"
HOST = "iqn.1993-08.org.debian:01:host"
QUOTED = IQN.replace(":", "%3A")
QUOTED_HOST = HOST.replace(":", "%3A")
TPG = f"/iscsi/{IQN}/tpg1"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path) as fake:
        yield fake


@pytest.fixture
def cli(api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*words: str, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code = main(["--socket", str(api.path), *words])
        return code, *capsys.readouterr()

    return run


def with_target(api: FakeApi) -> None:
    api.state["targets"] = [{"name": IQN, "portals": ["0.0.0.0:3260"], "luns": [], "acls": [{"initiator": HOST}]}]


def test_a_disk_is_exported_with_four_commands_as_with_targetcli(api: FakeApi, cli: Cli) -> None:
    for line in (
        "/devices create disk0 /dev/sdb",
        f"/iscsi create {IQN}",
        f"{TPG}/luns create /devices/disk0",
        f"{TPG}/acls create {HOST}",
    ):
        assert cli(*line.split())[0] == 0
    assert api.state["devices"] == [{"name": "disk0", "path": "/dev/sdb"}]
    assert api.state["vdevs"] == [{"name": "disk0", "regions": [{"device": "disk0"}]}]
    assert api.state["targets"] == [
        {
            "name": IQN,
            "portals": ["0.0.0.0:3260"],
            "luns": [{"lun": 0, "virtual_device": "disk0"}],
            "acls": [{"initiator": HOST}],
        }
    ]


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("/devices delete disk0", ("DELETE", "/v1/devices/disk0", None)),
        ("/devices delete /devices/disk0", ("DELETE", "/v1/devices/disk0", None)),
        (
            "/arrays create old [::1]:3260 iqn.2001-05.com.example:a userid=u credential=c data_digest=on",
            ("POST", "/v1/arrays", {"name": "old", "portal": "[::1]:3260", "target": "iqn.2001-05.com.example:a",
                                    "chap": {"name": "u", "credential": "c"}, "data_digest": True}),
        ),
        (
            "/vdevs create v disk0,size=1MiB disk0,offset=1M,size=4096 old/3",
            ("POST", "/v1/vdevs", {"name": "v", "regions": [
                {"device": "disk0", "blocks": 2048}, {"device": "disk0", "first_lba": 2048, "blocks": 8},
                {"array": "old", "lun": 3}]}),
        ),
        (
            "/pairs create a /vdevs/b fence_level=data pace=50MiB copy=no",
            ("POST", "/v1/pairs", {"primary": "a", "secondary": "b", "fence_level": "data", "copy": False,
                                   "pace_mib_s": 50}),
        ),
        ("/pairs/1 split", ("POST", "/v1/pairs/1/split", {})),
        ("/groups create g 3 /pairs/1 suspend=alone",
         ("POST", "/v1/groups", {"name": "g", "pairs": [3, 1], "suspend": "alone"})),
        ("/groups/db split", ("POST", "/v1/groups/db/split", {})),
        ("/groups/db add 7", ("PATCH", "/v1/groups/db", {"pairs": [1, 2, 7]})),
        ("/groups/db remove 2", ("PATCH", "/v1/groups/db", {"pairs": [1]})),
        ("/groups/db set suspend=together", ("PATCH", "/v1/groups/db", {"suspend": "together"})),
        ("/groups/db dissolve", ("POST", "/v1/groups/db/dissolve", {})),
        ("/groups delete db", ("DELETE", "/v1/groups/db", None)),
        (f"{TPG}/luns create v0 lun5 max_iops=9 max_bandwidth=1M --read-only",
         ("POST", f"/v1/targets/{QUOTED}/luns",
          {"lun": 5, "virtual_device": "v0", "max_iops": 9, "max_bytes_per_s": 1048576, "read_only": True})),
        (f"{TPG}/acls/{HOST} set auth userid=u password=twelve-bytes-x addresses=192.0.2.0/24",
         ("PATCH", f"/v1/targets/{QUOTED}/acls/{QUOTED_HOST}",
          {"chap": {"name": "u", "secret": "twelve-bytes-x"}, "addresses": ["192.0.2.0/24"]})),
        (f"{TPG}/acls/{HOST} set auth userid=",
         ("PATCH", f"/v1/targets/{QUOTED}/acls/{QUOTED_HOST}",
          {"chap": None, "mutual_chap": None})),
        (f"{TPG}/portals create 192.0.2.1 3261",
         ("POST", f"/v1/targets/{QUOTED}/portals", {"portal": "192.0.2.1:3261"})),
        (f"{TPG}/portals/0.0.0.0:3260 drain",
         ("POST", f"/v1/targets/{QUOTED}/portals/0.0.0.0%3A3260/drain", {"drain": True})),
        (f"{TPG}/portals/0.0.0.0:3260 drain within_s=120",
         ("POST", f"/v1/targets/{QUOTED}/portals/0.0.0.0%3A3260/drain", {"drain": True, "within_s": 120})),
        (f"{TPG}/portals create ::1", ("POST", f"/v1/targets/{QUOTED}/portals", {"portal": "[::1]:3260"})),
        (f"{TPG} set anyone=127.0.0.0/8,::1/128 --array-control",
         ("PUT", f"/v1/targets/{QUOTED}/anyone",
          {"addresses": ["127.0.0.0/8", "::1/128"], "array_control": True, "read_only": False})),
        ("/sessions delete 1", ("DELETE", "/v1/sessions/1", None)),
        ("/jobs/3 cancel", ("POST", "/v1/jobs/3/cancel", {})),
    ],
)  # fmt: skip
def test_a_command_is_a_request(api: FakeApi, cli: Cli, line: str, request_: tuple[str, str, Any]) -> None:
    with_target(api)
    api.state["devices"] = [{"name": "disk0", "path": "/dev/sdb", "block_bytes": 512}]
    api.state["vdevs"] = [{"name": "v0", "regions": []}]
    api.state["pairs"] = [{"number": 1}]
    api.state["groups"] = [{"name": "db", "pairs": [1, 2]}]
    api.state["sessions"] = [{"tsih": 1}]
    api.state["jobs"] = [{"id": "3", "state": "running"}]
    api.answers["POST", "/v1/jobs/3/cancel"] = [{"id": "3", "done_blocks": 1, "total_blocks": 2}]
    method, url, _ = request_
    if method == "PUT":
        api.answers[method, url] = [{"changes": []}]
    if url.endswith(("/split", "/drain", "/dissolve")):
        api.answers[method, url] = [{"number": 1}]
    code, _, err = cli(*line.split())
    assert (code, err) == (0, "")
    assert api.requests == [request_]


def test_a_virtual_device_made_for_a_lun_goes_when_the_lun_is_refused(api: FakeApi, cli: Cli) -> None:
    with_target(api)
    error = {"place": "luns", "problem": "is no good", "remedy": ""}
    api.refusals["POST", f"/v1/targets/{QUOTED}/luns"] = (409, error)
    assert cli(f"{TPG}/luns", "create", "/devices/disk0")[0] == 1
    assert api.state["vdevs"] == []


def test_a_whole_device_that_is_a_virtual_device_already_is_not_made_another(api: FakeApi, cli: Cli) -> None:
    with_target(api)
    api.state["vdevs"] = [{"name": "data", "regions": [{"device": "disk0"}]}]
    assert cli(f"{TPG}/luns", "create", "/devices/disk0")[0] == 0
    assert api.state["targets"][0]["luns"] == [{"lun": 0, "virtual_device": "data"}]


@pytest.mark.parametrize(
    "words",
    [
        ("/devices", "frob"),
        ("/devices", "create", "a"),
        ("/devices", "create", "a", "/b", "c"),
        ("/devices", "create", "a", "/b", "colour=red"),
        ("/devices", "create", "a\nb", "/b"),
        ("/devices", "create", "a" * 300, "/b"),
        ("/devices", "create", "größe", "/b"),
        ("/devices", "delete", "absent"),
        ("/nowhere", "ls"),
        ("/vdevs", "create", "v"),
        ("/vdevs", "create", "v", "disk0,colour=red"),
        ("/vdevs", "create", "v", "absent,size=1G"),
        ("/pairs", "create", "a", "b", "wait=perhaps"),
        ("/pairs", "create", "a", "b", "pace=1500K"),
        ("/control", "set", "colour=red"),
        ("watch", "colours"),
        ("watch", "count=-1"),
        ("watch", "interval=nan"),
        ("clearconfig",),
        ("import", "lio", "file"),
        ("help", "frob"),
        ("--frob",),
        ("--host", "h"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_one_line_and_exit_code_2(api: FakeApi, cli: Cli, words: tuple[str, ...]) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert err.startswith("annexcli: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert api.requests == []


def test_a_refusal_is_exit_code_1_and_a_document_with_json(api: FakeApi, cli: Cli) -> None:
    error = {"place": "devices[0].path", "problem": "is no device", "remedy": "see lsblk"}
    api.refusals["POST", "/v1/devices"] = (400, error)
    code, out, err = cli("--json", "/devices", "create", "a", "/b")
    assert (code, err) == (1, "annexcli: devices[0].path: is no device (see lsblk)\n")
    assert json.loads(out) == {"error": error}


def test_without_a_daemon_the_exit_code_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(tmp_path / "absent"), "ls"]) == 3
    assert "is not running" in capsys.readouterr().err


def test_a_script_stops_at_its_first_error_and_names_the_line(api: FakeApi, cli: Cli) -> None:
    script = "# two disks\n/devices create a /dev/a\n\ncd /devices\ncreate b\ncreate c /dev/c\n"
    code, _, err = cli(lines=script)
    assert code == 2
    assert err.startswith("annexcli: line 5: /devices create: it needs the parameter 'path'")
    assert [row["name"] for row in api.state["devices"]] == ["a"]


@pytest.mark.parametrize("line", ["a" * 70_000, "create \udcff /b", "create a\x1b[2J /b", "create 'a /b"])
def test_a_line_that_is_none_is_refused(api: FakeApi, cli: Cli, line: str) -> None:
    code, _, err = cli(lines=f"cd /devices\n{line}\n")
    assert code == 2
    assert err.count("\n") == 1
    assert len(err) < 300
    assert api.requests == []


def test_a_script_ends_at_exit(api: FakeApi, cli: Cli) -> None:
    assert cli(lines="/devices create a /dev/a\nexit\n/devices create b /dev/b\n")[0] == 0
    assert len(api.state["devices"]) == 1


def test_a_script_begins_where_cd_took_it(api: FakeApi, cli: Cli) -> None:
    with_target(api)
    code, out, _ = cli(lines=f"cd {TPG}\npwd\ncd acls/{HOST}\npwd\ncd ..\npwd\ncd\npwd\n")
    assert (code, out.split("\n")) == (0, [TPG, f"{TPG}/acls/{HOST}", f"{TPG}/acls", "/", ""])


def test_the_tree_shows_states_and_sizes(api: FakeApi, cli: Cli) -> None:
    api.state["devices"] = [
        {"name": "disk10", "path": "/dev/b", "size_bytes": 2**30, "state": "ready", "fault": None},
        {"name": "disk9", "path": "/dev/a", "size_bytes": 512, "state": "failed", "fault": "gone"},
    ]
    _, out, _ = cli("/devices", "ls")
    shown = [re.sub(r"\.{3,}", "…", line) for line in out.splitlines()]
    assert shown == [
        "o- devices … [2 devices, 1 not well]",
        "  o- disk10 … [/dev/b, 1 GiB, ready]",
        "  o- disk9 … [/dev/a, 512 B, failed, gone]",
    ]


def test_json_of_the_tree_has_the_same(api: FakeApi, cli: Cli) -> None:
    api.state["devices"] = [{"name": "d", "path": "/dev/b", "size_bytes": 2**30, "state": "ready", "fault": None}]
    _, out, _ = cli("/devices", "ls", "--json")
    child = {"path": "/devices/d", "summary": "/dev/b, 1 GiB, ready", "well": True, "children": []}
    assert json.loads(out) == {"path": "/devices", "summary": "1 device", "well": True, "children": [child]}


@pytest.mark.parametrize("words", [("ls",), ("/sessions", "info"), ("/sessions/1", "info"), ("/sessions/1", "get")])
@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_what_a_host_chose_never_reaches_the_terminal_raw(
    api: FakeApi, cli: Cli, words: tuple[str, ...], flag: tuple[str, ...]
) -> None:
    api.state["sessions"] = [
        {"tsih": 1, "initiator": "evil\x1b]0;title\x07\x9b31m\r\n\u202e", "address": "192.0.2.1:5"}
    ]
    code, out, err = cli(*flag, *words)
    assert (code, err) == (0, "")
    assert "evil" in out
    assert all(line.isprintable() for line in out.split("\n"))


def test_an_error_of_the_daemon_never_reaches_the_terminal_raw(api: FakeApi, cli: Cli) -> None:
    api.refusals["GET", "/v1/devices"] = (409, {"place": "\x1b[2J", "problem": "\x9b", "remedy": ""})
    code, _, err = cli("/devices", "ls")
    assert code == 1
    assert err.rstrip("\n").isprintable()


def test_a_copy_is_waited_for_until_it_is_done(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(progress, "LOOK_S", 0.0)
    monkeypatch.setattr("time.sleep", slept.append)
    running = {"id": 3, "kind": "copy", "subject": "/pairs/1", "state": "running", "done_blocks": 1, "total_blocks": 9}
    api.answers["POST", "/v1/pairs"] = [{"job": running}]
    api.answers["GET", "/v1/jobs/3"] = [running, running | {"state": "done", "done_blocks": 9}]
    assert cli("/pairs", "create", "a", "b", "--wait")[:2] == (0, "formed pair a → b: done\n")


def test_what_becomes_of_each_pair_is_said_before_a_group_is_taken_over(api: FakeApi, cli: Cli) -> None:
    api.state["groups"] = [{"name": "db", "pairs": [1, 2]}]
    steps = [
        {"pair": 1, "state": "PSUE", "next_state": "SSWS", "refusal": None},
        {"pair": 2, "state": "PAIR", "next_state": "PAIR", "refusal": None},
    ]
    api.answers["POST", "/v1/groups/db/takeover"] = [{"steps": steps}, {"group": {"state": "mixed"}, "jobs": []}]
    code, out, _ = cli("--yes", "/groups/db", "takeover")
    assert code == 0
    assert out == "pair 1: PSUE → SSWS\npair 2: PAIR → PAIR\ntakeover: group db: mixed\n"
    assert [url for _, url, _ in api.requests] == [
        "/v1/groups/db/takeover?dry_run=true",
        "/v1/groups/db/takeover",
    ]


def test_all_copies_of_a_group_are_waited_for(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_S", 0.0)
    api.state["groups"] = [{"name": "db", "pairs": [1, 2]}]
    jobs = [{"id": at, "kind": "resync", "subject": f"/pairs/{at}", "state": "running"} for at in (1, 2)]
    api.answers["POST", "/v1/groups/db/resync"] = [{"group": {"state": "COPY"}, "jobs": jobs}]
    for job in jobs:
        api.answers["GET", f"/v1/jobs/{job['id']}"] = [job, job | {"state": "done"}]
    assert cli("/groups/db", "resync", "--wait")[:2] == (0, "resync: group db: done\n")
    api.answers["GET", "/v1/jobs/1"] = [jobs[0] | {"state": "failed", "error": "the array is gone"}]
    assert cli("/groups/db", "resync", "--wait")[0] == 1
    assert cli("/groups/db", "resync")[1] == "resync: group db: COPY, jobs 1, 2 run, see /jobs\n"


def test_a_copy_that_fails_is_exit_code_1(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_S", 0.0)
    running = {"id": 3, "kind": "copy", "subject": "/pairs/1", "state": "running", "done_blocks": 1, "total_blocks": 9}
    api.answers["POST", "/v1/pairs"] = [{"job": running}]
    api.answers["GET", "/v1/jobs/3"] = [running | {"state": "failed", "error": "the array is gone"}]
    code, _, err = cli("/pairs", "create", "a", "b", "--wait")
    assert (code, err) == (1, "annexcli: job 3: the array is gone\n")


def test_what_is_created_and_is_not_well_is_said(api: FakeApi, cli: Cli) -> None:
    row = {"name": "disk0", "path": "/dev/x", "state": "failed", "fault": "there is no such file"}
    api.answers["GET", "/v1/devices"] = [[row]]
    code, _, err = cli("/devices", "create", "disk0", "/dev/x")
    assert (code, err) == (0, "/devices/disk0: there is no such file\n")


def test_help_shows_examples_at_each_node(cli: Cli) -> None:
    _, out, _ = cli("/devices", "help")
    assert "  create disk0 /dev/sdb\n" in out
    _, out, _ = cli("/pairs", "help", "create")
    assert out.startswith("create PRIMARY SECONDARY")


def test_help_knows_the_commands_of_the_root_anywhere(cli: Cli) -> None:
    assert cli("/devices", "help", "saveconfig")[1].startswith("saveconfig [FILE]")


def test_who_looks_for_backstores_is_told_where_they_are(cli: Cli) -> None:
    code, _, err = cli("/backstores/block", "create", "disk0", "/dev/sdb")
    assert (code, err) == (
        2,
        "annexcli: path: there is no /backstores (what targetcli has in /backstores is in /devices)\n",
    )


def test_commands_of_the_root_can_be_given_anywhere(cli: Cli) -> None:
    code, out, _ = cli(lines="cd /devices\nstatus\npwd\n")
    assert code == 0
    assert "state: serving" in out
    assert out.endswith("/devices\n")


def test_nothing_is_written_into_the_home(
    api: FakeApi, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("ls")[0] == 0
    assert not (tmp_path / "home").exists()


def test_there_is_no_colour_in_a_pipe(api: FakeApi, cli: Cli) -> None:
    api.status["problems"] = [{"path": "/devices/d", "problem": "gone"}]
    _, out, _ = cli("status")
    assert "/devices/d: gone" in out
    assert "\x1b" not in out
