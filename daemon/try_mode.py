"""`annexd try`: a configuration made from the command line, for a first look and for tests.

Each `--local PATH` and `--array URL` becomes one virtual device, and they are LUN 0, 1, … of one target in the order
given. Only hosts on this machine are admitted, and they may send the array commands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from config import checks, model
from config.errors import ConfigError

TARGET_NAME = "iqn.2026-11.io.annex:try"
LOOPBACK_NETWORKS = ["127.0.0.0/8", "::1/128"]
DEFAULT_DISK_BYTES = 1 << 30

_ARRAY_URL = re.compile(
    r"iscsi://((?P<user>[^%@/]+)%(?P<secret>[^@/]+)@)?(?P<portal>[^/@]+)/(?P<target>[^/]+)/(?P<lun>\d{1,5})"
)


class Source(NamedTuple):
    """One `--local` or `--array` of the command line: `option` says which, `value` what was given to it."""

    option: str
    value: str


def configuration(
    portal: str, sources: list[Source], state_directory: Path, control: str | None = None
) -> model.Config:
    """Give the checked configuration that serves `sources` on `portal`.

    With `control` admins reach it at that Unix socket. Without sources it serves a sparse 1 GiB file in
    `state_directory`, which is made when it is not there.

    Raises:
        ConfigError: the portal, a path or a URL is not one; place is the option.
    """
    if not sources:
        sources = [Source("--local", str(_default_disk(state_directory)))]
    devices: list[model.Device] = []
    arrays: dict[str, model.Array] = {}
    virtual_devices: list[model.VirtualDevice] = []
    for source in sources:
        if source.option == "--local":
            device = _device(source.value)
            devices.append(device)
            region = model.Region(device=device.name)
        else:
            array, lun = _array(source.value)
            arrays[array.name] = array
            region = model.Region(array=array.name, lun=lun)
        virtual_devices.append(model.VirtualDevice(name=_source_name(region), regions=[region]))
    target = model.Target(
        name=TARGET_NAME,
        portals=[portal],
        luns=[
            model.Lun(lun=lun, virtual_device=virtual_device.name) for lun, virtual_device in enumerate(virtual_devices)
        ],
        anyone=model.Anyone(addresses=LOOPBACK_NETWORKS, array_control=True),
    )
    config = model.Config(
        version=model.VERSION,
        state_directory=str(state_directory),
        devices=devices,
        arrays=list(arrays.values()),
        virtual_devices=virtual_devices,
        targets=[target],
        control=model.Control(socket=os.path.abspath(control)) if control else None,  # noqa: PTH100 - not resolved
    )
    checks.check(config)
    return config


def _source_name(region: model.Region) -> str:
    return region.device or f"{region.array}:{region.lun}"


def _device(path: str) -> model.Device:
    real = os.path.realpath(path)
    # A name has no "/", and two paths never have one name: a path with another of these marks in it is spelt as bytes.
    plain = re.fullmatch(r"[A-Za-z0-9._@+/-]+", real)
    return model.Device(
        name=f"local{real.replace('/', ':')}"[:255] if plain else f"local:={real.encode().hex()}"[:255], path=real
    )


def _array(url: str) -> tuple[model.Array, int]:
    match = _ARRAY_URL.fullmatch(url)
    if not match:
        shown = re.sub(r"%[^@/]*@", "%…@", url)  # a secret in it never reaches a terminal or a log
        raise ConfigError("--array", f"{shown!r} is not a URL", "iscsi://[user%secret@]host[:port]/iqn/lun")
    chap = model.Chap(name=unquote(match["user"]), secret=match["secret"]) if match["user"] else None
    name = f"array:{match['portal'].strip('[]').replace(']', '')}:{match['target']}"
    return model.Array(name=name[:255], portal=match["portal"], target=match["target"], chap=chap), int(match["lun"])


def _default_disk(state_directory: Path) -> Path:
    disk = state_directory / "disk.img"
    if not disk.exists():
        with disk.open("xb") as file:
            file.truncate(DEFAULT_DISK_BYTES)
    return disk
