"""The parts of rtslib-fb's saveconfig.json, and what the kernel's target has for its settings by default.

Written by rtslib-fb 2.1 and 2.2: lists of storage objects, targets and fabric modules; in older files the values of
attributes are strings. Whatever a part has beyond these fields is reported by its name.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from config.errors import ConfigError

Settings = dict[str, int | str]


class Part(msgspec.Struct, kw_only=True):
    """An object of the file. Every list holds anything; its items are read one by one, so that one bad one is one."""

    attributes: Settings = {}
    parameters: Settings = {}


class StorageObject(Part, kw_only=True):
    """A backstore. `dev` is a path for the plugins block and fileio."""

    name: str
    plugin: str
    dev: str | None = None
    wwn: str | None = None
    readonly: bool = False
    write_back: bool = False
    exclusive: bool = True
    aio: bool = False
    size: int | None = None
    alua_tpgs: list[Any] = []


class Target(Part, kw_only=True):
    """A target of any fabric."""

    wwn: str
    fabric: str
    tpgs: list[Any] = []


class ChapPart(Part, kw_only=True):
    """A part with the secrets of both directions."""

    chap_userid: str = ""
    chap_password: str = ""
    chap_mutual_userid: str = ""
    chap_mutual_password: str = ""


class PortalGroup(ChapPart, kw_only=True):
    """A target portal group."""

    tag: int
    enable: bool = True
    luns: list[Any] = []
    portals: list[Any] = []
    node_acls: list[Any] = []


class Lun(Part, kw_only=True):
    """A LUN of a portal group; `storage_object` is /backstores/<plugin>/<name>."""

    index: int
    storage_object: str
    alias: str | None = None
    alua_tg_pt_gp_name: str | None = None


class Portal(Part, kw_only=True):
    """An address that a portal group answers on."""

    ip_address: str
    port: int = 3260
    iser: bool = False
    offload: bool = False


class NodeAcl(ChapPart, kw_only=True):
    """What one host may do."""

    node_wwn: str
    mapped_luns: list[Any] = []
    tag: str | None = None


class MappedLun(Part, kw_only=True):
    """A LUN as one host sees it: `index` for the portal group's `tpg_lun`."""

    index: int
    tpg_lun: int
    write_protect: bool = False
    alias: str | None = None


class FabricModule(Part, kw_only=True):
    """A fabric that asks for authentication in discovery."""

    name: str
    discovery_enable_auth: bool = False
    discovery_userid: str = ""
    discovery_password: str = ""
    discovery_mutual_userid: str = ""
    discovery_mutual_password: str = ""


_Part = TypeVar("_Part", bound=Part)

# The settings that an import looks at have no row here. A tuple: the defaults of different kernels.
DEFAULTS: dict[type[Part], dict[str, tuple[int | str, ...]]] = {
    StorageObject: {
        "alua_support": (1,), "emulate_3pc": (1,), "emulate_caw": (1,), "emulate_dpo": (1, 0),
        "emulate_fua_read": (1, 0), "emulate_fua_write": (1,), "emulate_model_alias": (1, 0), "emulate_pr": (1,),
        "emulate_rest_reord": (0,), "emulate_rsoc": (1,), "emulate_tas": (1,), "emulate_tpu": (0,),
        "emulate_tpws": (0,), "emulate_ua_intlck_ctrl": (0,), "emulate_write_cache": (0, 1), "enforce_pr_isids": (1,),
        "force_pr_aptpl": (0,), "is_nonrot": (0, 1), "pgr_support": (1,), "pi_prot_format": (0,),
        "pi_prot_type": (0,), "pi_prot_verify": (0,), "unmap_zeroes_data": (0, 1), "submit_sync": (0,),
    },
    PortalGroup: {
        "cache_dynamic_acls": (0, 1), "default_cmdsn_depth": (64, 16), "default_erl": (0,),
        "demo_mode_discovery": (0, 1), "fabric_prot_type": (0,), "login_keys_workaround": (0, 1),
        "login_timeout": (15,), "netif_timeout": (2,),
        "t10_pi": (0,), "tpg_enabled_sendtargets": (1,),
        "DataDigest": ("CRC32C,None",), "DataPDUInOrder": ("Yes",), "DataSequenceInOrder": ("Yes",),
        "DefaultTime2Retain": ("20",), "DefaultTime2Wait": ("2",), "ErrorRecoveryLevel": ("0",),
        "FirstBurstLength": ("65536",), "HeaderDigest": ("CRC32C,None",), "IFMarkInt": ("2048~65535", "Reject"),
        "IFMarker": ("No",), "ImmediateData": ("Yes",), "InitialR2T": ("Yes",), "MaxBurstLength": ("262144",),
        "MaxConnections": ("1",), "MaxOutstandingR2T": ("1",), "MaxRecvDataSegmentLength": ("8192",),
        "MaxXmitDataSegmentLength": ("262144",), "OFMarkInt": ("2048~65535", "Reject"), "OFMarker": ("No",),
        "TargetAlias": ("LIO Target",),
    },
    NodeAcl: {
        "dataout_timeout": (3,), "dataout_timeout_retries": (5,), "default_erl": (0,), "nopin_response_timeout": (30,),
        "nopin_timeout": (15,), "random_datain_pdu_offsets": (0,), "random_datain_seq_offsets": (0,),
        "random_r2t_offsets": (0,),
    },
}  # fmt: skip

# Fields that only say in which group something is. (`alias` is the random name of a link in configfs.)
_NAMES: dict[type[Part], dict[str, str]] = {
    Lun: {"alua_tg_pt_gp_name": "default_tg_pt_gp"},
    NodeAcl: {"tag": ""},
}

# Looked at by the conversion, or a measure of the device or of the kernel's own queues that hosts do not depend on.
_LOOKED_AT = {
    StorageObject: {
        "block_size", "queue_depth", "optimal_sectors", "max_write_same_len", "max_unmap_lba_count",
        "max_unmap_block_desc_count", "unmap_granularity", "unmap_granularity_alignment", "hw_max_sectors",
        "hw_block_size", "hw_queue_depth", "hw_pi_prot_type",
    },
    PortalGroup: {
        "authentication", "generate_node_acls", "demo_mode_write_protect", "prod_mode_write_protect", "AuthMethod",
    },
    NodeAcl: {"authentication"},
}  # fmt: skip


def read(kind: type[_Part], value: object) -> tuple[_Part, list[str]]:
    """Give a part of the file, and in words what of it annex has no counterpart for.

    Raises:
        ConfigError: it is no such part; the place is empty, and nothing of its values is told.
    """
    try:
        part = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        raise ConfigError("", f"can not be read: {problem}" + (f" at {key}" if key else "")) from None
    assert isinstance(value, dict)
    unknown = [f"{key!r}"[:80] for key in value if key not in kind.__struct_fields__]
    named = [(name, getattr(part, name)) for name, default in _NAMES.get(kind, {}).items()
             if getattr(part, name) not in {None, "", default}]  # fmt: skip
    words = [f"{name}={setting!s:.80}" for name, setting in named + _unusual(kind, part)]
    return part, [f"unknown key {key}" for key in unknown] + words


def switch(settings: Settings, name: str, default: int) -> bool:
    """Give an attribute that is on or off; what is neither a number nor known is `default`."""
    value = str(settings.get(name, default)).strip()
    return bool(int(value)) if value.isdecimal() and len(value) < 10 else bool(default)


def _unusual(kind: type[Part], part: Part) -> list[tuple[str, int | str]]:
    defaults, looked_at = DEFAULTS.get(kind, {}), _LOOKED_AT.get(kind, set())
    return [
        (name, value)
        for settings in (part.attributes, part.parameters)
        for name, value in settings.items()
        if name not in looked_at and str(value) not in {str(default) for default in defaults.get(name, ())}
    ]
