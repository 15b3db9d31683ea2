"""`annexd try`: from the command line to a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import ConfigError
from daemon.try_mode import Source, configuration

PORTAL = "127.0.0.1:3260"


def test_sources_become_luns_in_the_order_given(tmp_path: Path) -> None:
    array = "iscsi://127.0.0.1:3261/iqn.2026-11.org.example:old"
    sources = [Source("--array", f"{array}/1"), Source("--local", str(tmp_path / "a")), Source("--array", f"{array}/2")]
    config = configuration(PORTAL, sources, tmp_path)
    regions = [virtual_device.regions[0] for virtual_device in config.virtual_devices]
    assert [(region.device is not None, region.lun) for region in regions] == [(False, 1), (True, None), (False, 2)]
    assert [lun.lun for lun in config.targets[0].luns] == [0, 1, 2]
    assert len(config.arrays) == 1


def test_without_sources_a_sparse_file_of_1_gib_is_made_and_kept(tmp_path: Path) -> None:
    for _ in range(2):
        config = configuration(PORTAL, [], tmp_path)
        disk = Path(config.devices[0].path)
        assert disk.stat().st_size == 1 << 30
        assert disk.stat().st_blocks == 0


def test_a_url_carries_chap_and_ipv6(tmp_path: Path) -> None:
    config = configuration(
        PORTAL, [Source("--array", "iscsi://me%secret@[::1]:3261/iqn.2026-11.org.example:old/0")], tmp_path
    )
    assert config.arrays[0].chap is not None
    assert (config.arrays[0].chap.name, config.arrays[0].chap.secret, config.arrays[0].portal) == (
        "me",
        "secret",
        "[::1]:3261",
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://h/iqn.2026-11.org.example:old/1",
        "iscsi://h/iqn.2026-11.org.example:old",
        "iscsi://h//1",
        "iscsi://h/notaname/1",
    ],
)
def test_a_bad_url_is_refused_by_name(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        configuration(PORTAL, [Source("--array", url)], tmp_path)


def test_a_bad_url_does_not_show_its_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        configuration(PORTAL, [Source("--array", "iscsi://me%hush@host/iqn")], tmp_path)
    assert "hush" not in str(refused.value)


def test_only_hosts_on_this_machine_are_admitted_and_may_send_array_commands(tmp_path: Path) -> None:
    anyone = configuration(PORTAL, [], tmp_path).targets[0].anyone
    assert anyone is not None
    assert anyone.addresses == ["127.0.0.0/8", "::1/128"]
    assert anyone.array_control
