"""Free ports of 127.0.0.1 for the servers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
