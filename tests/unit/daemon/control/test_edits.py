"""Changes of the configuration by the control API's paths, and what of it is shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from config import model
from config.errors import ConfigError
from daemon.control import edits
from daemon.control.errors import ExistsError, UnknownError

TARGET, HOST = "iqn.2026-11.org.example:target", "iqn.1993-08.org.debian:01:host"
SECRET = "twelve-bytes-or-more"
ACL = ("targets", TARGET, "acls", HOST)


@pytest.fixture
def config() -> model.Config:
    document = {
        "version": 2,
        "state_directory": "/var/lib/annex",
        "devices": [{"name": "disk", "path": "/dev/sdb"}],
        "targets": [
            {
                "name": TARGET,
                "portals": ["192.0.2.1", "[2001:db8::1]:3261"],
                "luns": [{"lun": 0, "virtual_device": "data"}],
                "acls": [
                    {"initiator": HOST, "chap": {"name": "host", "secret": SECRET},
                     "luns": [{"lun": 0, "virtual_device": "data"}]}
                ],
            }
        ],
        "discovery": {"chap": {"name": "d", "secret": SECRET}},
    }  # fmt: skip
    return msgspec.convert(document, model.Config)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("devices", "none"), "/devices/none"),
        (("targets", "none", "luns", "0"), "/iscsi/none"),
        (("targets", TARGET, "luns", "1"), f"/iscsi/{TARGET}/tpg1/luns/1"),
        (("targets", TARGET, "luns", "00"), f"/iscsi/{TARGET}/tpg1/luns/00"),
        ((*ACL, "luns", "7"), f"/iscsi/{TARGET}/tpg1/acls/{HOST}/luns/7"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named_by_the_shells_path(config: model.Config, place: Any, words: str) -> None:
    for change in (edits.find, edits.remove):
        with pytest.raises(UnknownError) as unknown:
            change(config, place)
        assert unknown.value.place == words


def test_an_entry_is_added_once(config: model.Config) -> None:
    edits.add(config, (*ACL, "luns"), model.Lun(lun=1, virtual_device="more"))
    assert [lun.lun for lun in edits.find(config, ACL).luns] == [0, 1]
    with pytest.raises(ExistsError):
        edits.add(config, (*ACL, "luns"), model.Lun(lun=1, virtual_device="other"))


@pytest.mark.parametrize("portal", ["192.0.2.1", "192.0.2.1:3260"])
def test_a_portal_is_the_same_with_and_without_the_default_port(config: model.Config, portal: str) -> None:
    with pytest.raises(ExistsError):
        edits.add(config, ("targets", TARGET, "portals"), edits.Portal(portal))
    edits.remove(config, ("targets", TARGET, "portals", portal))
    assert config.targets[0].portals == ["[2001:db8::1]:3261"]


def test_a_removed_entry_takes_what_is_in_it_along_and_no_other(config: model.Config) -> None:
    edits.remove(config, ACL)
    assert config.targets[0].acls == []
    assert len(config.targets[0].luns) == 1


def test_a_portal_is_put_into_a_group_and_taken_out_with_it(config: model.Config) -> None:
    target = config.targets[0]
    place = ["targets", target.name, "portals", target.portals[0]]
    edits.put_portal_group(config, place, 3)
    assert target.portal_groups == {target.portals[0]: 3}
    assert model.portal_group_tag(target, model.split_portal(target.portals[0])) == 3
    edits.put_portal_group(config, place, 1)
    assert target.portal_groups == {}
    edits.put_portal_group(config, place, 3)
    edits.remove(config, place)
    assert target.portal_groups == {}


def test_a_patch_changes_the_fields_it_names(config: model.Config) -> None:
    place = (*ACL, "luns", "0")
    edits.patch(config, place, {"read_only": True})
    assert edits.find(config, place) == model.Lun(lun=0, virtual_device="data", read_only=True)
    edits.patch(config, place, {"read_only": None})
    assert edits.find(config, place).read_only is False


@pytest.mark.parametrize(
    ("fields", "place"),
    [({"lun": 3}, "lun"), ({"no_such_field": 1}, "body"), ({"read_only": "yes"}, "read_only")],
    ids=["the name", "no field", "wrong type"],
)
def test_a_patch_that_can_not_be_is_refused_and_changes_nothing(
    config: model.Config, fields: dict[str, Any], place: str
) -> None:
    before = msgspec.to_builtins(config)
    with pytest.raises(ConfigError) as refused:
        edits.patch(config, (*ACL, "luns", "0"), fields)
    assert refused.value.place == place
    assert msgspec.to_builtins(config) == before


def test_a_patch_of_chap_without_a_secret_keeps_the_one_that_there_is(config: model.Config) -> None:
    edits.patch(config, ACL, {"chap": {"name": "other", "secret_set": True}})
    chap = edits.find(config, ACL).chap
    assert (chap.name, chap.secret) == ("other", SECRET)


def test_a_section_is_set_and_removed(config: model.Config) -> None:
    edits.put_section(config, ("metrics",), model.Metrics(listen="127.0.0.1:9100"))
    assert config.metrics is not None
    edits.put_section(config, ("metrics",), None)
    with pytest.raises(UnknownError):
        edits.put_section(config, ("metrics",), None)
    with pytest.raises(UnknownError):
        edits.put_section(config, ("targets", "none", "anyone"), model.Anyone(addresses=["192.0.2.0/24"]))


def test_no_secret_is_shown(config: model.Config) -> None:
    shown = edits.redacted(config)
    assert SECRET not in str(shown)
    assert shown["targets"][0]["acls"][0]["chap"] == {"name": "host", "credential": None, "secret_set": True}
    assert shown["discovery"]["chap"]["secret_set"] is True
