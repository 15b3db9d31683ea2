"""Files that are old or new, whole, at every moment: also when the disk is full or the power fails.

The new one is written beside the old one, made stable, and renamed over it; then the folder is made stable. Copying
over the old file instead has cost others its mode (CVE-2020-13867), and writing without making it stable all of its
content (rtslib b625f61: a file of zero bytes after a power loss).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from config.errors import ConfigError

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def read(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Give the content of a regular file, and its status.

    Raises:
        ConfigError: it can not be read, is something else (never waited for: a FIFO), or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(str(path), "is not a regular file")
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(str(path), f"can not be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(str(path), f"can not be read: {error}") from None
    if len(data) > max_bytes:
        raise ConfigError(str(path), f"is larger than {max_bytes} bytes")
    return data, status


def real(path: Path) -> Path:
    """Give what a path stands for, all symbolic links followed; a link that leads to itself is given as it is."""
    return Path(os.path.realpath(path))  # Path.resolve raises for such a link


def replace(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, with mode 0600.

    A symbolic link stays one: what it points to is replaced. The owner stays the same when root replaces a file.

    Raises:
        OSError: it can not be; then the old content is still there and no other file. Only when the folder can not be
            made stable (EIO), the new content is there.
    """
    path = real(path)
    old = _status(path)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise FileExistsError(errno.EEXIST, "it is not a regular file")
    new = path.with_name(f".{path.name}.new")  # one name: what a crash leaves is gone with the next save
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _write(new, data, old)
        new.replace(path)
        os.fsync(folder)
    finally:
        os.close(folder)
        new.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a folder with mode 0700; one that is there keeps its mode, which may be meant (targetcli b8eb193).

    Raises:
        OSError: it can not be made.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=DIRECTORY_MODE)
        path.chmod(DIRECTORY_MODE)  # whatever the umask took away


def _write(new: Path, data: bytes, old: os.stat_result | None) -> None:
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, FILE_MODE)  # whatever the umask took away
        if old is not None and os.geteuid() == 0:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
