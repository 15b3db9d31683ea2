"""Who may ask the control API, and what (V40): by what the kernel says of the asker, or by a token."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from typing import Any, cast

import pytest

from daemon.control.authorization import Right, peer_right, token_right

TOKEN = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
ADMINS, READERS, OTHERS = 4001, 4002, 4003
UID = 4000  # of nobody that there is
GROUP_IDS = {"admins": ADMINS, "readers": READERS}


class Peer:
    """A connected socket, of whose other end the kernel says this; `groups` None when there are too many."""

    def __init__(self, uid: int, gid: int, groups: list[int] | None) -> None:
        self._credentials = struct.pack("3i", 1, uid, gid)
        self._groups = groups

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        if option == socket.SO_PEERCRED:
            return self._credentials
        if self._groups is None:
            raise OSError(34, "too many")
        return struct.pack(f"{len(self._groups)}I", *self._groups)


@pytest.fixture(autouse=True)
def groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(name: str) -> Any:
        return grp.struct_group((name, "x", GROUP_IDS[name], []))

    monkeypatch.setattr(grp, "getgrnam", named)


def right(peer: Peer, readers: list[str] | None = None) -> Right:
    return peer_right(cast("socket.socket", peer), ["admins", "no-such-group"], readers)


@pytest.mark.parametrize(
    ("peer", "change", "read"),
    [
        (Peer(0, 0, []), Right.SECRETS, Right.READ),
        (Peer(os.geteuid(), OTHERS, []), Right.SECRETS, Right.READ),
        (Peer(UID, ADMINS, []), Right.CHANGE, Right.READ),
        (Peer(UID, OTHERS, [OTHERS, ADMINS]), Right.CHANGE, Right.READ),
        (Peer(UID, OTHERS, [READERS]), Right.NOTHING, Right.READ),
        (Peer(UID, OTHERS, [OTHERS]), Right.NOTHING, Right.NOTHING),
        (Peer(UID, 0, [0]), Right.NOTHING, Right.NOTHING),
    ],
    ids=["root", "annexd", "admin", "admin by a second group", "reader", "other", "other of root's group"],
)
def test_v40_each_socket_gives_the_rights_of_who_connected(peer: Peer, change: Right, read: Right) -> None:
    assert right(peer) is change
    assert right(peer, ["readers"]) is read


def test_the_user_database_is_asked_for_more_groups_than_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert right(Peer(UID, OTHERS, None)) is Right.NOTHING
    found = pwd.struct_passwd(("somebody", "x", UID, OTHERS, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: found)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, ADMINS])
    assert right(Peer(UID, OTHERS, None)) is Right.CHANGE


def test_a_real_socket_says_who_has_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_right(ours, [], None) is Right.SECRETS


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (f"Bearer {TOKEN}", Right.CHANGE),
        (f"bearer {TOKEN}", Right.CHANGE),
        (f"Basic {TOKEN}", Right.NOTHING),
        (TOKEN, Right.NOTHING),
        (f"Bearer {TOKEN}x", Right.NOTHING),
        (f"Bearer {TOKEN[:-1]}", Right.NOTHING),
        ("Bearer ", Right.NOTHING),
        ("", Right.NOTHING),
        ("Bearer \udcff\udcfe", Right.NOTHING),
        ("Bearer é", Right.NOTHING),
    ],
    ids=ascii,
)
def test_only_the_whole_token_of_a_bearer_counts(header: str, wanted: Right) -> None:
    assert token_right(header, TOKEN) is wanted
