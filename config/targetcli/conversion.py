"""A saveconfig.json of targetcli, taken over into a configuration of annex. Pure: no device is opened."""

from __future__ import annotations

import json

import msgspec

from config import checks, model
from config.errors import ConfigError
from config.targetcli import document
from config.targetcli.report import Report
from config.targetcli.storage import Stores
from config.targetcli.targets import Targets, chap_of, check_target

MAX_FILE_BYTES = 8 * 1024 * 1024


def convert(data: bytes, base: model.Config, place: str) -> tuple[model.Config, Report]:
    """Give `base` with the storage objects, targets and discovery secrets of a saveconfig.json, and what is different.

    Args:
        data: the content of the file.
        base: in force now; what is in it stays.
        place: begins the place of an error.

    Raises:
        ConfigError: it is no such file at all; or with it the configuration would not be valid.
    """
    saved = _decode(data, place)
    report = Report()
    stores = Stores(base, report)
    for number, value in enumerate(_items(saved, "storage_objects", place)):
        stores.add(f"storage_objects[{number}]", value)
    targets = Targets(base, stores, report)
    for number, value in enumerate(_items(saved, "targets", place)):
        targets.add(f"targets[{number}]", value)
    discovery = base.discovery
    for number, value in enumerate(_items(saved, "fabric_modules", place)):
        discovery = _discovery(f"fabric_modules[{number}]", value, discovery, report)
    for key in saved:
        if key not in {"storage_objects", "targets", "fabric_modules"}:
            report.leave_out("top level", f"unknown key {key!r:.80}")
    config = msgspec.structs.replace(
        base,
        devices=base.devices + stores.devices,
        virtual_devices=base.virtual_devices + stores.virtual_devices,
        targets=base.targets + targets.targets,
        discovery=discovery,
    )
    checks.check(config)
    return config, report


def _decode(data: bytes, place: str) -> dict[str, object]:
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(place, f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        saved = json.loads(data)
        json.dumps(saved, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}: line {error.lineno} column {error.colno}", f"not JSON: {error.msg}") from None
    except (ValueError, RecursionError):  # lone surrogates, nested too deep, numbers too long for Python
        raise ConfigError(place, "is not JSON in UTF-8") from None
    if not isinstance(saved, dict) or not ("storage_objects" in saved or "targets" in saved):
        raise ConfigError(
            place, "is not a saveconfig.json of targetcli", "it has 'storage_objects' and 'targets' at its top"
        )
    return saved


def _items(saved: dict[str, object], key: str, place: str) -> list[object]:
    items = saved.get(key, [])
    if not isinstance(items, list):
        raise ConfigError(f"{place}: {key}", "is not a list")
    return items


def _discovery(place: str, value: object, known: model.Discovery | None, report: Report) -> model.Discovery | None:
    try:
        part, _ = document.read(document.FabricModule, value)
        if part.name != "iscsi" or not part.discovery_enable_auth:
            return known
        place = "/iscsi/discovery_auth"
        if known is not None:
            report.leave_out(place, "annex asks for a secret in discovery already")
            return known
        chap = chap_of(part.discovery_userid, part.discovery_password)
        mutual = chap_of(part.discovery_mutual_userid, part.discovery_mutual_password)
        if chap is None:
            raise ConfigError(place, "asks for CHAP and has no secret")
        _check_chaps(place, chap, mutual)
    except ConfigError as error:
        report.leave_out(error.place or place, f"{error.problem}: discovery is open until you set its secret")
        return known
    return model.Discovery(chap=chap, mutual_chap=mutual)


def _check_chaps(place: str, chap: model.Chap, mutual: model.Chap | None) -> None:
    acl = model.Acl(initiator="iqn.2026-11.org.example:h", luns=[], chap=chap, mutual_chap=mutual)
    check_target(place, model.Target(name="iqn.2026-11.org.example:x", portals=["127.0.0.1"], luns=[], acls=[acl]))
