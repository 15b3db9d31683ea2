"""The sockets of the control API: Unix sockets with the right mode from their first moment, and TLS."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
from collections.abc import Sequence
from pathlib import Path

from config import files, model
from config.errors import ConfigError, ListenError
from daemon.control.authorization import group_id

_TOKEN = re.compile(r"[!-~]{32,512}")
_WEAK = 16  # a token with fewer different characters is no random one
MAX_TOKEN_FILE_BYTES = 4096


def listen_unix(path: Path, groups: Sequence[str]) -> socket.socket:
    """Listen on a Unix socket that only its owner can open (0600), or its owner and the group of `groups` (0660).

    Its folder is made with mode 0750, and of the same group, when it is not there, and otherwise left as it is.

    Raises:
        ConfigError: that can not be.
    """
    place = f"control socket {path}"
    try:
        _make_folder(path.parent, groups)
        _remove_stale(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise ConfigError(place, f"can not be made: {error.strerror}") from None
    try:
        before = os.umask(0o177)  # 0600 before anybody can connect; one thread binds, and no other makes files then
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        for name in groups[:1]:
            group = group_id(name)
            if group is None:
                raise ConfigError(place, f"there is no group {name!r}", f"groupadd --system {name}")
            os.chown(path, -1, group)
            path.chmod(0o660)
        made.listen(64)
    except (OSError, ConfigError) as error:
        made.close()
        if isinstance(error, ConfigError):
            raise
        raise ListenError(place, f"can not be listened on: {error.strerror}") from None
    return made


def _make_folder(folder: Path, groups: Sequence[str]) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True)
    except FileExistsError:
        return
    group = group_id(groups[0]) if groups else None
    if group is not None:  # else those whom the socket lets in would not get as far
        os.chown(folder, -1, group)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is gone; anything else that has this name stays, and is an error later."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return


def tls_context(config: model.ControlTcp) -> ssl.SSLContext:
    """Give the TLS side of the listener.

    Raises:
        ConfigError: the certificate or its key can not be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ConfigError("control.tcp", f"certificate or key can not be used: {reason}") from None
    return context


def read_token(config: model.ControlTcp) -> str:
    """Give the token that a bearer must have.

    Raises:
        ConfigError: it can not be read, others may read it, or it could be guessed.
    """
    path = Path(config.token_file)
    data, status = files.read(path, MAX_TOKEN_FILE_BYTES)
    mode = stat.S_IMODE(status.st_mode)
    token = data.decode("ascii", "replace").strip()
    if mode & 0o077:
        raise ConfigError(str(path), f"holds a secret and has mode {mode:04o}", f"chmod 600 {path}")
    if not _TOKEN.fullmatch(token) or len(set(token)) < _WEAK:
        raise ConfigError(str(path), "holds no token that is hard to guess", "openssl rand -base64 32")
    return token
