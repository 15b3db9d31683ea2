"""Parts of a configuration, named as the shell shows them, and one configuration with a part of another."""

from __future__ import annotations

from typing import Any

import msgspec

from config import model
from config.errors import ConfigError

# The first part of a path in the shell, and the field of the configuration.
FIELDS = {
    "devices": "devices", "arrays": "arrays", "vdevs": "virtual_devices", "iscsi": "targets",
    "discovery": "discovery", "control": "control", "metrics": "metrics",
}  # fmt: skip


def with_part(config: model.Config, saved: model.Config, part: str) -> model.Config:
    """Give `config` with a part as it is in `saved`.

    Args:
        config: stays as it is otherwise.
        saved: has the part.
        part: "devices", "/devices", "/devices/disk0", "/iscsi/iqn…", "/discovery" and so on.

    Raises:
        ConfigError: there is no such part, or not in `saved`.
    """
    group, _, name = part.strip("/").partition("/")
    if group not in FIELDS:
        raise ConfigError(f"part {part[:80]!r}", "is not one", f"/{', /'.join(FIELDS)}, or an entry of one")
    field = FIELDS[group]
    if not name:
        return msgspec.structs.replace(config, **{field: getattr(saved, field)})
    entries = getattr(saved, field)
    wanted = [entry for entry in entries if entry.name == name] if isinstance(entries, list) else []
    if not wanted:
        raise ConfigError(f"part {part[:250]!r}", "is not in the saved configuration")
    return msgspec.structs.replace(config, **{field: _with_entry(getattr(config, field), wanted[0])})


def _with_entry(entries: list[Any], wanted: Any) -> list[Any]:
    """Give the entries with one of them in the place of that of the same name, or at the end."""
    if all(entry.name != wanted.name for entry in entries):
        return [*entries, wanted]
    return [wanted if entry.name == wanted.name else entry for entry in entries]
