"""A configuration with an entry of each kind, as a document."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "version": 2,
    "state_directory": "/var/lib/annex",
    "devices": [{"name": "disk0", "path": "/dev/loop0"}],
    "arrays": [
        {
            "name": "old",
            "portal": "127.0.0.1:3261",
            "target": "iqn.2026-11.org.example:old",
            "chap": {"name": "annex", "secret": "canary of the array"},
        }
    ],
    "virtual_devices": [{"name": "v0", "regions": [{"device": "disk0", "first_lba": 0, "blocks": 1000}]}],
    "targets": [
        {
            "name": "iqn.2026-11.org.example:annex",
            "portals": ["127.0.0.1:3260"],
            "luns": [{"lun": 0, "virtual_device": "v0", "max_iops": 1000}],
            "acls": [
                {
                    "initiator": "iqn.2026-11.org.example:host",
                    "addresses": ["192.0.2.0/24"],
                    "luns": [{"lun": 0, "virtual_device": "v0"}],
                    "chap": {"name": "host", "secret": "canary of the host"},
                    "mutual_chap": {"name": "annex", "credential": "annex"},
                }
            ],
            "anyone": {"addresses": ["127.0.0.1"]},
        }
    ],
    "discovery": {"chap": {"name": "finder", "secret": "canary of discovery"}},
    "control": {"socket": "/run/annex/control.sock"},
    "metrics": {"listen": "127.0.0.1:9100"},
}
