"""What of a configuration stands on what: by whom a device, an array or a virtual device is used."""

from __future__ import annotations

from config import model


def device_users(config: model.Config, name: str) -> list[str]:
    """Name the virtual devices with a region on a local device."""
    return [
        virtual_device.name
        for virtual_device in config.virtual_devices
        if any(region.device == name for region in virtual_device.regions)
    ]


def array_users(config: model.Config, name: str) -> list[str]:
    """Name the virtual devices with a region on an external array."""
    return [
        virtual_device.name
        for virtual_device in config.virtual_devices
        if any(region.array == name for region in virtual_device.regions)
    ]


def virtual_device_users(config: model.Config, name: str) -> list[str]:
    """Say by which LUNs a virtual device is shown, as paths of the shell."""
    users = []
    for target in config.targets:
        group = f"/iscsi/{target.name}/tpg1"
        users += [f"{group}/luns/{lun.lun}" for lun in target.luns if lun.virtual_device == name]
        users += [
            f"{group}/acls/{acl.initiator}/luns/{lun.lun}"
            for acl in target.acls
            for lun in acl.luns or []
            if lun.virtual_device == name
        ]
    return users
