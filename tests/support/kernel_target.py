"""The kernel's target as a folder of files, as configfs shows it: rtslib-fb's own code writes its saveconfig.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import rtslib_fb.node
import rtslib_fb.root
import rtslib_fb.tcm
from rtslib_fb import RTSRoot

_OBJECT_ATTRIBUTES = {
    "alua_support": 1, "block_size": 512, "emulate_3pc": 1, "emulate_caw": 1, "emulate_dpo": 1, "emulate_fua_read": 1,
    "emulate_fua_write": 1, "emulate_model_alias": 1, "emulate_pr": 1, "emulate_rest_reord": 0, "emulate_tas": 1,
    "emulate_tpu": 0, "emulate_tpws": 0, "emulate_ua_intlck_ctrl": 0, "emulate_write_cache": 0, "enforce_pr_isids": 1,
    "force_pr_aptpl": 0, "is_nonrot": 1, "max_unmap_block_desc_count": 1, "max_unmap_lba_count": 8192,
    "max_write_same_len": 65535, "optimal_sectors": 1024, "pi_prot_format": 0, "pi_prot_type": 0, "pi_prot_verify": 0,
    "queue_depth": 128, "unmap_granularity": 1, "unmap_granularity_alignment": 0, "unmap_zeroes_data": 0,
}  # fmt: skip
_GROUP_ATTRIBUTES = {
    "authentication": 0, "cache_dynamic_acls": 0, "default_cmdsn_depth": 64, "default_erl": 0,
    "demo_mode_discovery": 1, "demo_mode_write_protect": 1, "fabric_prot_type": 0, "generate_node_acls": 0,
    "login_keys_workaround": 1, "login_timeout": 15, "prod_mode_write_protect": 0, "t10_pi": 0,
    "tpg_enabled_sendtargets": 1,
}  # fmt: skip
_GROUP_PARAMETERS = {
    "AuthMethod": "CHAP,None", "DataDigest": "CRC32C,None", "DataPDUInOrder": "Yes", "DataSequenceInOrder": "Yes",
    "DefaultTime2Retain": "20", "DefaultTime2Wait": "2", "ErrorRecoveryLevel": "0", "FirstBurstLength": "65536",
    "HeaderDigest": "CRC32C,None", "IFMarkInt": "Reject", "IFMarker": "No", "ImmediateData": "Yes",
    "InitialR2T": "Yes", "MaxBurstLength": "262144", "MaxConnections": "1", "MaxOutstandingR2T": "1",
    "MaxRecvDataSegmentLength": "8192", "MaxXmitDataSegmentLength": "262144", "OFMarkInt": "Reject", "OFMarker": "No",
    "TargetAlias": "LIO Target",
}  # fmt: skip
_ACL_ATTRIBUTES = {
    "authentication": -1, "dataout_timeout": 3, "dataout_timeout_retries": 5, "default_erl": 0,
    "nopin_response_timeout": 30, "nopin_timeout": 15, "random_datain_pdu_offsets": 0, "random_datain_seq_offsets": 0,
    "random_r2t_offsets": 0,
}  # fmt: skip


class KernelTarget:
    """What the kernel's target would show in `folder`, made part by part."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._objects = 0
        _write(folder / "dbroot", "/etc/target")
        (folder / "core").mkdir()
        (folder / "iscsi").mkdir()
        self.discovery()

    def save(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Write what there is as `targetcli saveconfig` does, by rtslib-fb."""
        monkeypatch.setattr(rtslib_fb.node.CFSNode, "configfs_dir", str(self._root))
        monkeypatch.setattr(rtslib_fb.root, "mount_configfs", lambda: None)
        monkeypatch.setattr(rtslib_fb.tcm, "get_blockdev_type", lambda _: None)  # asks udev
        rtslib_fb.tcm.bs_cache.clear()
        RTSRoot().save_to_file(str(path))

    def storage_object(self, plugin: str, name: str, dev: str, *, write_back: bool = False, **attributes: Any) -> Path:
        """Make a backstore; `plugin` is iblock, fileio, pscsi or rd_mcp."""
        folder = self._root / "core" / f"{plugin}_{self._objects}" / name
        self._objects += 1
        _settings(folder / "attrib", _OBJECT_ATTRIBUTES | {"emulate_write_cache": int(write_back)} | attributes)
        _write(folder / "udev_path", dev)
        _write(folder / "enable", "1")
        _write(folder / "wwn" / "vpd_unit_serial", f"T10 VPD Unit Serial Number: 0f3e-{name}")
        mode = "Buffered-WCE" if write_back else "O_DSYNC"
        words = (
            "readonly: 0 exclusive: 1"
            if plugin == "iblock"
            else f"File: {dev} Size: 1048576 Mode: {mode} Async: 0 nullio: 0"
        )
        _write(folder / "info", f"Status: ACTIVATED Max Queue Depth: 0 SectorSize: 512 PAGES/PAGE_SIZE: 4*4096 {words}")
        _write(folder.parent / "hba_info", f"HBA Index: 0 plugin: {plugin} version: v5.0")
        group = folder / "alua" / "default_tg_pt_gp"
        _write(group / "alua_access_status", "None")
        _write(group / "alua_access_type", "Implicit and Explicit")
        for setting in ("alua_access_state", "tg_pt_gp_id", "preferred"):
            _write(group / setting, "0")
        for setting in ("alua_write_metadata", "implicit_trans_secs", "nonop_delay_msecs", "trans_delay_msecs"):
            _write(group / setting, "0")
        for state in ("active_nonoptimized", "active_optimized", "lba_dependent", "offline", "standby",
                      "transitioning", "unavailable"):  # fmt: skip
            _write(group / f"alua_support_{state}", "1")
        return folder

    def target(self, name: str) -> Path:
        """Make a target."""
        return _folder(self._root / "iscsi" / name)

    def group(self, target: Path, tag: int = 1, *, enable: bool = True, **settings: Any) -> Path:
        """Make a portal group with these attributes and parameters."""
        folder = target / f"tpgt_{tag}"
        attributes = {name: settings.get(name, value) for name, value in _GROUP_ATTRIBUTES.items()}
        _settings(folder / "attrib", attributes)
        _settings(folder / "param", {name: settings.get(name, value) for name, value in _GROUP_PARAMETERS.items()})
        _write(folder / "enable", str(int(enable)))
        self.chap(folder)
        for part in ("lun", "np", "acls"):
            _folder(folder / part)
        return folder

    def lun(self, group: Path, index: int, storage_object: Path) -> Path:
        """Show a backstore in a portal group."""
        folder = _folder(group / "lun" / f"lun_{index}")
        (folder / "0f3e0000").symlink_to(storage_object)
        _write(folder / "alua_tg_pt_gp", "TG Port Alias: default_tg_pt_gp\nTG Port Group ID: 0")
        return folder

    def portal(self, group: Path, address: str, port: int = 3260, *, iser: bool = False) -> None:
        """Make a portal group answer on an address."""
        folder = _folder(group / "np" / f"{address}:{port}")
        _write(folder / "iser", str(int(iser)))
        _write(folder / "cxgbit", "0")

    def acl(self, group: Path, initiator: str, tag: str = "", **attributes: Any) -> Path:
        """Make an ACL of a host."""
        folder = group / "acls" / initiator
        _settings(folder / "attrib", _ACL_ATTRIBUTES | attributes)
        _write(folder / "tag", tag)
        self.chap(folder)
        return folder

    def mapped_lun(self, acl: Path, index: int, lun: Path, *, write_protect: bool = False) -> None:
        """Show a LUN of the portal group to a host."""
        folder = _folder(acl / f"lun_{index}")
        _write(folder / "write_protect", str(int(write_protect)))
        (folder / "0f3e0001").symlink_to(lun)

    def chap(self, folder: Path, name: str = "", secret: str = "", mutual: tuple[str, str] = ("", "")) -> None:
        """Set the secrets of a portal group or of an ACL."""
        _chap(folder / "auth", name, secret, mutual)

    def discovery(self, name: str = "", secret: str = "", mutual: tuple[str, str] = ("", "")) -> None:
        """Set the secrets of discovery."""
        folder = self._root / "iscsi" / "discovery_auth"
        _chap(folder, name, secret, mutual)
        _write(folder / "enforce_discovery_auth", str(int(bool(name))))


def _chap(folder: Path, name: str, secret: str, mutual: tuple[str, str]) -> None:
    _write(folder / "userid", name)
    _write(folder / "password", secret)
    _write(folder / "userid_mutual", mutual[0])
    _write(folder / "password_mutual", mutual[1])


def _settings(folder: Path, settings: Mapping[str, int | str]) -> None:
    for name, value in settings.items():
        _write(folder / name, str(value))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write(path: Path, text: str) -> None:
    _folder(path.parent)
    path.write_text(f"{text}\n")
