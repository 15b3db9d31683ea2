"""Ask a running annexd what its OpenAPI document allows, and much that it does not: every answer is as it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from daemon.control.routes import ROUTES
from tests.support.control import ControlClient
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.interop]

TOKEN = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
EXAMPLES = 25  # of each operation


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A daemon with a few things in it, reached over TLS."""
    folder = tmp_path_factory.mktemp("schema")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=20,
    )  # fmt: skip
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "disk.img").write_bytes(bytes(1 << 20))
    (folder / "state").mkdir(mode=0o700)
    tcp = {"listen": f"127.0.0.1:{free_port()}", "certificate": str(folder / "cert.pem"),
           "key": str(folder / "key.pem"), "token_file": str(folder / "token")}  # fmt: skip
    target = "iqn.2026-11.org.example:schema"
    config = {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": "disk", "path": str(folder / "disk.img")}],
        "virtual_devices": [{"name": "vdev", "regions": [{"device": "disk"}]}],
        "targets": [
            {"name": target, "portals": [f"127.0.0.1:{free_port()}"], "luns": [{"lun": 0, "virtual_device": "vdev"}]}
        ],
        "control": {"socket": str(folder / "control.sock"), "tcp": tcp},
    }
    with Served(folder, config):
        yield {"url": f"https://{tcp['listen']}", "cert": tcp["certificate"], "socket": folder / "control.sock"}


@pytest.fixture(scope="module")
def document(asked: dict[str, Any]) -> Any:
    return schemathesis.openapi.from_dict(ControlClient(asked["socket"]).get("/v1/openapi.json"))


# A guess that is valid would take away what the test asks through.
NOT_ASKED = {("PUT", "/v1/control"), ("PUT", "/v1/config")}
OPERATIONS = [(route.method, route.path) for route in ROUTES if (route.method, route.path) not in NOT_ASKED]


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)
def test_every_answer_is_as_the_document_says(asked: dict[str, Any], document: Any, method: str, path: str) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=document[path][method].as_strategy())
    def answers(case: Any) -> None:
        response = case.call(
            base_url=asked["url"], headers={"Authorization": f"Bearer {TOKEN}"}, verify=asked["cert"], timeout=20
        )
        case.validate_response(response, checks=CHECKS)

    answers()


def test_the_document_names_every_route_and_its_daemon_still_serves(asked: dict[str, Any]) -> None:
    api = ControlClient(asked["socket"])
    paths = api.get("/v1/openapi.json")["paths"]
    assert {"/v1/status", "/v1/config", "/v1/targets/{target}/acls/{initiator}/luns/{lun}"} <= set(paths)
    assert len(json.dumps(paths)) > 10_000
    assert api.get("/v1/status")["state"] == "serving"
