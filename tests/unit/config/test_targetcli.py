"""Taking over the kernel target's saveconfig.json: what becomes what, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import checks, model
from config.errors import ConfigError
from config.targetcli.conversion import convert
from config.targetcli.report import MAX_LINES, Report
from tests.support.kernel_target import KernelTarget

TARGET = "iqn.2003-01.org.linux-iscsi.host.x8664:sn.0123456789ab"
HOST = "iqn.1994-05.com.redhat:host"
SECRET, MUTUAL = "canary-one-4c1d", "canary-two-77aa"
EMPTY = model.Config(version=model.VERSION, state_directory="/var/lib/annex")

Import = Any


@pytest.fixture
def kernel(tmp_path: Path) -> KernelTarget:
    folder = tmp_path / "target"
    folder.mkdir()
    return KernelTarget(folder)


@pytest.fixture
def take_over(kernel: KernelTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Save what the kernel's target has, by rtslib-fb, and convert it."""

    def run(base: model.Config = EMPTY) -> tuple[model.Config, Report]:
        path = tmp_path / "saveconfig.json"
        kernel.save(path, monkeypatch)
        config, report = convert(path.read_bytes(), base, "saveconfig.json")
        for entries in (config.devices, config.virtual_devices, config.targets, report.left_out, report.differences):
            entries.sort(key=str)  # a folder has no order
        for target in config.targets:
            target.portals.sort()
            target.acls.sort(key=str)
        return config, report

    return run


def converted(document: object, base: model.Config = EMPTY) -> tuple[model.Config, Report]:
    return convert(json.dumps(document).encode(), base, "saveconfig.json")


def left_out(report: Report) -> list[str]:
    return [str(line) for line in report.left_out]


def differences(report: Report) -> list[str]:
    return [str(line) for line in report.differences]


# --- What rtslib-fb writes ---


def test_a_target_with_acls_luns_and_chap_is_taken_over_whole(kernel: KernelTarget, take_over: Import) -> None:
    disk = kernel.storage_object("iblock", "disk0", "/dev/sdb", write_back=True)
    image = kernel.storage_object("fileio", "img", "/srv/img", write_back=True)
    group = kernel.group(kernel.target(TARGET), authentication=1)
    kernel.portal(group, "192.0.2.1")
    kernel.portal(group, "[2001:db8::1]", 3261)
    first, second = kernel.lun(group, 0, disk), kernel.lun(group, 7, image)
    acl = kernel.acl(group, HOST)
    kernel.chap(acl, "host", SECRET, ("annex", MUTUAL))
    kernel.mapped_lun(acl, 0, second, write_protect=True)
    kernel.mapped_lun(acl, 1, first)
    kernel.discovery("finder", SECRET, ("annex", MUTUAL))
    config, report = take_over()
    chap, mutual = model.Chap(name="host", secret=SECRET), model.Chap(name="annex", secret=MUTUAL)
    assert config == model.Config(
        version=model.VERSION,
        state_directory="/var/lib/annex",
        devices=[model.Device(name="disk0", path="/dev/sdb"), model.Device(name="img", path="/srv/img")],
        virtual_devices=[
            model.VirtualDevice(name="disk0", regions=[model.Region(device="disk0")]),
            model.VirtualDevice(name="img", regions=[model.Region(device="img")]),
        ],
        targets=[
            model.Target(
                name=TARGET,
                portals=["192.0.2.1:3260", "[2001:db8::1]:3261"],
                luns=[model.Lun(lun=0, virtual_device="disk0"), model.Lun(lun=7, virtual_device="img")],
                acls=[
                    model.Acl(
                        initiator=HOST,
                        luns=[
                            model.Lun(lun=0, virtual_device="img", read_only=True),
                            model.Lun(lun=1, virtual_device="disk0"),
                        ],
                        chap=chap,
                        mutual_chap=mutual,
                    )
                ],
            )
        ],
        discovery=model.Discovery(chap=model.Chap(name="finder", secret=SECRET), mutual_chap=mutual),
    )
    assert left_out(report) == []
    assert [line.split(": ")[0] for line in differences(report)] == [
        "/backstores/block/disk0",
        "/backstores/fileio/img",
    ]
    assert all("serial number '0f3e-" in line for line in differences(report))


def test_demo_mode_becomes_anyone_and_is_pointed_out(kernel: KernelTarget, take_over: Import) -> None:
    for tag, protect in enumerate((0, 1)):
        group = kernel.group(kernel.target(f"{TARGET}.{tag}"), generate_node_acls=1, demo_mode_write_protect=protect)
        kernel.portal(group, "192.0.2.1", 3260 + tag)
    config, report = take_over()
    assert [target.anyone for target in config.targets] == [
        model.Anyone(addresses=["0.0.0.0/0", "::/0"], read_only=read_only) for read_only in (False, True)
    ]
    assert all("narrow 'anyone'" in line for line in differences(report))


def test_what_needed_a_secret_is_never_open_without_one(kernel: KernelTarget, take_over: Import) -> None:
    group = kernel.group(kernel.target(TARGET), generate_node_acls=1, authentication=1)
    kernel.chap(group, "all", SECRET)
    kernel.portal(group, "192.0.2.1")
    kernel.acl(group, f"{HOST}.none")
    kernel.chap(kernel.acl(group, f"{HOST}.short"), "host", "short")
    kernel.chap(kernel.acl(group, f"{HOST}.same"), "host", SECRET, ("annex", SECRET))
    kernel.chap(kernel.acl(group, f"{HOST}.good"), "host", SECRET)
    kernel.acl(group, f"{HOST}.free", authentication=0)
    config, report = take_over()
    assert config.targets[0].anyone is None
    acls = {acl.initiator: acl.chap and acl.chap.name for acl in config.targets[0].acls}
    assert acls == {f"{HOST}.good": "host", f"{HOST}.free": None}
    said = "\n".join(left_out(report))
    assert f"{HOST}.none: has to prove itself by CHAP" in said
    assert f"{HOST}.short: acls[0].chap.secret: is not 12 to 256 bytes long" in said
    assert f"{HOST}.same: acls[0].mutual_chap.secret: is the same as chap.secret" in said
    assert "annex needs an ACL for each" in said
    assert "short" not in said.replace(f"{HOST}.short", "")


@pytest.mark.parametrize(
    ("group_settings", "acl_settings", "asked"),
    [
        ({}, {}, False),
        ({"authentication": 1}, {}, True),
        ({"authentication": 1}, {"authentication": 0}, False),
        ({}, {"authentication": 1}, True),
        ({"AuthMethod": "CHAP"}, {}, True),
    ],
)
def test_chap_is_taken_over_where_it_was_asked_for(
    kernel: KernelTarget,
    take_over: Import,
    group_settings: dict[str, Any],
    acl_settings: dict[str, Any],
    asked: bool,
) -> None:
    group = kernel.group(kernel.target(TARGET), **group_settings)
    kernel.portal(group, "192.0.2.1")
    kernel.chap(kernel.acl(group, HOST, **acl_settings), "host", SECRET)
    config, report = take_over()
    assert (config.targets[0].acls[0].chap is not None) is asked
    assert any("was not asked for" in line for line in left_out(report)) is not asked


def test_discovery_secrets_that_annex_can_not_take_are_pointed_out(kernel: KernelTarget, take_over: Import) -> None:
    kernel.discovery("finder", "short")
    config, report = take_over()
    assert config.discovery is None
    assert "discovery is open until you set its secret" in left_out(report)[0]


def test_write_protection_of_objects_groups_and_maps_is_kept(kernel: KernelTarget, take_over: Import) -> None:
    disk = kernel.storage_object("iblock", "disk0", "/dev/sdb")
    (disk / "info").write_text((disk / "info").read_text().replace("readonly: 0", "readonly: 1"))
    other = kernel.storage_object("iblock", "disk1", "/dev/sdc")
    target = kernel.group(kernel.target(TARGET))
    kernel.portal(target, "192.0.2.1")
    luns = [kernel.lun(target, 0, disk), kernel.lun(target, 1, other)]
    acl = kernel.acl(target, HOST)
    for number, lun in enumerate(luns):
        kernel.mapped_lun(acl, number, lun)
    protected = kernel.group(kernel.target(f"{TARGET}.p"), prod_mode_write_protect=1)
    kernel.portal(protected, "192.0.2.1")
    kernel.mapped_lun(kernel.acl(protected, HOST), 0, kernel.lun(protected, 0, other))
    config, _ = take_over()
    of_target, of_protected = sorted(config.targets, key=lambda target: len(target.name))
    assert [lun.read_only for lun in of_target.luns] == [True, False]
    assert [lun.read_only for lun in of_target.acls[0].luns or []] == [True, False]
    assert [lun.read_only for lun in of_protected.acls[0].luns or []] == [True]


def test_wildcards_answer_where_they_answered(kernel: KernelTarget, take_over: Import) -> None:
    group = kernel.group(kernel.target(TARGET))
    kernel.portal(group, "[::0]")
    kernel.portal(group, "0.0.0.0")
    kernel.portal(group, "192.0.2.1", 3261, iser=True)
    config, report = take_over()
    at = left_out(report)[0].partition("portals[")[2][0]
    assert config.targets[0].portals == ["0.0.0.0:3260", "[::]:3260"]
    assert left_out(report) == [f"/iscsi/{TARGET}/tpg1/portals[{at}]: 192.0.2.1 is iSER (RDMA), and annex speaks TCP"]


def test_settings_without_a_counterpart_are_named(kernel: KernelTarget, take_over: Import) -> None:
    disk = kernel.storage_object("iblock", "disk0", "/dev/sdb", emulate_tpu=1, queue_depth=7)
    group = kernel.group(kernel.target(TARGET), MaxOutstandingR2T="8", login_timeout=30)
    kernel.portal(group, "192.0.2.1")
    kernel.lun(group, 0, disk)
    kernel.acl(group, HOST, tag="blue", nopin_timeout=1)
    _, report = take_over()
    said = left_out(report)
    assert "/backstores/block/disk0: no counterpart in annex: emulate_tpu=1" in said
    assert f"/iscsi/{TARGET}/tpgs[0]: no counterpart in annex: login_timeout=30, MaxOutstandingR2T=8" in said
    assert f"/iscsi/{TARGET}/tpg1/node_acls[0]: no counterpart in annex: tag=blue, nopin_timeout=1" in said


# --- What annex has no place for ---


OBJECT: dict[str, Any] = {"name": "d", "plugin": "block", "dev": "/dev/sdb", "wwn": "w", "write_back": True}
GROUP: dict[str, Any] = {
    "tag": 1,
    "enable": True,
    "portals": [{"ip_address": "192.0.2.1", "port": 3260}],
    "luns": [{"index": 0, "storage_object": "/backstores/block/d"}],
    "node_acls": [{"node_wwn": HOST, "mapped_luns": [{"index": 0, "tpg_lun": 0}]}],
}


def with_objects(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"storage_objects": [OBJECT | changes for changes in objects], "targets": []}


def with_groups(*groups: dict[str, Any]) -> dict[str, Any]:
    target = {"wwn": TARGET, "fabric": "iscsi", "tpgs": [GROUP | changes for changes in groups]}
    return {"storage_objects": [OBJECT], "targets": [target]}


def test_the_sample_itself_is_taken_over_whole() -> None:
    config, report = converted(with_groups({}))
    assert left_out(report) == []
    assert config.targets[0].acls[0].luns == [model.Lun(lun=0, virtual_device="d")]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (with_objects({"plugin": "pscsi"}), "/backstores/pscsi/d: hands a SCSI device's own commands through"),
        (with_objects({"plugin": "ramdisk", "dev": None}), "/backstores/ramdisk/d: is memory"),
        (with_objects({"plugin": "user:rbd"}), "/backstores/user:rbd/d: is served by another program"),
        (with_objects({"plugin": "new"}), "/backstores/new/d: is of a kind that annex does not know"),
        (with_objects({"dev": None}), "/backstores/block/d: has no path"),
        (with_objects({"dev": "sdb"}), "'sdb' is not an absolute path"),
        (with_objects({}, {}), "stands there twice"),
        (with_objects({}, {"name": "e"}), "/backstores/block/e: lies on the same path as /backstores/block/d"),
        (with_objects({"plugin": "fileio", "attributes": {"block_size": 4096}}), "has blocks of 4096 bytes"),
        (with_objects({"name": 5, "dev": []}), "storage_objects[0]: can not be read: Expected `str"),
        (with_objects({"alua_tpgs": [{"name": "standby"}]}), "1 ALUA target port groups"),
        (with_objects({"colour": "red"}), "no counterpart in annex: unknown key 'colour'"),
        ({"targets": [{"wwn": "naa.5001405000000001", "fabric": "qla2xxx"}]}, "is not iSCSI"),
        ({"targets": [{"fabric": "iscsi"}]}, "targets[0]: can not be read: Object missing required field `wwn`"),
        ({"targets": [{"wwn": "iqn.x/y", "fabric": "iscsi", "tpgs": [GROUP]}]}, "'iqn.x/y' is not an iSCSI name"),
        ({"targets": [{"wwn": TARGET, "fabric": "iscsi"}]}, "has no portal group"),
        (with_groups({"enable": False}), f"/iscsi/{TARGET}/tpg1: is disabled"),
        (with_groups({}, {"tag": 2}), f"/iscsi/{TARGET}/tpg2: a target of annex has one portal group, and tpg1"),
        (with_groups({}, {}), "there is a tpg1 already"),
        (with_groups({"portals": []}), f"/iscsi/{TARGET}/tpg1: has no portal that can be taken over"),
        (with_groups({"portals": [{"ip_address": "a b", "port": 1}, *GROUP["portals"]]}), "'a b:1' is not host:port"),
        (with_groups({"luns": [{"index": 0, "storage_object": "/backstores/block/x"}]}), "block/x is not there"),
        (with_groups({"luns": [{"index": 256, "storage_object": "/backstores/block/d"}]}), "luns/256: is not within"),
        (with_groups({"luns": GROUP["luns"] * 2}), "there is a LUN 0 already"),
        (with_groups({"luns": [*GROUP["luns"], {"index": 1, "storage_object": "/backstores/block/d"}]}),
         "luns/1: shows the same as LUN 0"),
        (with_groups({"node_acls": GROUP["node_acls"] * 2}), f"there is an ACL of '{HOST}' already"),
        (with_groups({"node_acls": [{"node_wwn": "eve"}]}), "'eve' is not an iSCSI name"),
        (with_groups({"node_acls": [{"node_wwn": HOST, "mapped_luns": [{"index": 0, "tpg_lun": 9}]}]}),
         "mapped_lun0: LUN 9 is not there"),
        (with_groups({"node_acls": [{"node_wwn": HOST, "mapped_luns": [{"index": 999, "tpg_lun": 0}]}]}),
         "luns/999: is not within"),
        (with_groups({"node_acls": [{"node_wwn": HOST, "mapped_luns": [{"index": i, "tpg_lun": 0} for i in (0, 1)]}]}),
         "mapped_luns[1]: LUN 1 or what it shows is there already"),
        (with_groups({"node_acls": [7]}), "node_acls[0]: can not be read: Expected `object`, got `int`"),
        ({"storage_objects": [], "gadgets": []}, "unknown key 'gadgets'"),
    ],
)  # fmt: skip
def test_what_can_not_be_taken_over_is_said_with_its_place(document: dict[str, Any], words: str) -> None:
    _, report = converted(document)
    assert any(words in line for line in left_out(report)), left_out(report)


def test_names_that_annex_does_not_take_become_others() -> None:
    objects = [{"name": "a,b", "dev": "/dev/1"}, {"name": "a;b", "dev": "/dev/2"}, {"name": "é", "dev": "/dev/3"}]
    config, report = converted(with_objects(*objects))
    assert [device.name for device in config.devices] == ["a-b", "a-b-2", "disk-"]
    assert any("is called a-b-2 in annex" in line for line in differences(report))


def test_what_is_in_force_stays_and_is_not_taken_twice() -> None:
    config, _ = converted(with_groups({}))
    again, report = converted(with_groups({}), config)
    assert again == config
    assert any("lies on the same path as annex's device d" in line for line in left_out(report))
    assert any("a target of this name is there already" in line for line in left_out(report))


def test_files_of_older_versions_have_strings_for_numbers() -> None:
    config, report = converted(
        with_groups({"tag": "1", "attributes": {"generate_node_acls": "1", "authentication": "0"}})
    )
    assert config.targets[0].anyone is not None
    assert left_out(report) == []


# --- Bad input ---


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"7", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"targets": {}}', b"9" * 5000,
        b'{"targets": "\\ud800"}', b'{"storage_objects": 1}', b"[" + b" " * 9_000_000,
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_what_is_no_such_file_gets_one_line(data: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        convert(data, EMPTY, "saveconfig.json")
    assert str(refused.value).startswith("saveconfig.json")
    assert len(str(refused.value)) < 300


def test_a_report_of_rubbish_ends() -> None:
    _, report = converted({"targets": [0] * (MAX_LINES + 5)})
    assert len(report.left_out) == MAX_LINES
    assert "… and 5 lines more" in str(report)


@pytest.mark.slow
def test_four_thousand_hosts_take_seconds_and_not_hours() -> None:
    acls = [{"node_wwn": f"{HOST}.{n}", "mapped_luns": [{"index": 0, "tpg_lun": 0}]} for n in range(4000)]
    config, _ = converted(with_groups({"node_acls": acls}))
    assert len(config.targets[0].acls) == 4000


def test_no_secret_is_in_the_report(kernel: KernelTarget, take_over: Import) -> None:
    group = kernel.group(kernel.target(TARGET), authentication=1)
    kernel.portal(group, "192.0.2.1")
    kernel.chap(group, "all", SECRET)
    kernel.chap(kernel.acl(group, HOST), "host", SECRET, ("", MUTUAL))
    kernel.chap(kernel.acl(group, f"{HOST}.2"), "", SECRET)
    kernel.discovery("finder", SECRET, ("annex", SECRET))
    config, report = take_over()
    assert "canary" not in str(report) + repr(config)


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["iscsi", "block", "fileio", "/dev/sdb", "/backstores/block/d", TARGET, HOST, "192.0.2.1"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            [
                "storage_objects", "targets", "fabric_modules", "tpgs", "luns", "portals", "node_acls", "mapped_luns",
                "name", "plugin", "dev", "wwn", "fabric", "tag", "enable", "index", "storage_object", "ip_address",
                "port", "iser", "node_wwn", "tpg_lun", "write_protect", "attributes", "parameters", "authentication",
                "generate_node_acls", "chap_userid", "chap_password", "readonly", "alua_tpgs", "discovery_enable_auth",
            ]
        ),
        inner,
        max_size=8,
    ),
    max_leaves=40,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Give a good file of which some values have become something else."""
    document = json.loads(json.dumps(with_groups({}, {"tag": 2})))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = document
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if draw(st.booleans()) and isinstance(place[key], dict | list):
                place = place[key]
                continue
            place[key] = draw(SCRAPS)
            break
    return document


@settings(deadline=None, max_examples=150)
@given(SCRAPS | damaged() | st.fixed_dictionaries({"storage_objects": SCRAPS, "targets": SCRAPS}))
def test_any_document_gives_a_valid_configuration_or_one_line(document: Any) -> None:
    try:
        config, report = converted(document)
    except ConfigError:
        return
    checks.check(config)
    assert all("\n" not in str(line) for line in report.left_out + report.differences)
