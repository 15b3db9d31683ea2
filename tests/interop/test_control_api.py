"""The control API of a running annexd: what it answers, to whom, and what becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.control.server import FIRST_REQUEST_LIMIT_S
from tests.support.annexd import ROOT
from tests.support.control import ControlClient, part
from tests.support.host import GOOD, Host, HostLost, read_cdb, sense_of
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.interop]

TARGET = "iqn.2026-11.org.example:api"
HOST = "iqn.2026-11.org.example:test-host"
SECRET = "canary-secret-0123456789"
NOBODY = 65534
LIMIT_S = 20.0
READ_CAPACITY = b"\x9e\x10" + bytes(11) + b"\x20" + bytes(2)


def config(folder: Path, port: int, **sections: Any) -> dict[str, Any]:
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    target = {"name": TARGET, "portals": [f"127.0.0.1:{port}"], "luns": [], "anyone": {"addresses": ["127.0.0.0/8"]}}
    return {"version": 2, "state_directory": str(state), "targets": [target]} | sections


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    for name in ("one", "two"):
        with (tmp_path / f"{name}.img").open("wb") as file:
            file.truncate(8 << 20)
    with Served(tmp_path, config(tmp_path, free_port())) as daemon:
        yield daemon


@pytest.fixture
def api(served: Served) -> ControlClient:
    return ControlClient(served.folder / "control.sock")


def add_disks(api: ControlClient, folder: Path, *names: str) -> None:
    for name in names or ("one", "two"):
        device = {"name": name, "path": str(folder / f"{name}.img")}
        assert api.ask("POST", "/v1/devices", device).status == 201
        assert api.ask("POST", "/v1/vdevs", {"name": f"v-{name}", "regions": [{"device": name}]}).status == 201


def wait_until(api: ControlClient, path: str, key: str, value: Any) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while (row := api.get(path))[key] != value:
        assert time.monotonic() < deadline, row
        time.sleep(0.05)
    found: dict[str, Any] = row
    return found


# --- Changes ----------------------------------------------------------------------------------------------------------


def test_a_disk_is_exported_to_a_host_by_three_requests_and_saved(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    luns = f"/v1/targets/{TARGET}/luns"
    with Host(served.port, target=TARGET) as host:
        answer = api.ask("POST", luns, {"lun": 3, "virtual_device": "v-one"})
        assert answer.status == 201
        assert answer.document["changes"] == [
            {"action": "create", "path": f"/iscsi/{TARGET}/tpg1/luns/3", "detail": "virtual_device v-one"}
        ]
        answered = host.command(READ_CAPACITY, data_in_bytes=32, lun=3)
        assert int.from_bytes(answered.data_in[:8], "big") + 1 == (8 << 20) // 512
    saved = json.loads(served.file.read_text())
    assert [lun["lun"] for lun in saved["targets"][0]["luns"]] == [3]
    (row,) = [row for row in api.get("/v1/vdevs") if row["name"] == "v-one"]
    assert row["used_by"] == [f"/iscsi/{TARGET}/tpg1/luns/3"]
    assert (row["state"], row["size_bytes"]) == ("ready", 8 << 20)


def test_what_is_in_use_is_not_removed_and_the_answer_names_the_user(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    answer = api.ask("DELETE", "/v1/devices/one")
    assert answer.status == 409
    assert "v-one" in answer.error["problem"]
    assert len(api.get("/v1/devices")) == 2
    assert api.ask("DELETE", "/v1/vdevs/v-one").status == 200
    assert api.ask("DELETE", "/v1/devices/one").status == 200
    assert [row["name"] for row in api.get("/v1/devices")] == ["two"]


def test_one_change_of_two_made_from_the_same_revision_is_refused(api: ControlClient, served: Served) -> None:
    revision = api.get("/v1/status")["revision"]
    body = {"name": "one", "path": str(served.folder / "one.img")}
    assert api.ask("POST", f"/v1/devices?expected_revision={revision}", body).status == 201
    late = api.ask("POST", f"/v1/devices?expected_revision={revision}", body | {"name": "late"})
    assert late.status == 412
    assert [row["name"] for row in api.get("/v1/devices")] == ["one"]


def test_a_dry_run_says_what_would_change_and_changes_nothing(api: ControlClient, served: Served) -> None:
    body = {"name": "one", "path": str(served.folder / "one.img")}
    answer = api.ask("POST", "/v1/devices?dry_run=true", body)
    assert [change["path"] for change in answer.document["changes"]] == ["/devices/one"]
    assert api.get("/v1/devices") == []


def test_an_acl_is_made_changed_and_removed(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    acls = f"/v1/targets/{TARGET}/acls"
    chap = {"name": "me", "secret": SECRET}
    assert api.ask("POST", acls, {"initiator": HOST, "chap": chap, "luns": []}).status == 201
    one = f"{acls}/{part(HOST)}"
    assert api.ask("POST", f"{one}/luns", {"lun": 0, "virtual_device": "v-two"}).status == 201
    assert api.ask("PATCH", f"{one}/luns/0", {"read_only": True}).status == 200
    assert api.ask("PATCH", one, {"array_control": False, "chap": {"name": "you"}}).status == 200
    row = api.get(one)
    assert row["chap"] == {"name": "you", "credential": None, "secret_set": True}
    assert row["luns"][0]["read_only"] is True
    assert json.loads(served.file.read_text())["targets"][0]["acls"][0]["chap"]["secret"] == SECRET
    assert api.ask("DELETE", one).status == 200
    assert api.ask("GET", one).status == 404


REFUSED = [
    ("POST", "/v1/devices", {"name": "x"}, 400, "path"),
    ("POST", "/v1/devices", {"name": "x", "path": "relative"}, 400, "path"),
    ("POST", "/v1/devices", {"name": "a/b", "path": "/dev/null"}, 400, "name"),
    ("POST", "/v1/devices", {"name": "a\nb", "path": "/dev/null"}, 400, "name"),
    ("POST", "/v1/devices", {"name": "x" * 300, "path": "/dev/null"}, 400, "name"),
    ("POST", "/v1/devices", {"name": "ä", "path": "/dev/null"}, 400, "name"),
    ("POST", "/v1/devices", {"name": "x", "path": "/dev/null", "colour": 1}, 400, "colour"),
    ("POST", "/v1/vdevs", {"name": "v", "regions": [{"device": "none"}]}, 400, "none"),
    ("DELETE", "/v1/devices/none", None, 404, "none"),
    ("POST", "/v1/targets/none/luns", {"lun": 0, "virtual_device": "v"}, 404, "none"),
    ("POST", "/v1/pairs", {"primary": "p", "secondary": "s"}, 404, "p"),
    ("POST", "/v1/pairs/7/split", None, 404, "7"),
    ("DELETE", "/v1/sessions/9", None, 404, "9"),
    ("PUT", "/v1/config", {"version": 2}, 400, "state_directory"),
    ("PUT", "/v1/config", {"version": 99, "state_directory": "/s"}, 400, "newer"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "word"), REFUSED)
def test_what_is_wrong_is_said_with_its_place(
    served: Served, api: ControlClient, method: str, path: str, body: Any, status: int, word: str
) -> None:
    before = served.file.read_bytes()
    answer = api.ask(method, path, body)
    assert answer.status == status
    assert word in f"{answer.error['place']} {answer.error['problem']}"
    assert served.file.read_bytes() == before


# --- Pairs, sessions --------------------------------------------------------------------------------------------------


def test_a_pair_is_formed_split_verified_and_ended(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    (served.folder / "one.img").write_bytes((b"annex" * 1000).ljust(8 << 20, b"\0"))
    made = api.ask("POST", "/v1/pairs", {"primary": "v-one", "secondary": "v-two", "fence_level": "data"})
    assert made.status == 201
    number, job = made.document["pair"]["number"], made.document["job"]
    ended = wait_until(api, f"/v1/jobs/{job['id']}", "state", "done")
    assert ended["done_blocks"] == ended["total_blocks"] == (8 << 20) // 512
    assert api.get(f"/v1/pairs/{number}")["state"] == "PAIR"
    again = api.ask("POST", "/v1/pairs", {"primary": "v-two", "secondary": "v-one"})
    assert again.status == 409
    assert api.ask("POST", f"/v1/pairs/{number}/split").document["pair"]["state"] == "PSUS"
    assert api.ask("POST", f"/v1/pairs/{number}/resync").status == 200
    wait_until(api, f"/v1/pairs/{number}", "state", "PAIR")
    verified = api.ask("POST", f"/v1/pairs/{number}/verify")
    assert verified.status == 202
    wait_until(api, f"/v1/jobs/{verified.document['job']['id']}", "state", "done")
    assert api.ask("DELETE", f"/v1/pairs/{number}").status == 200
    assert api.get("/v1/pairs") == []
    assert (served.folder / "one.img").read_bytes() == (served.folder / "two.img").read_bytes()


def test_a_group_is_made_split_resynced_taken_over_and_dissolved(api: ControlClient, served: Served) -> None:
    for name in ("three", "four"):
        (served.folder / f"{name}.img").write_bytes(bytes(8 << 20))
    add_disks(api, served.folder, "one", "two", "three", "four")
    numbers = []
    for primary, secondary in (("v-one", "v-two"), ("v-three", "v-four")):
        form = {"primary": primary, "secondary": secondary, "copy": False}
        numbers.append(api.ask("POST", "/v1/pairs", form).document["pair"]["number"])
    made = api.ask("POST", "/v1/groups", {"name": "db", "pairs": numbers})
    assert (made.status, made.document["suspend"], made.document["secondaries"]) == (201, "together", "mirrored")
    assert api.ask("POST", "/v1/groups", {"name": "db", "pairs": []}).status == 409
    taken = api.ask("POST", "/v1/groups", {"name": "other", "pairs": numbers[:1]})
    assert (taken.status, taken.error["problem"]) == (
        409,
        f"pair {numbers[0]} is in group db, and a pair is in one at most",
    )
    assert api.ask("POST", "/v1/groups", {"name": "no way", "pairs": []}).status == 409
    assert api.ask("POST", "/v1/groups", {"name": "other", "pairs": [99]}).error["problem"] == "there is no pair 99"
    assert [row["group"] for row in api.get("/v1/pairs")] == ["db", "db"]
    plan = api.ask("POST", "/v1/groups/db/split?dry_run=true").document
    assert [(step["state"], step["next_state"]) for step in plan["steps"]] == [("PAIR", "PSUS")] * 2
    assert api.get("/v1/groups/db")["state"] == "PAIR"
    split = api.ask("POST", "/v1/groups/db/split").document
    assert (split["group"]["state"], split["group"]["secondaries"]) == ("PSUS", "one_moment")
    assert api.ask("POST", "/v1/groups/db/swap").status == 409
    served.kill()
    served.start()
    again = api.get("/v1/groups/db")
    assert (again["pairs"], again["state"], again["secondaries"]) == (numbers, "PSUS", "one_moment")
    assert api.ask("POST", "/v1/groups/db/resync").status == 200
    wait_until(api, "/v1/groups/db", "secondaries", "mirrored")
    over = api.ask("POST", "/v1/groups/db/takeover").document
    assert [step["next_state"] for step in over["steps"]] == ["PAIR"] * 2
    assert [row["primary"] for row in api.get("/v1/pairs")] == ["v-two", "v-four"]
    assert api.ask("PATCH", "/v1/groups/db", {"suspend": "alone"}).document["suspend"] == "alone"
    assert api.ask("PATCH", "/v1/groups/db", {"pairs": numbers[1:]}).document["pairs"] == numbers[1:]
    assert api.ask("POST", "/v1/groups/db/dissolve").status == 200
    assert api.get("/v1/groups") == []
    assert [row["number"] for row in api.get("/v1/pairs")] == numbers[:1]


def test_a_comparison_is_cancelled_and_a_copy_is_split(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    form = {"primary": "v-one", "secondary": "v-two", "copy": False, "pace_mib_s": 1}  # 8 s for all of it
    number = api.ask("POST", "/v1/pairs", form).document["pair"]["number"]
    job = api.ask("POST", f"/v1/pairs/{number}/verify").document["job"]
    deadline = time.monotonic() + LIMIT_S
    while not api.get(f"/v1/jobs/{job['id']}")["done_blocks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert api.ask("DELETE", f"/v1/jobs/{job['id']}").error["remedy"] == "cancel it"
    shell = ["--socket", str(served.folder / "control.sock"), f"/jobs/{job['id']}", "cancel"]
    cancelled = subprocess.run([ROOT / "bin" / "annexcli", *shell], capture_output=True, text=True, timeout=LIMIT_S)
    assert cancelled.returncode == 0, cancelled.stderr
    row = api.get(f"/v1/jobs/{job['id']}")
    assert row["state"] == "cancelled"
    assert 0 < row["done_blocks"] < row["total_blocks"]
    assert f"{row['done_blocks']} of {row['total_blocks']} blocks were compared" in cancelled.stdout
    assert api.ask("POST", f"/v1/jobs/{job['id']}/cancel").status == 409
    assert api.ask("DELETE", f"/v1/jobs/{job['id']}").status == 200
    assert api.ask("DELETE", f"/v1/pairs/{number}").status == 200
    copied = api.ask("POST", "/v1/pairs", form | {"copy": True}).document
    refused = api.ask("POST", f"/v1/jobs/{copied['job']['id']}/cancel")
    assert refused.status == 409
    assert f"/pairs/{copied['pair']['number']} split" in refused.error["remedy"]
    assert api.ask("POST", f"/v1/pairs/{copied['pair']['number']}/split").status == 200
    assert api.get(f"/v1/jobs/{copied['job']['id']}")["state"] == "cancelled"


def test_a_session_is_listed_and_ended(api: ControlClient, served: Served) -> None:
    add_disks(api, served.folder)
    assert api.ask("POST", f"/v1/targets/{TARGET}/luns", {"lun": 0, "virtual_device": "v-one"}).status == 201
    with Host(served.port, target=TARGET) as host:
        (row,) = api.get("/v1/sessions")
        assert row["initiator"] == HOST
        assert row["target"] == TARGET
        assert row["luns"] == [{"lun": 0, "vdev": "v-one", "read_only": False, "limited": False}]
        assert (row["chap"], row["chap_algorithm"], row["header_digest"], row["read_only"]) == (
            False,
            None,
            False,
            False,
        )
        assert row["address"].startswith("127.0.0.1:")
        assert row["portal"] == f"127.0.0.1:{served.port}"
        before = row["age_s"], row["reads"], row["read_bytes"]
        assert host.command(read_cdb(0, 16), data_in_bytes=16 * 512).status == GOOD
        row = api.get(f"/v1/sessions/{row['tsih']}")
        assert (row["age_s"] > before[0], row["reads"] - before[1], row["read_bytes"] - before[2]) == (True, 1, 8192)
        assert row["parameters"]["error_recovery_level"] == 0
        assert api.ask("DELETE", f"/v1/sessions/{row['tsih']}").status == 200
        deadline = time.monotonic() + LIMIT_S
        while any(other["tsih"] == row["tsih"] for other in api.get("/v1/sessions")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_drained_portal_sends_its_hosts_to_another_until_it_is_opened_again(
    api: ControlClient, served: Served
) -> None:
    add_disks(api, served.folder)
    portals, other = f"/v1/targets/{TARGET}/portals", free_port()
    assert api.ask("POST", f"/v1/targets/{TARGET}/luns", {"lun": 0, "virtual_device": "v-one"}).status == 201
    assert api.ask("POST", portals, {"portal": f"127.0.0.1:{other}"}).status == 201
    drain = f"{portals}/{part(f'127.0.0.1:{served.port}')}/drain"
    with Host(served.port, target=TARGET) as host:
        assert api.ask("POST", drain, {"drain": True}).document["draining"] is True
        with pytest.raises(HostLost):  # it is asked to log out, and does
            host.wait(lambda: False, LIMIT_S)
    listed = subprocess.run(
        ["iscsi-ls", f"iscsi://127.0.0.1:{served.port}"], capture_output=True, text=True, timeout=30, check=True
    )
    assert f":{other}" in listed.stdout
    assert f":{served.port}" not in listed.stdout
    inquiry = ["iscsi-inq", f"iscsi://127.0.0.1:{served.port}/{TARGET}/0"]
    subprocess.run(inquiry, capture_output=True, timeout=30, check=True)  # libiscsi goes where it is told to
    elsewhere = f"{portals}/{part(f'127.0.0.1:{other}')}/drain"
    assert api.ask("POST", elsewhere, {"drain": True}).document["draining"] is True
    refused = subprocess.run(inquiry, capture_output=True, text=True, timeout=30, check=False)
    assert "Service unavailable" in refused.stderr + refused.stdout
    assert api.ask("POST", drain, {"drain": False}).document["draining"] is False
    with Host(served.port, target=TARGET):
        pass
    portal = f"127.0.0.1:{served.port}"
    log = served.log()
    assert f"draining {portal}: sessions asked to log out within 30 s: 1" in log
    assert f"{portal} is drained: sessions that logged out: 1, that were dropped: 0" in log
    assert f"{portal} admits sessions again; of those before, still there: 0" in log


def test_who_does_not_log_out_of_a_drained_portal_is_dropped(api: ControlClient, served: Served) -> None:
    drain = f"/v1/targets/{TARGET}/portals/{part(f'127.0.0.1:{served.port}')}/drain"
    with Host(served.port, target=TARGET):  # it is not looking
        assert len(api.get("/v1/sessions")) == 1
        assert api.ask("POST", drain, {"drain": True, "within_s": 1}).status == 200
        deadline = time.monotonic() + LIMIT_S
        while api.get("/v1/sessions"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "is drained: sessions that logged out: 0, that were dropped: 1" in served.log()
    assert api.ask("POST", drain, {"drain": True, "within_s": 0}).status == 400


def test_a_portal_group_is_a_path_of_its_own_and_its_access_state_is_what_hosts_find(
    api: ControlClient, served: Served
) -> None:
    add_disks(api, served.folder)
    portals, second = f"/v1/targets/{TARGET}/portals", free_port()
    other = f"{portals}/{part(f'127.0.0.1:{second}')}"
    assert api.ask("POST", f"/v1/targets/{TARGET}/luns", {"lun": 0, "virtual_device": "v-one"}).status == 201
    assert api.ask("POST", portals, {"portal": f"127.0.0.1:{second}"}).status == 201
    assert api.ask("PUT", f"{other}/group", {"group": 2}).status == 200
    ready, port_of = bytes(6), bytes.fromhex("12018300ff00")  # the sessions have one ISID, and are at two target ports
    with Host(served.port, target=TARGET) as one, Host(second, target=TARGET) as two:
        assert one.command(port_of, data_in_bytes=255).data_in != two.command(port_of, data_in_bytes=255).data_in
        answer = api.ask("POST", f"{other}/access", {"access": "standby"})
        assert (answer.document["group"], answer.document["access"]) == (2, "standby")
        assert one.command(ready).status == 0
        assert sense_of(two.command(ready)) == (2, 0x04, 0x0B)
        assert api.ask("POST", f"{other}/access", {"access": "active_optimized"}).status == 200
        assert two.command(ready).status == 0
    assert api.ask("POST", f"{other}/access", {"access": "asleep"}).status == 400


# --- Who may ask ------------------------------------------------------------------------------------------------------

AS_SOMEBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]))
with socket.socket(socket.AF_UNIX) as asker:
    try:
        asker.connect(sys.argv[1])
    except PermissionError:
        print("not let in"); sys.exit()
    lines = [sys.argv[4] + " HTTP/1.1", "Host: x", "Content-Type: application/json",
             "Content-Length: %d" % len(sys.argv[5].encode()), "Connection: close", "", sys.argv[5]]
    asker.sendall("\\r\\n".join(lines).encode())
    answer = b""
    while part := asker.recv(65536):
        answer += part
print(answer.decode())
"""


def ask_as(path: Path, group: int, user: int, request: str, body: str = "") -> str:
    command = [sys.executable, "-I", "-c", AS_SOMEBODY, str(path), str(group), str(user), request, body]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can enter, which pytest's are not."""
    folder = Path("/tmp", f"annex-control-{os.getpid()}")
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_v33_nobody_else_opens_the_control_socket(open_folder: Path, tmp_path: Path) -> None:
    sockets = open_folder / "run"
    control = {"socket": str(sockets / "control.sock"), "read_only_socket": str(sockets / "read.sock"),
               "reader_groups": ["nogroup"]}  # fmt: skip
    with Served(tmp_path, config(tmp_path, free_port(), control=control)):
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o750
        assert stat.S_IMODE((sockets / "control.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE((sockets / "read.sock").stat().st_mode) == 0o660
        sockets.chmod(0o755)  # an admin's choice: the kernel is asked all the same
        (sockets / "control.sock").chmod(0o666)
        assert ask_as(sockets / "read.sock", NOBODY, NOBODY, "GET /v1/status").startswith("HTTP/1.1 200")
        assert "403" in ask_as(sockets / "read.sock", NOBODY, NOBODY, "POST /v1/pairs/1/split").splitlines()[0]
        for path in ("/v1/status", "/v1/config", "/v1/nothing"):
            refused = ask_as(sockets / "control.sock", NOBODY, NOBODY, f"GET {path}")
            assert refused.startswith("HTTP/1.1 403"), refused
            assert refused.endswith(ask_as(sockets / "control.sock", NOBODY, NOBODY, "GET /v1/x").split("\n\n")[1])
    assert not (sockets / "control.sock").exists()


def test_v39_who_may_not_change_anything_learns_nothing_about_files(open_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    control = {"socket": str(tmp_path / "control.sock"), "read_only_socket": str(open_folder / "read.sock"),
               "reader_groups": ["nogroup"]}  # fmt: skip
    with Served(tmp_path, config(tmp_path, free_port(), control=control)) as daemon:
        before = daemon.log()
        answers = {
            (lines[0], lines[-1])
            for path in (str(secret), str(tmp_path / "nothing"), "/dev/null", "/etc/shadow", "not even a path", "")
            for body in (json.dumps({"name": "probe", "path": path}),)
            for lines in (ask_as(open_folder / "read.sock", NOBODY, NOBODY, "POST /v1/devices", body).splitlines(),)
        }
        assert len(answers) == 1, "whatever path it is, and whether it is there"
        assert answers.pop()[0] == "HTTP/1.1 403 Forbidden"
        assert str(secret) not in daemon.log().removeprefix(before)


def test_secrets_are_shown_to_root_on_request_only(tmp_path: Path) -> None:
    discovery = {"chap": {"name": "d", "secret": SECRET}}
    with Served(tmp_path, config(tmp_path, free_port(), discovery=discovery)) as daemon:
        api = ControlClient(tmp_path / "control.sock")
        assert SECRET not in json.dumps(api.get("/v1/config"))
        assert SECRET in json.dumps(api.get("/v1/config?secrets=true"))
        assert SECRET not in daemon.log()


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True, timeout=LIMIT_S,
    )  # fmt: skip
    token = tmp_path / "token"
    token.write_text("0123456789abcdefghijklmnopqrstuvwxyzABCDEF\n")
    token.chmod(0o600)
    paths = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem"), "token_file": str(token)}
    return paths | {"listen": f"127.0.0.1:{free_port()}"}


def test_over_tls_only_the_bearer_of_the_token_is_answered(tmp_path: Path, tls: dict[str, Any]) -> None:
    control = {"socket": str(tmp_path / "control.sock"), "tcp": tls}
    context = ssl.create_default_context(cafile=tls["certificate"])

    def status(token: str) -> int:
        request = urllib.request.Request(f"https://{tls['listen']}/v1/status", headers={"Authorization": token})
        try:
            with urllib.request.urlopen(request, context=context, timeout=LIMIT_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    with Served(tmp_path, config(tmp_path, free_port(), control=control)):
        assert status("Bearer 0123456789abcdefghijklmnopqrstuvwxyzABCDEF") == 200
        assert status("Bearer 0123456789abcdefghijklmnopqrstuvwxyzABCDEG") == 401
        assert status("") == 401
        assert status("Bearer \xff\xfe") == 401
        host, port = tls["listen"].split(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT_S) as plain:
            plain.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not received(plain).startswith(b"HTTP")


@pytest.mark.parametrize("request_line", [b"NONSENSE", b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close"])
def test_a_stranger_at_the_tls_port_learns_no_versions(
    tmp_path: Path, tls: dict[str, Any], request_line: bytes
) -> None:
    host, port = tls["listen"].split(":")
    context = ssl.create_default_context(cafile=tls["certificate"])
    control = {"socket": str(tmp_path / "control.sock"), "tcp": tls}
    with (
        Served(tmp_path, config(tmp_path, free_port(), control=control)),
        socket.create_connection((host, int(port)), timeout=LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as stranger,
    ):
        stranger.sendall(request_line + b"\r\n\r\n")
        answer = b"".join(iter(lambda: stranger.recv(65536), b"")).lower()
    assert b"\r\nserver: annex\r\n" in answer
    assert b"aiohttp" not in answer
    assert b"python" not in answer


def test_a_tls_handshake_that_does_not_come_ends_the_connection(tmp_path: Path, tls: dict[str, Any]) -> None:
    host, port = tls["listen"].split(":")
    control = {"socket": str(tmp_path / "control.sock"), "tcp": tls}
    with (
        Served(tmp_path, config(tmp_path, free_port(), control=control)),
        socket.create_connection((host, int(port)), timeout=LIMIT_S) as silent,
    ):
        silent.settimeout(FIRST_REQUEST_LIMIT_S + 5)
        assert received(silent) == b""


def received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("token", ["changeme", "0" * 40, ""], ids=["default", "one character", "empty"])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, tls: dict[str, Any], token: str) -> None:
    Path(tls["token_file"]).write_text(token)
    daemon = Served(tmp_path, config(tmp_path, free_port(), control={"socket": str(tmp_path / "c.sock"), "tcp": tls}))
    with pytest.raises(RuntimeError, match="no token that is hard to guess"):
        daemon.start()


# --- What nobody should send ------------------------------------------------------------------------------------------


def test_v40_a_body_that_is_too_large_is_refused_before_it_is_read(api: ControlClient) -> None:
    answer = api.ask("PUT", "/v1/config", raw=b'{"version": 2, "x": "' + b"x" * (10 << 20) + b'"}')
    assert answer.status == 413
    assert api.get("/v1/status")["state"] == "serving"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"], ids=repr)
def test_a_body_that_is_no_such_document_is_refused(api: ControlClient, raw: bytes) -> None:
    assert api.ask("POST", "/v1/devices", raw=raw[:200_000]).status == 400
    assert api.ask("PUT", "/v1/config", raw=raw[:200_000]).status == 400


def test_another_content_type_is_refused(api: ControlClient) -> None:
    assert api.ask("POST", "/v1/devices", raw=b"<x/>", content_type="text/xml").status == 415


def test_v40_a_connection_that_asks_nothing_is_closed(api: ControlClient) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(LIMIT_S)
        silent.connect(str(api.path))
        silent.sendall(b"GET /v1/st")
        assert silent.recv(1) == b""


def test_another_daemon_does_not_take_the_socket_of_one_that_runs(api: ControlClient, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    daemon = Served(other, config(other, free_port(), control={"socket": str(api.path)}))
    with pytest.raises(RuntimeError, match="can not be listened on"):
        daemon.start()
    assert api.get("/v1/status")["state"] == "serving"


def test_the_place_of_the_socket_changes_while_it_runs(api: ControlClient, tmp_path: Path) -> None:
    moved = tmp_path / "moved.sock"
    assert api.ask("PUT", "/v1/control", {"socket": str(moved)}).status == 200
    assert ControlClient(moved).get("/v1/status")["state"] == "serving"
    assert not api.path.exists()
    refused = ControlClient(moved).ask("PUT", "/v1/control", {"socket": str(tmp_path / "one.img" / "sub.sock")})
    assert refused.status == 400
    assert ControlClient(moved).get("/v1/status")["state"] == "serving"
