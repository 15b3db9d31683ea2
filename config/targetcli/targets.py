"""iSCSI targets of the kernel's target, as annex's targets.

Where something can not be taken over, less is let in and never more: a host whose CHAP secret annex can not take gets
no ACL, and what was open only to hosts that proved themselves is not open to anyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from config import checks, model
from config.errors import ConfigError
from config.targetcli import document
from config.targetcli.document import switch
from config.targetcli.report import Report
from config.targetcli.storage import Stores

EVERYWHERE = ["0.0.0.0/0", "::/0"]
# In the kernel a portal on [::] takes IPv4 as well; in annex each family has its own.
_WILDCARDS = {"0.0.0.0": ("0.0.0.0",), "::": ("0.0.0.0", "::")}  # noqa: S104 - read here, not bound
_SPELLINGS = {"::0": "::"}

_Part = TypeVar("_Part", bound=document.Part)


class Targets:
    """The iSCSI targets of one file.

    Args:
        base: what they are added to.
        stores: the storage objects of the file.
        report: gets what can not be taken over.
    """

    def __init__(self, base: model.Config, stores: Stores, report: Report) -> None:
        self.targets: list[model.Target] = []
        self._names = {target.name for target in base.targets}
        self._stores = stores
        self._report = report

    def add(self, place: str, value: object) -> None:
        """Take over a target, or report why not."""
        try:
            part, unusual = document.read(document.Target, value)
            place = f"/{part.fabric[:40]}/{part.wwn[:230]}"
            if part.fabric != "iscsi":
                raise ConfigError(place, "is not iSCSI, and annex serves hosts over iSCSI only")
            if part.wwn in self._names:
                raise ConfigError(place, "a target of this name is there already")
            target = self._target(place, part)
        except ConfigError as error:
            self._report.leave_out(error.place or place, error.problem)
            return
        if unusual:
            self._report.leave_out(place, f"no counterpart in annex: {', '.join(unusual)}")
        self._names.add(target.name)
        self.targets.append(target)

    def _target(self, place: str, part: document.Target) -> model.Target:
        check_target(place, model.Target(name=part.wwn, portals=["127.0.0.1"], luns=[]))
        groups = {}
        for number, value in enumerate(part.tpgs):
            for group, here in self._read(document.PortalGroup, f"{place}/tpgs[{number}]", value):
                if not group.enable:
                    self._report.leave_out(f"{place}/tpg{group.tag}", "is disabled")
                elif group.tag in groups:
                    self._report.leave_out(here, f"there is a tpg{group.tag} already")
                else:
                    groups[group.tag] = group
        if not groups:
            raise ConfigError(place, "has no portal group that is enabled and can be taken over")
        first, *others = sorted(groups)
        for tag in others:
            self._report.leave_out(
                f"{place}/tpg{tag}", f"a target of annex has one portal group, and tpg{first} is taken"
            )
        return self._from_group(f"{place}/tpg{first}", part.wwn, groups[first])

    def _from_group(self, place: str, name: str, group: document.PortalGroup) -> model.Target:
        portals = list(dict.fromkeys(self._portals(place, group)))
        if not portals:
            raise ConfigError(place, "has no portal that can be taken over")
        luns = self._luns(place, group)
        acls: dict[str, model.Acl] = {}
        for number, value in enumerate(group.node_acls):
            for part, here in self._read(document.NodeAcl, f"{place}/node_acls[{number}]", value):
                acl_place = f"{place}/acls/{part.node_wwn[:230]}"
                try:
                    if part.node_wwn in acls:
                        raise ConfigError(here, f"there is an ACL of {part.node_wwn[:230]!r} already")
                    acls[part.node_wwn] = self._acl(acl_place, part, group, luns)
                except ConfigError as error:
                    self._report.leave_out(error.place, error.problem)
        return model.Target(
            name=name,
            portals=portals,
            luns=[luns[lun] for lun in sorted(luns)],
            acls=list(acls.values()),
            anyone=self._anyone(place, group),
        )

    def _portals(self, place: str, group: document.PortalGroup) -> Iterator[str]:
        for number, value in enumerate(group.portals):
            for part, here in self._read(document.Portal, f"{place}/portals[{number}]", value):
                address = part.ip_address.removeprefix("[").removesuffix("]")
                address = _SPELLINGS.get(address, address)
                if part.iser:
                    self._report.leave_out(here, f"{address[:80]} is iSER (RDMA), and annex speaks TCP")
                    continue
                if part.offload:
                    self._report.differ(here, "was offloaded to the network card; annex answers there by itself")
                for one in _WILDCARDS.get(address, (address,)):
                    portal = model.join_portal(one, part.port)
                    try:
                        check_target(here, model.Target(name="iqn.2026-11.org.example:x", portals=[portal], luns=[]))
                        yield portal
                    except ConfigError as error:
                        self._report.leave_out(here, error.problem)

    def _luns(self, place: str, group: document.PortalGroup) -> dict[int, model.Lun]:
        """Give the LUNs of a portal group by their numbers there."""
        luns: dict[int, model.Lun] = {}
        shown: dict[str, int] = {}
        for number, value in enumerate(group.luns):
            for part, here in self._read(document.Lun, f"{place}/luns[{number}]", value):
                store = self._stores.find(part.storage_object)
                if store is None:
                    self._report.leave_out(f"{place}/luns/{part.index}", f"{part.storage_object[:120]} is not there")
                elif part.index in luns:
                    self._report.leave_out(here, f"there is a LUN {part.index} already")
                elif store.virtual_device in shown:
                    why = f"shows the same as LUN {shown[store.virtual_device]}; annex shows a virtual device once"
                    self._report.leave_out(f"{place}/luns/{part.index}", why)
                elif self._numbered(place, part.index):
                    shown[store.virtual_device] = part.index
                    luns[part.index] = model.Lun(
                        lun=part.index, virtual_device=store.virtual_device, read_only=store.read_only
                    )
        return luns

    def _numbered(self, place: str, lun: int) -> bool:
        if 0 <= lun <= model.MAX_LUN:
            return True
        self._report.leave_out(f"{place}/luns/{lun:.0f}", f"is not within 0 … {model.MAX_LUN}")
        return False

    def _acl(
        self, place: str, part: document.NodeAcl, group: document.PortalGroup, luns: dict[int, model.Lun]
    ) -> model.Acl:
        """Give the ACL of a host.

        Raises:
            ConfigError: without something that annex can not take over it would let in more than before.
        """
        own = str(part.attributes.get("authentication", -1)).strip()
        enforced = _enforced(group) if own == "-1" else own != "0"
        chap, mutual = _chaps(part)
        if enforced and chap is None:
            raise ConfigError(place, "has to prove itself by CHAP, and has no secret to do so")
        if not enforced and chap is not None:
            self._report.leave_out(place, f"CHAP of {chap.name[:80]!r}: it was not asked for (authentication=0)")
            chap = mutual = None
        acl = model.Acl(
            initiator=part.node_wwn, luns=self._mapped(place, part, group, luns), chap=chap, mutual_chap=mutual
        )
        check_target(place, model.Target(name="iqn.2026-11.org.example:x", portals=["127.0.0.1"], luns=[], acls=[acl]))
        return acl

    def _mapped(
        self, place: str, part: document.NodeAcl, group: document.PortalGroup, luns: dict[int, model.Lun]
    ) -> list[model.Lun]:
        protect = switch(group.attributes, "prod_mode_write_protect", 0)
        mapped: dict[int, model.Lun] = {}
        shown: set[str] = set()
        for number, value in enumerate(part.mapped_luns):
            for lun, here in self._read(document.MappedLun, f"{place}/mapped_luns[{number}]", value):
                of_group = luns.get(lun.tpg_lun)
                if of_group is None:
                    self._report.leave_out(f"{place}/mapped_lun{lun.index}", f"LUN {lun.tpg_lun} is not there")
                elif lun.index in mapped or of_group.virtual_device in shown:
                    self._report.leave_out(here, f"LUN {lun.index} or what it shows is there already")
                elif self._numbered(place, lun.index):
                    shown.add(of_group.virtual_device)
                    read_only = of_group.read_only or lun.write_protect or protect
                    mapped[lun.index] = model.Lun(
                        lun=lun.index, virtual_device=of_group.virtual_device, read_only=read_only
                    )
        return [mapped[lun] for lun in sorted(mapped)]

    def _anyone(self, place: str, group: document.PortalGroup) -> model.Anyone | None:
        if not switch(group.attributes, "generate_node_acls", 0):
            if any(_chaps(group)):
                self._report.leave_out(place, "CHAP of the portal group: annex has CHAP for hosts with an ACL")
            return None
        if _enforced(group):
            why = "any host that knows the portal group's CHAP secret was admitted; annex needs an ACL for each"
            self._report.leave_out(place, why)
            return None
        self._report.differ(place, "any host from anywhere is admitted, as before: narrow 'anyone' to your networks")
        return model.Anyone(
            addresses=list(EVERYWHERE), read_only=switch(group.attributes, "demo_mode_write_protect", 1)
        )

    def _read(self, kind: type[_Part], place: str, value: object) -> Iterator[tuple[_Part, str]]:
        """Give a part of the file with its place, or report why it can not be read and give none."""
        try:
            part, unusual = document.read(kind, value)
        except ConfigError as error:
            self._report.leave_out(place, error.problem)
            return
        if unusual:
            self._report.leave_out(place, f"no counterpart in annex: {', '.join(unusual)}")
        yield part, place


def check_target(place: str, target: model.Target) -> None:
    """Check one target by itself, whose LUNs are known to be good.

    Raises:
        ConfigError: it is not valid.
    """
    names = {lun.virtual_device for acl in target.acls for lun in acl.luns or []}
    devices = [model.VirtualDevice(name=name, regions=[model.Region(array="a", lun=0, blocks=1, first_lba=at)])
               for at, name in enumerate(sorted(names))]  # fmt: skip
    array = model.Array(name="a", portal="127.0.0.1", target="iqn.2026-11.org.example:a")
    config = model.Config(
        version=model.VERSION, state_directory="/", arrays=[array], virtual_devices=devices, targets=[target]
    )
    try:
        checks.check(config)
    except (ConfigError, UnicodeError) as error:
        problem = (
            f"{error.place.partition('].')[2]}: {error.problem}" if isinstance(error, ConfigError) else "is not Unicode"
        )
        raise ConfigError(place, problem) from None


def _enforced(group: document.PortalGroup) -> bool:
    methods = str(group.parameters.get("AuthMethod", "CHAP,None")).split(",")
    return switch(group.attributes, "authentication", 0) or "None" not in methods


def _chaps(part: document.ChapPart) -> tuple[model.Chap | None, model.Chap | None]:
    return chap_of(part.chap_userid, part.chap_password), chap_of(part.chap_mutual_userid, part.chap_mutual_password)


def chap_of(name: str, secret: str) -> model.Chap | None:
    """Give one direction of CHAP; None when the file has neither name nor secret for it."""
    return model.Chap(name=name, secret=secret) if name or secret else None
