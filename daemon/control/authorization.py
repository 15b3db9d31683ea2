"""Who asks, and what they may do.

On a Unix socket the kernel says whose process it was that connected (SO_PEERCRED, unix(7)); over TLS a bearer token
does. That is settled before anything else of a request is looked at, and whoever may do nothing learns nothing.
"""

from __future__ import annotations

import enum
import grp
import hmac
import os
import pwd
import socket
import struct
from collections.abc import Iterable

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Right(enum.IntEnum):
    """What an asker may do; each includes those before."""

    NOTHING = 0
    READ = 1
    CHANGE = 2
    SECRETS = 3  # see them


def peer_right(peer: socket.socket, admin_groups: Iterable[str], reader_groups: Iterable[str] | None) -> Right:
    """Say what the process at the other end of a Unix socket may do.

    Args:
        peer: the connected socket.
        admin_groups: names of groups that may change things.
        reader_groups: names of groups that may look, on the socket that is only for that; None on the other one.
    """
    _, uid, gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    right = _user_right(uid, gid, admin_groups, reader_groups or ())
    return right if reader_groups is None else min(right, Right.READ)


def token_right(header: str, token: str) -> Right:
    """Say what the bearer of an Authorization header may do: everything but see secrets, or nothing."""
    scheme, _, given = header.partition(" ")
    # In constant time, so that a token can not be found out a character at a time.
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return Right.CHANGE if same and scheme.lower() == "bearer" else Right.NOTHING


def group_id(name: str) -> int | None:
    """Give the number of a group, None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _user_right(uid: int, gid: int, admin_groups: Iterable[str], reader_groups: Iterable[str]) -> Right:
    if uid in {0, os.geteuid()}:
        return Right.SECRETS
    groups = _groups(uid, gid)
    for names, right in ((admin_groups, Right.CHANGE), (reader_groups, Right.READ)):
        if any(group_id(name) in groups for name in names):
            return right
    return Right.NOTHING


def _groups(uid: int, gid: int) -> set[int]:
    """Give the groups of a user by the user database; a process may have dropped some, and has gained none by that."""
    try:
        return {gid, *os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)}
    except KeyError:
        return {gid}
