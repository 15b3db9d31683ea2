"""The Unix sockets of the control API have the right mode from their first moment (V33, CVE-2020-10699)."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import ConfigError
from daemon.control.sockets import listen_unix

UMASKS = [0o000, 0o022, 0o077]


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def modes_when_bound(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the mode that each socket has when it can first be found by its name."""
    modes: list[int] = []
    bind = socket.socket.bind

    def noted(self: socket.socket, address: str) -> None:
        bind(self, address)
        modes.append(mode(Path(address)))

    monkeypatch.setattr(socket.socket, "bind", noted)
    return modes


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def own_group() -> str:
    return grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize(("groups", "wanted"), [(list, 0o600), (lambda: [own_group()], 0o660)], ids=["owner", "group"])
def test_v33_a_socket_is_never_open_to_others_under_any_umask(
    tmp_path: Path, umask: int, modes_when_bound: list[int], groups: Callable[[], list[str]], wanted: int
) -> None:
    path = tmp_path / "run" / "control.sock"
    with listen_unix(path, groups()):
        assert modes_when_bound == [0o600]
        assert mode(path) == wanted
        assert mode(path.parent) == 0o750 & ~umask
        assert os.umask(umask) == umask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to any group")
def test_a_folder_that_is_made_lets_the_group_of_its_socket_in(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    group = grp.getgrnam("daemon")
    with listen_unix(path, [group.gr_name]):
        assert path.parent.stat().st_gid == path.stat().st_gid == group.gr_gid


def test_v33_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    listen_unix(tmp_path / "control.sock", []).close()
    assert mode(tmp_path) == 0o755


def test_v33_a_socket_for_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no group 'no-such-group'"):
        listen_unix(tmp_path / "control.sock", ["no-such-group"])


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="can not be listened on"):
        listen_unix(path, [])
    assert path.read_text() == "precious"
