"""Sockets that the service manager listens on for annexd: the portals of annexd.socket.

systemd opens them before annexd starts and keeps them while it is restarted, so hosts wait meanwhile and are not
refused. A portal whose address is that of such a socket listens on it; any other opens its own.

Spec: sd_listen_fds(3).
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator

from config import model
from config.errors import ConfigError

FIRST_DESCRIPTOR = 3

Address = tuple[str, int]


class InheritedSockets:
    """The sockets, by the address that each listens on; they stay open when a portal is closed."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets = {_canonical(inherited.getsockname()): inherited for inherited in sockets}

    def take(self, address: Address) -> socket.socket | None:
        """Give the socket that listens on an address, to be closed when it is done with; None when there is none."""
        inherited = self._sockets.get(_canonical(address))
        return inherited.dup() if inherited is not None else None

    def close(self) -> None:
        """Give them up."""
        for inherited in self._sockets.values():
            inherited.close()

    def unmatched(self, addresses: Iterable[Address]) -> Iterator[str]:
        """Say of each socket that none of these portals is, why it is not used."""
        known = {_canonical(address) for address in addresses}
        for host, port in self._sockets.keys() - known:
            yield (
                f"annexd.socket listens on {model.join_portal(host, port)}, which is the portal of no target: nobody "
                "who connects there is answered (add the portal to a target, or take ListenStream= out of the unit)"
            )


def from_environment() -> InheritedSockets:
    """Take over the sockets that $LISTEN_FDS announces to this process, and hide them from its children.

    Raises:
        ConfigError: one is not a TCP socket that listens.
    """
    count, process = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return InheritedSockets()
    return InheritedSockets([_listening(FIRST_DESCRIPTOR + index) for index in range(int(count))])


def _listening(descriptor: int) -> socket.socket:
    place = f"descriptor {descriptor} of $LISTEN_FDS"
    try:
        # A descriptor that this process opened itself is closed when it is executed anew; so must these be.
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(place, f"is not a socket: {error.strerror}", "annexd.socket") from None
    is_tcp = inherited.family in {socket.AF_INET, socket.AF_INET6} and inherited.type == socket.SOCK_STREAM
    if not is_tcp or not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        inherited.detach()
        raise ConfigError(place, "is not a TCP socket that listens", "ListenStream=ADDRESS:PORT in annexd.socket")
    return inherited


def _canonical(address: tuple[object, ...]) -> Address:
    """Give host and port with the host in the one spelling that is compared; a name equals no address."""
    host, port = str(address[0]), int(str(address[1]))
    try:
        return ipaddress.ip_address(host).compressed, port
    except ValueError:
        return host, port
