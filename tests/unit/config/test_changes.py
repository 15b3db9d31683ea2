"""What differs between two configurations, in which order, and in which words."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from config import checks, model
from config.changes import Change, difference

TARGET = "iqn.2026-11.org.example:annex"
HOST = "iqn.2026-11.org.example:host"
GROUP = f"/iscsi/{TARGET}/tpg1"
ACL = f"{GROUP}/acls/{HOST}"
SECRETS = ("the first secret", "the second secret", "the third secret", "the fourth secret")


def configuration() -> model.Config:
    return model.Config(
        version=2,
        state_directory="/state",
        devices=[model.Device(name="d", path="/d")],
        arrays=[
            model.Array(
                name="old",
                portal="192.0.2.7",
                target="iqn.2019-04.org.example:array",
                chap=model.Chap(name="annex", secret=SECRETS[0]),
            )
        ],
        virtual_devices=[
            model.VirtualDevice(name="v", regions=[model.Region(device="d"), model.Region(array="old", lun=3)])
        ],
        targets=[
            model.Target(
                name=TARGET,
                portals=["192.0.2.1", "[2001:db8::1]:3261"],
                luns=[model.Lun(lun=0, virtual_device="v")],
                acls=[
                    model.Acl(
                        initiator=HOST,
                        luns=[model.Lun(lun=1, virtual_device="v", read_only=True)],
                        chap=model.Chap(name="host", secret=SECRETS[1]),
                    )
                ],
                anyone=model.Anyone(addresses=["127.0.0.1"]),
            )
        ],
        discovery=model.Discovery(chap=model.Chap(name="disco", secret=SECRETS[2])),
        control=model.Control(),
        metrics=model.Metrics(listen="127.0.0.1:9100"),
    )


EMPTY = model.Config(version=2, state_directory="/state")
BOTTOM_UP = [
    "/devices/d",
    "/arrays/old",
    "/vdevs/v",
    f"/iscsi/{TARGET}",
    f"{GROUP}/portals/192.0.2.1:3260",
    f"{GROUP}/portals/[2001:db8::1]:3261",
    f"{GROUP}/luns/0",
    ACL,
    f"{ACL}/luns/1",
    f"{GROUP}/anyone",
    "/discovery",
    "/control",
    "/metrics",
]


def edited(edit: Callable[[model.Config], object]) -> list[Change]:
    config = configuration()
    checks.check(config)
    wanted = msgspec.convert(msgspec.to_builtins(config), model.Config)
    edit(wanted)
    return difference(config, wanted)


def test_what_is_the_same_differs_in_nothing() -> None:
    assert edited(lambda _: None) == []


def test_everything_comes_from_the_storage_up_to_the_hosts() -> None:
    made = difference(EMPTY, configuration())
    assert [(change.action, change.path) for change in made] == [("create", path) for path in BOTTOM_UP]


def test_everything_goes_from_the_hosts_down_to_the_storage() -> None:
    made = difference(configuration(), EMPTY)
    assert [(change.action, change.path) for change in made] == [("delete", path) for path in reversed(BOTTOM_UP)]


def test_what_comes_is_before_what_goes() -> None:
    def edit(config: model.Config) -> None:
        config.devices.append(model.Device(name="e", path="/e"))
        config.virtual_devices.append(model.VirtualDevice(name="w", regions=[model.Region(device="e")]))
        config.targets[0].luns = [model.Lun(lun=7, virtual_device="w")]

    assert [(change.action, change.path) for change in edited(edit)] == [
        ("create", "/devices/e"),
        ("create", "/vdevs/w"),
        ("create", f"{GROUP}/luns/7"),
        ("delete", f"{GROUP}/luns/0"),
    ]


def set_of(path: str, name: str, value: object) -> Callable[[model.Config], None]:
    def edit(config: model.Config) -> None:
        entry = config
        for step in path.split("."):
            entry = entry[int(step)] if step.isdigit() else getattr(entry, step)  # type: ignore[index]  # of any struct
        setattr(entry, name, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "path", "detail"),
    [
        (set_of("devices.0", "path", "/e"), "/devices/d", "path /d → /e"),
        (set_of("arrays.0", "portal", "192.0.2.8"), "/arrays/old", "portal 192.0.2.7 → 192.0.2.8"),
        (set_of("arrays.0", "data_digest", True), "/arrays/old", "data_digest no → yes"),
        (set_of("arrays.0.chap", "secret", SECRETS[3]), "/arrays/old", "chap changed"),
        (set_of("virtual_devices.0.regions.0", "blocks", 8), "/vdevs/v",
         "regions d from 0, all blocks + old/3 from 0, all blocks → d from 0, 8 blocks + old/3 from 0, all blocks"),
        (set_of("targets.0.luns.0", "max_iops", 100), f"{GROUP}/luns/0", "max_iops none → 100"),
        (set_of("targets.0.acls.0", "chap", None), ACL, "chap as 'host' → none"),
        (set_of("targets.0.acls.0", "addresses", ["192.0.2.0/24", "::1"]), ACL, "addresses none → 192.0.2.0/24 + ::1"),
        (set_of("targets.0.acls.0.luns.0", "read_only", False), f"{ACL}/luns/1", "read_only yes → no"),
        (set_of("targets.0.anyone", "read_only", True), f"{GROUP}/anyone", "read_only no → yes"),
        (set_of("discovery.chap", "name", "d2"), "/discovery", "chap as 'disco' → as 'd2'"),
        (set_of("control", "socket", "/run/c"), "/control", "socket /run/annex/control.sock → /run/c"),
        (set_of("metrics", "listen", "[::1]:1"), "/metrics", "listen 127.0.0.1:9100 → [::1]:1"),
    ],
)  # fmt: skip
def test_what_becomes_another_is_told_with_both_values(
    edit: Callable[[model.Config], None], path: str, detail: str
) -> None:
    assert edited(edit) == [Change("modify", path, detail)]


def test_a_host_that_loses_its_own_luns_is_told_as_that() -> None:
    made = edited(set_of("targets.0.acls.0", "luns", None))
    assert made == [Change("modify", ACL, "own LUNs yes → none"), Change("delete", f"{ACL}/luns/1", "")]


def test_another_order_is_no_difference() -> None:
    assert edited(lambda config: config.targets[0].portals.reverse()) == []


def test_no_secret_is_in_the_words() -> None:
    text = "".join(map(str, difference(EMPTY, configuration())))
    text += "".join(map(str, edited(set_of("discovery.chap", "secret", SECRETS[3]))))
    assert not any(secret in text for secret in SECRETS)
