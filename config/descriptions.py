"""What each key of the configuration file means, in words for an admin.

The page docs/configuration.md and the man page annex.conf(5) are both made from this table (scripts/man.py). Backticks
mark what is written as it stands. A default is not named here: the model has it, unless it needs a word.
"""

from __future__ import annotations

import msgspec

from config import model

PLACES: dict[type[model.Entry], str] = {
    model.Config: "the file",
    model.Device: "devices[]",
    model.Array: "arrays[]",
    model.VirtualDevice: "virtual_devices[]",
    model.Region: "virtual_devices[].regions[]",
    model.Target: "targets[]",
    model.Lun: "targets[].luns[], targets[].acls[].luns[]",
    model.Acl: "targets[].acls[]",
    model.Anyone: "targets[].anyone",
    model.Chap: "chap, mutual_chap",
    model.Discovery: "discovery",
    model.Control: "control",
    model.ControlTcp: "control.tcp",
    model.Metrics: "metrics",
}

_CHAP = "what a host proves itself with; left out: no CHAP is asked for"
_MUTUAL_CHAP = "what annex proves itself with; the host has to ask for it then; needs `chap`"

DESCRIPTIONS: dict[type[model.Entry], dict[str, str]] = {
    model.Config: {
        "version": "2; a file of version 1 is read, and written as 2 at the next change",
        "state_directory": "absolute path; made with mode 0700. Ids, the mapping table, pairs and their marks are kept "
        "there. One daemon at a time",
        "devices": "local block devices and files",
        "arrays": "external arrays",
        "virtual_devices": "what logical units sit on",
        "targets": "what hosts log in to",
        "discovery": "CHAP for discovery sessions; left out: anybody may ask, and is told what it may log in to",
        "control": "where admins reach the daemon; left out: the default socket and no other",
        "metrics": "where Prometheus reads; left out: nowhere",
    },
    model.Device: {
        "name": "a name of your choice",
        "path": "absolute path of a block device (opened exclusively: one that is mounted or held is refused, with who "
        "holds it) or of a file. Prefer /dev/disk/by-id: other names move",
    },
    model.Array: {
        "name": "a name of your choice",
        "portal": "host:port or [v6]:port; the port is 3260 when left out",
        "target": "the array's iSCSI target name. annex logs in with a name of its own, made once per state directory",
        "chap": "what annex proves itself with to the array; left out: without CHAP",
        "mutual_chap": "what the array has to prove itself with; needs `chap`",
        "header_digest": "`true` to insist on CRC32C over headers",
        "data_digest": "`true` to insist on CRC32C over data",
        "command_timeout_s": "1 … 14 seconds: then a command is aborted",
    },
    model.VirtualDevice: {
        "name": "a name of your choice. Its number and NAA id are made once for the name",
        "regions": "at least one, in the order of their blocks. The regions of a name can not be changed afterwards: "
        "hosts would find other data under the same id",
        "naa": "its NAA id, 32 hexadecimal digits, by which hosts know it; left out: the one that its name has, or a "
        "new one. annexd saves it, so that a saved configuration brings the same disk back, here or on another "
        "machine. Two annexd with one id at the same time are one disk to a host",
    },
    model.Region: {
        "device": "name of the device it lies on; or `array` and `lun`",
        "array": "name of the array it lies on",
        "lun": "0 … 16383: the LUN at which the array shows the external LU",
        "id": "VPD 83 id of the external LU, hexadecimal; left out: whatever answers at `lun` at first contact, and "
        "only that from then on",
        "first_lba": "its first block",
        "blocks": "how many blocks; left out: all to the end, as measured at first contact and recorded",
    },
    model.Target: {
        "name": "its iSCSI name, `iqn.YYYY-MM.reversed.domain:string`",
        "portals": "host:port or [v6]:port, at least one; 0.0.0.0 and [::] listen everywhere",
        "luns": "what a host sees that has no list of its own",
        "acls": "one per host",
        "anyone": "admits hosts without an ACL; left out: only hosts with an ACL get in",
        "portal_groups": "portal group tag, 1 … 65535, by portal, of those that are not in group 1. Each group is a "
        "path of its own to hosts, with an access state of its own (ALUA)",
    },
    model.Lun: {
        "lun": "0 … 255",
        "virtual_device": "name of the virtual device that it shows",
        "read_only": "`true`: writes are refused with DATA PROTECT",
        "max_iops": "reads and writes a second, for each host through this LUN; left out: no limit",
        "max_bytes_per_s": "bytes read and written a second, for each host through this LUN; left out: no limit",
    },
    model.Acl: {
        "initiator": "the host's iSCSI name",
        "addresses": "addresses and networks that it may come from, such as `192.0.2.0/24`; from elsewhere it is "
        "refused, even where `anyone` would be admitted. Left out: any",
        "luns": "what it sees; left out: the LUNs of the target",
        "chap": _CHAP,
        "mutual_chap": _MUTUAL_CHAP,
        "array_control": "may the host send ARRAY OUT: form pairs, acquire data",
    },
    model.Anyone: {
        "addresses": "addresses and networks that such hosts may come from",
        "array_control": "may they send ARRAY OUT: form pairs, acquire data",
        "read_only": "`true`: they may not write",
    },
    model.Chap: {
        "name": "the name that is sent",
        "secret": "12 to 256 bytes of UTF-8 (RFC 7143 9.2.1); what an array was given may be shorter. The secrets of "
        "the two directions must differ. A file with secrets must have mode 0600",
        "credential": "instead of `secret`: the name of a file in the service's credentials directory (systemd "
        "`LoadCredential=`) that holds it; annexd's or root's, mode 0400, 0440 or 0600. One newline at its end is cut",
    },
    model.Discovery: {"chap": _CHAP, "mutual_chap": _MUTUAL_CHAP},
    model.Control: {
        "socket": "absolute path of the Unix socket that may change everything; open to root, annexd's own user and "
        "`admin_groups`",
        "read_only_socket": "absolute path of a second one, which answers questions only and is open to "
        "`reader_groups` as well; left out: there is none",
        "admin_groups": "names of groups",
        "reader_groups": "names of groups",
        "tcp": "the same over the network; left out: not there",
    },
    model.ControlTcp: {
        "listen": "host:port",
        "certificate": "path of the server's certificate chain, PEM",
        "key": "path of its private key, PEM",
        "token_file": "path of the file that holds the bearer token, 32 to 512 printable characters; mode 0600",
    },
    model.Metrics: {"listen": "host:port of `/metrics`"},
}


def default(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key is when it is left out: "required", a JSON value, or "" for what its description says."""
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        value = field.default
    else:
        return "required"
    return "" if value in (None, "") else msgspec.json.encode(value).decode()
