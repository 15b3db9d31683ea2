"""The texts of the nodes under /iscsi: targets, their LUNs, hosts and portals."""

from __future__ import annotations

from config.shell.text import CHAP, YES, CommandText, NodeText

_LUN = {
    "read_only": "true: hosts can not write",
    "max_iops": "at most this many reads and writes a second, for each host; 0 for no limit",
    "max_bandwidth": "at most this much a second, for each host, such as 100MiB; 0 for no limit",
}

TPG = {
    "/iscsi": NodeText(
        "iSCSI targets: what hosts log in to.",
        {
            "create": CommandText(
                "TARGET [PORTAL]",
                "Make a target. Nobody may log in to it yet: that is for acls and anyone.",
                {"target": "its iSCSI name", "portal": "host:port to answer on; 0.0.0.0:3260 by default"},
                ("create iqn.2026-11.org.example:target",),
            ),
            "delete": CommandText(
                "TARGET",
                "Remove a target with its LUNs and ACLs.",
                {"target": "its name"} | YES,
                ("delete iqn.2026-11.org.example:target",),
            ),
        },
    ),
    "/iscsi/TARGET": NodeText("An iSCSI target; it has one target portal group, tpg1."),
    "/iscsi/TARGET/tpg1": NodeText(
        "What a target shows, to whom, and where.",
        {
            "set": CommandText(
                "anyone=NETWORKS [array_control=BOOL] [read_only=BOOL]",
                "Admit hosts without an ACL from some networks, or with anyone= from none.",
                {
                    "anyone": "networks with commas",
                    "array_control": "true: they may form pairs and acquire",
                    "read_only": "true: they can not write",
                },
                ("set anyone=192.0.2.0/24", "set anyone="),
            )
        },
    ),
    "/iscsi/TARGET/tpg1/luns": NodeText(
        "The target's LUNs, for hosts whose ACL has none of its own.",
        {
            "create": CommandText(
                "STORAGE [LUN] [KEY=VALUE…]",
                "Show a virtual device to hosts; or a whole device, which becomes a virtual device of the same name.",
                {"storage": "/vdevs/NAME or /devices/NAME", "lun": "its number; the first free one by default"} | _LUN,
                ("create /vdevs/data", "create /devices/disk0", "create data 5 max_iops=1000 max_bandwidth=100MiB"),
            ),
            "delete": CommandText("LUN", "Take a LUN away from hosts.", {"lun": "its number"} | YES, ("delete 0",)),
        },
    ),
    "/iscsi/TARGET/tpg1/luns/LUN": NodeText(
        "A LUN.",
        {"set": CommandText("KEY=VALUE…", "Change its limits.", _LUN, ("set max_iops=500", "set max_bandwidth=0"))},
    ),
    "/iscsi/TARGET/tpg1/acls": NodeText(
        "The hosts that may log in to the target.",
        {
            "create": CommandText(
                "INITIATOR [addresses=NETWORKS] [array_control=BOOL]",
                "Let a host in.",
                {
                    "initiator": "its iSCSI name: /etc/iscsi/initiatorname.iscsi",
                    "addresses": "only when it comes from these networks, with commas",
                    "array_control": "false: it may not form pairs or acquire",
                },
                (
                    "create iqn.1993-08.org.debian:01:host",
                    "create iqn.1993-08.org.debian:01:host addresses=192.0.2.0/24",
                ),
            ),
            "delete": CommandText(
                "INITIATOR",
                "Let a host in no more; its sessions end.",
                {"initiator": "its name"} | YES,
                ("delete iqn.1993-08.org.debian:01:host",),
            ),
        },
    ),
    "/iscsi/TARGET/tpg1/acls/INITIATOR": NodeText(
        "A host, with the LUNs that it sees when these are not the target's.",
        {
            "create": CommandText(
                "STORAGE [LUN] [KEY=VALUE…]",
                "Show the host a LUN of its own list; from the first one on it does not see the target's list.",
                {"storage": "/vdevs/NAME or /devices/NAME", "lun": "its number; the first free one by default"} | _LUN,
                ("create /vdevs/data 0 --read-only",),
            ),
            "delete": CommandText(
                "LUN", "Take a LUN of its own list away.", {"lun": "its number"} | YES, ("delete 0",)
            ),
            "set": CommandText(
                "[auth] KEY=VALUE…",
                "Change its CHAP and its rights.",
                {
                    "addresses": "only when it comes from these networks; empty for any",
                    "array_control": "true: it may form pairs and acquire",
                }
                | CHAP,
                ("set auth userid=host password_file=chap.txt", "set auth userid=", "set addresses=192.0.2.7"),
            ),
        },
    ),
    "/iscsi/TARGET/tpg1/acls/INITIATOR/LUN": NodeText(
        "A LUN of one host.", {"set": CommandText("KEY=VALUE…", "Change its limits.", _LUN, ("set --read-only",))}
    ),
    "/iscsi/TARGET/tpg1/portals": NodeText(
        "The addresses at which the target answers.",
        {
            "create": CommandText(
                "HOST [PORT]",
                "Answer at one more address.",
                {"host": "an address, [address] of IPv6, or host:port", "port": "3260 by default"},
                ("create 192.0.2.1", "create 192.0.2.1 3261", "create [2001:db8::1]:3260"),
            ),
            "delete": CommandText(
                "HOST [PORT]",
                "Answer at an address no more; its sessions end.",
                {"host": "as create", "port": "as create"} | YES,
                ("delete 192.0.2.1",),
            ),
        },
    ),
    "/iscsi/TARGET/tpg1/portals/PORTAL": NodeText(
        "A portal.",
        {
            "drain": CommandText(
                "[BOOL] [within_s=SECONDS]",
                "Admit no new sessions here until a restart, and let those there are end; with false admit them again.",
                {
                    "on": "true or false",
                    "within_s": "hosts are asked to log out within this time, and dropped after it; 30 by default",
                },
                ("drain", "drain within_s=120", "drain false"),
            ),
            "access": CommandText(
                "STATE",
                "Say how hosts are to use this path (ALUA): for all portals of its group, and not saved.",
                {"state": "active_optimized, active_non_optimized, standby, unavailable or transitioning"},
                ("access standby", "access active_optimized"),
            ),
            "group": CommandText(
                "TAG",
                "Put it into a portal group, a path of its own to hosts; its sessions end, and hosts log in again.",
                {"tag": "1 to 65535; all portals are in group 1 at first"},
                ("group 2",),
            ),
        },
    ),
}
