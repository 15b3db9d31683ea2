"""The texts of the nodes that are no targets: devices, arrays, virtual devices, pairs, and what goes on."""

from __future__ import annotations

from config.shell.text import CHAP, YES, CommandText, NodeText

_ARRAY = {
    "portal": "host or host:port at which it answers",
    "target": "its iSCSI name",
    "header_digest": "true: CRC32C over headers",
    "data_digest": "true: CRC32C over data",
    "command_timeout_s": "seconds, 1 to 14, until a command has failed",
}
_SUSPEND = {"suspend": "together (as long as nothing else is said): when one loses its secondary, all stop; or alone"}

ENTRIES = {
    "/devices": NodeText(
        "Local block devices, and files that stand in for one.",
        {
            "create": CommandText(
                "NAME PATH",
                "Take a block device or a file into use.",
                {"name": "what to call it", "path": "absolute; rather below /dev/disk/by-id than /dev/sdX"},
                ("create disk0 /dev/sdb",),
            ),
            "delete": CommandText(
                "NAME", "Give a device back. What is on it stays.", {"name": "its name"} | YES, ("delete disk0",)
            ),
        },
    ),
    "/devices/NAME": NodeText("A local block device."),
    "/arrays": NodeText(
        "External arrays: iSCSI targets that annexd logs in to.",
        {
            "create": CommandText(
                "NAME PORTAL TARGET [KEY=VALUE…]",
                "Log in to an external array.",
                {"name": "what to call it"} | _ARRAY | CHAP,
                (
                    "create old 192.0.2.10 iqn.2001-05.com.example:array",
                    "create old 192.0.2.10:3260 iqn.2001-05.com.example:array userid=annex password_file=chap.txt",
                ),
            ),
            "delete": CommandText(
                "NAME", "Log out of an array that nothing uses.", {"name": "its name"} | YES, ("delete old",)
            ),
        },
    ),
    "/arrays/NAME": NodeText(
        "An external array, with the LUs that it shows.",
        {
            "set": CommandText(
                "[auth] KEY=VALUE…", "Change how annexd logs in.", _ARRAY | CHAP, ("set command_timeout_s=8",)
            ),
            "accept_size": CommandText(
                "LUN",
                "Take the size that a LU of it has now; what reaches to its end grows, and hosts are told.",
                {"lun": "of the LU at the array"},
                ("accept_size 3",),
            ),
        },
    ),
    "/vdevs": NodeText(
        "Virtual devices: ordered lists of regions of devices and of LUs of arrays. A LUN shows one of them.",
        {
            "create": CommandText(
                "NAME REGION… [naa=ID]",
                "Make a virtual device of regions, each DEVICE or ARRAY/LUN, with ,offset=SIZE and ,size=SIZE.",
                {"name": "what to call it", "naa": "the id by which hosts know it, of one that was; else it is made"},
                (
                    "create data disk0",
                    "create data disk0,size=10G disk1,offset=1G,size=512MiB",
                    "create migrated old/3",
                ),
            ),
            "delete": CommandText(
                "NAME",
                "Take a virtual device apart. What is stored stays.",
                {"name": "its name"} | YES,
                ("delete data",),
            ),
            "orphans": CommandText("", "List those that the configuration has lost, and whose ids are kept for them."),
            "forget": CommandText(
                "NAME",
                "Forget the id of one that the configuration has lost. What is stored stays.",
                {"name": "as orphans lists it"} | YES,
                ("forget data",),
            ),
        },
    ),
    "/vdevs/NAME": NodeText(
        "A virtual device.",
        {
            "reservations": CommandText("", "Show which hosts have registered keys, and who has it reserved."),
            "clear_reservations": CommandText(
                "[yes=true]",
                "Take all keys and the persistent reservation from hosts that are gone; others are told.",
                YES,
            ),
            "grow": CommandText(
                "",
                "Let it have all that the local device at its end has now. Hosts find the new size with a rescan.",
            ),
        },
    ),
    "/pairs": NodeText(
        "Pairs of virtual devices: what is written to the primary is on the secondary as well.",
        {
            "create": CommandText(
                "PRIMARY SECONDARY [fence_level=LEVEL] [copy=BOOL] [pace=SIZE] [label=TEXT] [wait=true]",
                "Form a pair, and copy the primary to the secondary.",
                {
                    "primary": "a virtual device",
                    "secondary": "another of the same size, which hosts do not write to",
                    "fence_level": "data, status or never: when a write fails because the secondary does",
                    "copy": "false: they are equal already",
                    "pace": "at most this much a second, in whole MiB",
                    "label": "a name for it, up to 32 bytes",
                    "wait": "true: show the progress, and return when they are equal",
                },
                ("create data data-copy", "create data data-copy fence_level=never pace=50MiB --wait"),
                {"fence_level": ("data", "status", "never")},
            ),
            "delete": CommandText(
                "NUMBER", "Dissolve a pair. Both sides keep their data.", {"number": "its number"} | YES, ("delete 1",)
            ),
        },
    ),
    "/pairs/NUMBER": NodeText(
        "A pair.",
        {
            "split": CommandText("", "Stop the mirroring, and track what is written.", {}, ("split",)),
            "resync": CommandText(
                "[wait=true]",
                "Copy what was written since the split.",
                {"wait": "true: return when it is done"},
                ("resync --wait",),
            ),
            "reverse": CommandText(
                "[wait=true] [yes=true]",
                "Copy what differs from the secondary to the primary: what was written to the primary is lost.",
                {"wait": "true: return when it is done"} | YES,
                ("reverse --wait",),
            ),
            "takeover": CommandText(
                "[yes=true]", "Make the secondary writable, because the primary is lost.", YES, ("takeover",)
            ),
            "verify": CommandText(
                "[wait=true]",
                "Compare both sides block by block.",
                {"wait": "true: return when it is done"},
                ("verify --wait",),
            ),
            "set": CommandText(
                "[pace=SIZE] [least_pace=SIZE]",
                "Change how fast it copies and compares, at once, also what is under way.",
                {
                    "pace": "at most this much a second, in whole MiB; 0 for no limit",
                    "least_pace": "so much a second at least while hosts are busy; 16MiB of a new pair",
                },
                ("set pace=200MiB", "set least_pace=4MiB"),
            ),
            "ranges": CommandText(
                "[first_lba=LBA] [limit=N]",
                "List the blocks that are not known to be equal on both sides, such as verify found them.",
                {"first_lba": "where to begin; 0 by default", "limit": "how many at most; 100 by default"},
                ("ranges", "ranges first_lba=4096 limit=10"),
            ),
            "swap": CommandText(
                "[yes=true]", "Make the secondary the primary, and the other way round.", YES, ("swap",)
            ),
        },
    ),
    "/groups": NodeText(
        "Groups of pairs whose secondaries are to be of one moment: an order is carried out on all, or on none.",
        {
            "create": CommandText(
                "NAME NUMBER… [suspend=HOW]",
                "Make a group of pairs, by their numbers; a pair is in one group at most.",
                {"name": "what to call it"} | _SUSPEND,
                ("create database 1 2 3", "create files 4 suspend=alone"),
                {"suspend": ("together", "alone")},
            ),
            "delete": CommandText(
                "NAME", "End a group. Its pairs stay.", {"name": "its name"} | YES, ("delete database",)
            ),
        },
    ),
    "/groups/NAME": NodeText(
        "A group of pairs.",
        {
            "split": CommandText(
                "", "Stop the mirroring of all its pairs at one moment. All must be PAIR and verified.", {}, ("split",)
            ),
            "resync": CommandText(
                "[wait=true]",
                "Copy what was written since the split, on all its pairs.",
                {"wait": "true: return when all are done"},
                ("resync --wait",),
            ),
            "reverse": CommandText(
                "[wait=true] [yes=true]",
                "Copy what differs from the secondaries to the primaries: what was written to the primaries is lost.",
                {"wait": "true: return when all are done"} | YES,
                ("reverse --wait",),
            ),
            "takeover": CommandText(
                "[yes=true]",
                "Make all secondaries writable, because the primaries are lost. Says first what becomes of each pair.",
                YES,
                ("takeover",),
            ),
            "swap": CommandText(
                "[wait=true] [yes=true]",
                "After a takeover: the secondaries become the primaries, and are copied to the old ones.",
                {"wait": "true: return when all are done"} | YES,
                ("swap --wait",),
            ),
            "dissolve": CommandText(
                "[yes=true]", "End all its pairs, and the group. Both sides keep their data.", YES, ("dissolve",)
            ),
            "add": CommandText("NUMBER", "Take a pair into the group.", {"pair": "its number"}, ("add 4",)),
            "remove": CommandText("NUMBER", "Let a pair go on by itself.", {"pair": "its number"}, ("remove 4",)),
            "set": CommandText(
                "suspend=HOW",
                "Change what becomes of the others when a pair loses its secondary.",
                _SUSPEND,
                ("set suspend=alone",),
                {"suspend": ("together", "alone")},
            ),
        },
    ),
    "/acquisitions": NodeText(
        "Reads in two commands that hosts have begun: acquire, then transfer.",
        {
            "delete": CommandText(
                "ID", "End an acquisition, and let its data go.", {"identifier": "as ls shows it"} | YES, ("delete 7",)
            )
        },
    ),
    "/acquisitions/ID": NodeText("An acquisition."),
    "/sessions": NodeText(
        "Hosts that are logged in.",
        {
            "delete": CommandText(
                "TSIH", "End a session; a host that may, comes back.", {"tsih": "as ls shows it"} | YES, ("delete 1",)
            )
        },
    ),
    "/sessions/TSIH": NodeText("A session of a host: its address, its keys, and what it does."),
    "/jobs": NodeText(
        "Work that takes long: copies, comparisons, restores.",
        {
            "delete": CommandText(
                "ID",
                "Forget a job that has ended.",
                {"identifier": "as ls shows it"} | YES,
                ("delete 3",),
            )
        },
    ),
    "/jobs/ID": NodeText(
        "A job.",
        {
            "wait": CommandText("", "Show its progress, and return when it has ended.", {}, ("wait",)),
            "cancel": CommandText(
                "",
                "End a comparison before its time, and say how far it was; a copy ends with a split.",
                {},
                ("cancel",),
            ),
        },
    ),
    "/discovery": NodeText(
        "CHAP for discovery sessions.",
        {
            "set": CommandText(
                "[auth] KEY=VALUE…",
                "Ask for CHAP, or with userid= for none.",
                CHAP,
                ("set userid=scout credential=discovery",),
            )
        },
    ),
    "/control": NodeText(
        "Where admins reach annexd.",
        {
            "set": CommandText(
                "KEY=VALUE…",
                "Change it; this shell may have to be started again.",
                {
                    "socket": "Unix socket for everything",
                    "read_only_socket": "Unix socket for questions only; empty for none",
                    "admin_groups": "groups that may change everything, with commas",
                    "reader_groups": "groups that may ask",
                },
                ("set admin_groups=storage",),
            )
        },
    ),
    "/metrics": NodeText(
        "Where Prometheus finds /metrics.",
        {
            "set": CommandText(
                "listen=HOST:PORT",
                "Listen there; empty for nowhere.",
                {"listen": "host:port"},
                ("set listen=127.0.0.1:9464",),
            )
        },
    ),
}
