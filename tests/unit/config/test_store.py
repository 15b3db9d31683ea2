"""The configuration file: what is accepted, and the one line that each bad one gets."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from config import store
from config.errors import ConfigError

GOOD: dict[str, Any] = {
    "version": 2,
    "state_directory": "/var/lib/annex",
    "devices": [{"name": "disk0", "path": "/dev/loop0"}],
    "arrays": [{"name": "old", "portal": "127.0.0.1:3261", "target": "iqn.2026-11.org.example:old"}],
    "virtual_devices": [
        {"name": "v0", "regions": [{"device": "disk0", "first_lba": 0, "blocks": 1000}]},
        {"name": "v1", "regions": [{"array": "old", "lun": 1}, {"device": "disk0", "first_lba": 1000}]},
    ],
    "targets": [
        {
            "name": "iqn.2026-11.org.example:annex",
            "portals": ["127.0.0.1:3260", "[::1]:3260"],
            "luns": [{"lun": 0, "virtual_device": "v0"}, {"lun": 1, "virtual_device": "v1"}],
            "acls": [
                {
                    "initiator": "iqn.2026-11.org.example:host",
                    "chap": {"name": "host", "secret": "twelve bytes or more"},
                }
            ],
        }
    ],
}

# (path of keys to what is changed, its new value, words that the one line must hold)
BAD: list[tuple[list[Any], Any, list[str]]] = [
    (["version"], 3, ["version", "newer"]),
    (["version"], "1", ["version"]),
    (["state_directory"], "var", ["state_directory", "absolute"]),
    (["colour"], "red", ["colour"]),
    (["devices", 0, "name"], "a\nb", ["devices[0].name"]),
    (["devices", 0, "path"], "dev/sda", ["devices[0].path"]),
    (["devices", 0, "path"], 5, ["devices[0].path", "int"]),
    (["arrays", 0, "portal"], "127.0.0.1:99999", ["arrays[0].portal", "99999"]),
    (["arrays", 0, "target"], "iqn.x/y", ["arrays[0].target", "iSCSI name"]),
    (["arrays", 0, "command_timeout_s"], 60.0, ["command_timeout_s"]),
    (["virtual_devices", 0, "regions"], [], ["virtual_devices[0].regions"]),
    (["virtual_devices", 0, "regions", 0, "device"], "none", ["regions[0].device", "'none'"]),
    (["virtual_devices", 0, "regions", 0, "blocks"], -1, ["regions[0].blocks"]),
    (["virtual_devices", 0, "regions", 0, "blocks"], 1001, ["virtual_devices[1].regions[1]", "shares blocks"]),
    (["virtual_devices", 0, "regions", 0, "first_lba"], 2**64, ["virtual_devices[0].regions[0]", "8 bytes"]),
    (["virtual_devices", 1, "regions", 1, "first_lba"], 0, ["virtual_devices[1].regions[1]", "[0].regions[0]"]),
    (["virtual_devices", 1, "regions", 0, "lun"], None, ["regions[0].lun"]),
    (["virtual_devices", 1, "regions", 0, "device"], "disk0", ["regions[0]", "one of"]),
    (["virtual_devices", 1, "name"], "v0", ["virtual_devices[1]", "twice"]),
    (["targets", 0, "name"], "iqn.2026-11.org.example:" + "a" * 300, ["targets[0].name"]),
    (["targets", 0, "portals"], [], ["targets[0].portals"]),
    (["targets", 0, "portal_groups"], {"127.0.0.2": 2}, ["targets[0].portal_groups", "not a portal"]),
    (["targets", 0, "portal_groups"], {"127.0.0.1": 0}, ["targets[0].portal_groups", "1 … 65535"]),
    (["targets", 0, "portal_groups"], {"no/host": 2}, ["targets[0].portal_groups"]),
    (["targets", 0, "luns", 1, "lun"], 0, ["targets[0].luns[1]", "twice"]),
    (["targets", 0, "luns", 1, "virtual_device"], "v9", ["luns[1].virtual_device", "v9"]),
    (["targets", 0, "acls", 0, "initiator"], "host", ["acls[0].initiator"]),
    (["targets", 0, "acls", 0, "chap", "secret"], "short", ["acls[0].chap.secret"]),
    (
        ["targets", 0, "acls", 0, "mutual_chap"],
        {"name": "t", "secret": "twelve bytes or more"},
        ["mutual_chap.secret", "same"],
    ),
    (["targets", 0, "anyone"], {"addresses": ["10.0.0.0/33"]}, ["anyone.addresses[0]"]),
]


def changed(path: list[Any], value: Any) -> bytes:
    document = copy.deepcopy(GOOD)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document).encode()


def test_a_good_file_is_accepted_whole() -> None:
    config = store.decode(json.dumps(GOOD).encode(), "annex.json")
    assert [lun.virtual_device for lun in config.targets[0].luns] == ["v0", "v1"]
    assert config.virtual_devices[1].regions[0].blocks is None


@pytest.mark.parametrize(
    ("path", "value", "words"), BAD, ids=[".".join(map(str, path)) + f"={str(value)[:20]!r}" for path, value, _ in BAD]
)
def test_a_bad_entry_gets_one_line_with_its_place_and_the_reason(path: list[Any], value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        store.decode(changed(path, value), "annex.json")
    line = str(refused.value)
    assert line.startswith("annex.json: ")
    assert "\n" not in line
    assert all(word in line for word in words), line
    assert "JSON" not in line
    assert "twelve bytes" not in line


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,2", b"\xff\xfe", b"null", b"[" * 100_000, b'{"version": 2, "version": 1}']
)
def test_bytes_that_are_no_configuration_get_one_line(data: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        store.decode(data, "annex.json")
    assert str(refused.value).startswith("annex.json")
    assert "\n" not in str(refused.value)


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "annex.json"
    path.write_bytes(json.dumps(GOOD).encode())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        store.load(path)
    path.chmod(0o600)
    assert store.load(path).arrays[0].name == "old"


def test_the_name_of_a_credential_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "annex.json"
    path.write_bytes(
        changed(["targets", 0, "acls", 0], {
            "initiator": "iqn.2026-11.org.example:host",
            "chap": {"name": "host", "credential": "host"},
            "mutual_chap": {"name": "annex", "credential": "annex"},
        })
    )  # fmt: skip
    path.chmod(0o644)
    assert store.load(path).targets[0].acls[0].chap is not None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be read: No such file"):
        store.load(tmp_path / "none.json")


def test_a_secret_is_not_in_the_repr_of_the_configuration() -> None:
    config = store.decode(json.dumps(GOOD).encode(), "annex.json")
    assert "twelve bytes" not in repr(config)


def test_the_example_of_the_documentation_is_valid() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    config = store.decode(example.encode(), "docs/configuration.md")
    assert [len(virtual_device.regions) for virtual_device in config.virtual_devices] == [1, 1, 2]
