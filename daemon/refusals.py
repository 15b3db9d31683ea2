"""Which changes of the configuration are refused because of what they would take away from somebody."""

from __future__ import annotations

from backends.state_directory import StateError
from config import model, references
from config.errors import ConfigError, InUseError
from daemon.assembly import Assembly
from daemon.external_units import check_ids
from daemon.region_rows import region_rows


def check_references(old: model.Config, new: model.Config) -> None:
    """Check that nothing goes, or lies elsewhere, that something else in the wanted configuration stands on.

    Raises:
        InUseError: it does; the problem names what stands on it.
        ConfigError: a change that needs a restart, or that can not be.
    """
    if old.state_directory != new.state_directory:
        raise ConfigError("state_directory", "can not be changed while annexd runs", "restart it")
    paths = {device.name: device.path for device in new.devices}
    for device in old.devices:
        users = references.device_users(new, device.name)
        if users and paths.get(device.name) != device.path:
            raise InUseError(f"device {device.name!r}", f"is part of virtual device {', '.join(users)}")
    arrays = {array.name for array in new.arrays}
    for array in old.arrays:
        users = references.array_users(new, array.name)
        if users and array.name not in arrays:
            raise InUseError(f"array {array.name!r}", f"is part of virtual device {', '.join(users)}")
    virtual_devices = {virtual_device.name for virtual_device in new.virtual_devices}
    for virtual_device in old.virtual_devices:
        users = references.virtual_device_users(new, virtual_device.name)
        if users and virtual_device.name not in virtual_devices:
            raise InUseError(f"virtual device {virtual_device.name!r}", f"is shown as {', '.join(users)}")


def check_alive(old: model.Config, new: model.Config, assembly: Assembly) -> None:
    """Check that nothing goes that is at work, and that every virtual device keeps its regions and its id.

    Raises:
        InUseError: a pair or an acquisition has it; the problem names that.
        ConfigError: a virtual device is made of other regions than before, or has another id, or that of another.
    """
    names = {virtual_device.name for virtual_device in new.virtual_devices}
    for virtual_device in old.virtual_devices:
        if virtual_device.name not in names:
            _check_idle(assembly, virtual_device.name)
    served = {virtual_device.name: virtual_device for virtual_device in old.virtual_devices}
    for virtual_device in new.virtual_devices:
        if virtual_device != served.get(virtual_device.name):
            _check_identity(assembly, virtual_device, new)


def _check_identity(assembly: Assembly, virtual_device: model.VirtualDevice, config: model.Config) -> None:
    name, naa = virtual_device.name, virtual_device.naa or ""
    place = f"virtual device {name!r}"
    try:
        assembly.table.check(name, region_rows(config, virtual_device), naa)
    except StateError as error:
        remedy = error.remedy if name in assembly.virtual_devices else f"{error.remedy}; see annexcli /vdevs orphans"
        raise ConfigError(place, error.problem, remedy) from None
    row = assembly.table.by_name(name)
    if name not in assembly.virtual_devices:
        pair = assembly.pairs.pair_of(row.naa_bytes if row is not None else bytes.fromhex(naa))
        if pair is not None:
            raise InUseError(place, f"belongs to pair {pair.number}, which was started without it", "restart annexd")
    else:
        check_ids(assembly, virtual_device, config)


def _check_idle(assembly: Assembly, name: str) -> None:
    device = assembly.virtual_devices[name]
    place = f"virtual device {name!r}"
    pair = assembly.pairs.pair_of(device.naa)
    if pair is not None:
        raise InUseError(place, f"is in pair {pair.number}", "delete the pair first")
    if assembly.pairs.forming:
        raise InUseError(place, "a pair is being formed or ended just now", "try again")
    for acquisition in assembly.acquisitions.all():
        subject = acquisition.subject
        if device is subject.device or device.naa == subject.vdev_naa:
            raise InUseError(place, f"is being read by acquisition {subject.identifier} of {subject.host}")
