"""By whom a device, an array and a virtual device are used."""

from __future__ import annotations

from config.references import array_users, device_users, virtual_device_users
from tests.unit.config.test_changes import ACL, GROUP, configuration


def test_storage_is_used_by_the_virtual_devices_with_a_region_on_it() -> None:
    config = configuration()
    assert device_users(config, "d") == array_users(config, "old") == ["v"]
    assert device_users(config, "old") == array_users(config, "d") == []


def test_a_virtual_device_is_used_by_every_lun_that_shows_it() -> None:
    config = configuration()
    assert virtual_device_users(config, "v") == [f"{GROUP}/luns/0", f"{ACL}/luns/1"]
    assert virtual_device_users(config, "w") == []
