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
from collections.abc import Callable, Iterable

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_MOST_GROUPS_BYTES = 1024  # Python reads no longer option


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
    right = user_right(uid, lambda: _groups(peer, uid, gid), admin_groups, reader_groups or ())
    return right if reader_groups is None else min(right, Right.READ)


def token_right(header: str, token: str) -> Right:
    """Say what the bearer of an Authorization header may do: everything but see secrets, or nothing."""
    scheme, _, given = header.partition(" ")
    # In constant time, so that a token can not be found out a character at a time.
    # A header may hold any bytes; aiohttp decodes those that are no UTF-8 to surrogates.
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return Right.CHANGE if same and scheme.lower() == "bearer" else Right.NOTHING


def group_id(name: str) -> int | None:
    """Give the number of a group, None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def user_right(
    uid: int, groups_of: Callable[[], set[int]], admin_groups: Iterable[str], reader_groups: Iterable[str]
) -> Right:
    """Say what a process of this user may do.

    Args:
        uid: its effective one.
        groups_of: gives its groups; asked only when they matter.
        admin_groups: names of those that may change things.
        reader_groups: names of those that may look.
    """
    if uid in {0, os.geteuid()}:
        return Right.SECRETS
    groups = groups_of()
    for names, right in ((admin_groups, Right.CHANGE), (reader_groups, Right.READ)):
        if any(group_id(name) in groups for name in names):
            return right
    return Right.NOTHING


def _groups(peer: socket.socket, uid: int, gid: int) -> set[int]:
    """Give the groups of the process that connected.

    The kernel knows them (SO_PEERGROUPS); the user database does not know those that systemd or newgrp gave a process,
    and may be on a machine that does not answer. It is asked for a process with more groups than Python can read.
    """
    try:
        own = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS_BYTES)
        return {gid, *(group for (group,) in struct.iter_unpack("I", own))}
    except OSError:
        return {gid, *_groups_by_database(uid, gid)}


def _groups_by_database(uid: int, gid: int) -> set[int]:
    try:
        return set(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return set()
