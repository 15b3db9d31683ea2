"""annexcli on a terminal, which is a pty: completion, questions, colours, and what is kept of what was typed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.annexd import ROOT
from tests.support.fake_api import FakeApi

pytestmark = pytest.mark.slow
LIMIT_S = 20.0
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Person:
    """Somebody who types, and waits for what is shown."""

    def __init__(self, api: FakeApi, home: Path, *words: str) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {"HOME": str(home), "TERM": "xterm", "XDG_STATE_HOME": "", "COLUMNS": "100"}
        command = [str(ROOT / "bin" / "annexcli"), "--socket", str(api.path), *words]
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.raw = ""

    def sees(self, text: str) -> str:
        """Wait for a text; give all up to it, and begin anew after it."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self._plain():
            remaining = deadline - time.monotonic()
            ready = remaining > 0 and select.select([self._master], [], [], remaining)[0]
            assert ready, f"no {text!r} in {self.raw!r}"
            try:
                self.raw += os.read(self._master, 65536).decode()
            except OSError:
                raise AssertionError(f"it ended without {text!r}: {self.raw!r}") from None
        seen, self.raw = self.raw, ""
        return seen

    def _plain(self) -> str:
        return _ESCAPE.sub("", self.raw)

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupts(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def waits(self) -> int:
        return self._process.wait(LIMIT_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path) as fake:
        fake.state["devices"] = [
            {"name": "disk-first", "path": "/dev/sdb", "state": "ready", "fault": None},
            {"name": "other", "path": "/dev/sdc", "state": "ready", "fault": None},
        ]
        yield fake


@pytest.fixture
def person(api: FakeApi, tmp_path: Path) -> Iterator[Person]:
    someone = Person(api, tmp_path / "home")
    try:
        someone.sees("/> ")
        yield someone
    finally:
        someone.close()


def test_tab_completes_nodes_commands_and_what_the_daemon_has(person: Person, api: FakeApi) -> None:
    person.types("/dev\t del\tdisk\t\n")
    person.sees("[y/N] ")
    person.types("y\n")
    person.sees("deleted /devices/disk-first")
    assert [row["name"] for row in api.state["devices"]] == ["other"]


def test_what_was_added_meanwhile_is_completed_as_well(person: Person, api: FakeApi) -> None:
    api.state["devices"].append({"name": "new-one", "path": "/dev/sdd"})
    person.types("/devices delete new\t --yes\n")
    person.sees("deleted /devices/new-one")


def test_pairs_for_a_group_are_completed_one_after_the_other(person: Person, api: FakeApi) -> None:
    api.state["pairs"] = [{"number": number} for number in (11, 12, 23)]
    api.state["groups"] = [{"name": "db", "pairs": [12]}]
    person.types("/groups create g 1\t2\tsuspend=alone\n")
    person.sees("created /groups/g")
    assert api.requests[-1][2] == {"name": "g", "pairs": [11, 23], "suspend": "alone"}


def test_a_file_is_completed(person: Person, api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "image-file").touch()
    person.types(f"/devices create image {tmp_path}/ima\t\n")
    person.sees("created /devices/image")
    assert api.state["devices"][-1]["path"] == f"{tmp_path}/image-file"


def test_no_is_the_answer_when_nothing_is_said(person: Person, api: FakeApi) -> None:
    person.types("/devices delete other\n")
    person.sees("Give device other back? [y/N] ")
    person.types("\n")
    person.sees("nothing was changed")
    assert api.requests == []


def test_an_error_leaves_the_shell_where_it_is(person: Person) -> None:
    person.types("cd /devices\n")
    person.sees("/devices> ")
    person.types("frob\n")
    assert "\x1b[31m" in person.sees("/devices> ")
    person.types("pwd\nexit\n")
    person.sees("/devices")
    assert person.waits() == 0


def test_a_daemon_that_went_away_is_said_and_the_shell_stays(person: Person, api: FakeApi) -> None:
    moved = api.path.rename(api.path.with_name("moved"))
    person.types("ls\n")
    person.sees("is not running")
    moved.rename(api.path)
    person.types("ls /devices\n")
    person.sees("disk-first")


def test_ctrl_c_ends_watch_and_not_the_shell(person: Person, api: FakeApi) -> None:
    api.answers["GET", "/v1/statistics"] = [{"lus": {"v0": {"reads": 1}}}]
    person.types("watch lus interval=0.05\n")
    person.sees("read IOPS")
    person.interrupts()
    person.sees("/> ")
    person.types("exit\n")
    assert person.waits() == 0


def test_ctrl_d_ends_the_shell(person: Person) -> None:
    person.types("\x04")
    assert person.waits() == 0


def test_the_history_is_private_and_has_no_secret(person: Person, tmp_path: Path) -> None:
    person.types("/discovery set userid=u password=canary-secret\n")
    person.sees("/> ")
    person.types("pwd\n")
    person.sees("/> ")
    person.types("exit\n")
    assert person.waits() == 0
    history = tmp_path / "home" / ".local" / "state" / "annex" / "annexcli-history"
    assert "pwd" in history.read_text()
    assert "canary" not in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_home_that_can_not_be_written_is_no_trouble(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, where a folder should be")
    someone = Person(api, tmp_path / "home")
    try:
        someone.sees("/> ")
        someone.types("exit\n")
        assert someone.waits() == 0
    finally:
        someone.close()


def test_a_copy_has_a_bar(api: FakeApi, tmp_path: Path) -> None:
    running = {"id": 3, "kind": "copy", "subject": "/pairs/1", "state": "running", "done_blocks": 5, "total_blocks": 10}
    api.answers["POST", "/v1/pairs"] = [{"job": running}]
    api.answers["GET", "/v1/jobs/3"] = [running, running | {"state": "done", "done_blocks": 10}]
    someone = Person(api, tmp_path / "home", "/pairs", "create", "a", "b", "--wait")
    try:
        assert "50%" in someone.sees("formed pair")
        assert someone.waits() == 0
    finally:
        someone.close()
