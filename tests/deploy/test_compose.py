"""docker-compose.yml: one server that can do little beside its work, on a volume that outlives it."""

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ironcage_http.server import GRACE_S
from tests.support.deployment import SECRETS, accepted, health_command, image, image_environment, of_kind
from tests.support.processes import ROOT

KEYS = {
    "build", "cap_drop", "env_file", "environment", "healthcheck", "image", "init", "logging", "networks", "pids_limit",
    "ports", "read_only", "restart", "security_opt", "stop_grace_period", "stop_signal", "tmpfs", "ulimits", "user",
    "volumes",
}  # fmt: skip
"""Of the Compose specification, those that are used."""


@pytest.fixture
def composed() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture
def service(composed: dict[str, Any]) -> dict[str, Any]:
    (only,) = composed["services"].values()
    return dict(only)


def test_it_has_no_key_that_nobody_knows(composed: dict[str, Any], service: dict[str, Any]) -> None:
    """A misspelt protection would be none."""
    assert set(composed) == {"name", "services", "networks", "volumes"}
    assert set(service) == KEYS


def test_what_it_refers_to_is_there(composed: dict[str, Any], service: dict[str, Any]) -> None:
    """The volume, the network, the build arguments, and the file that is made from the example."""
    mounts = [mount.split(":") for mount in service["volumes"]]
    arguments = {rest.partition("=")[0] for rest in of_kind(image(), "ARG")}

    assert mounts == [["data", "/data"]]
    assert set(composed["volumes"]) == {"data"}
    assert set(service["networks"]) == set(composed["networks"])
    assert (ROOT / service["build"]["context"] / "Dockerfile").exists()
    assert set(service["build"]["args"]) == arguments
    assert service["env_file"] == [".env"]
    assert (ROOT / ".env.example").exists()


def test_the_image_is_built_here_and_has_the_version_of_the_program(service: dict[str, Any]) -> None:
    """No host in its name: it is not fetched from anywhere."""
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert service["image"] == f"ironcage:{version}"


def test_it_can_do_little_beside_its_work(service: dict[str, Any]) -> None:
    """No root, no capability, no way to more, and nothing to write to but the volume and /tmp."""
    (temporary,) = service["tmpfs"]

    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert temporary.startswith("/tmp:")  # noqa: S108 - of the container
    assert "noexec" in temporary


def test_only_this_machine_reaches_it(service: dict[str, Any]) -> None:
    """Others reach the proxy, which ends TLS."""
    (port,) = service["ports"]
    host, published, inner = port.split(":")

    assert ipaddress.ip_address(host).is_loopback
    assert (published, inner) == ("8080", image_environment()["SERVER_PORT"])


def test_the_proxy_of_this_machine_is_believed_and_nobody_else(composed: dict[str, Any], tmp_path: Path) -> None:
    """It comes from the gateway of a network that is always the same."""
    (service,) = composed["services"].values()
    (network,) = composed["networks"].values()
    (pool,) = network["ipam"]["config"]
    environ = {**image_environment(), **service["environment"], **SECRETS}

    (proxy,) = accepted(environ, tmp_path).trusted_proxies

    assert str(proxy.network_address) == pool["gateway"]
    assert proxy.num_addresses == 1
    assert ipaddress.ip_address(pool["gateway"]) in ipaddress.ip_network(pool["subnet"])


def test_no_secret_stands_in_it(service: dict[str, Any]) -> None:
    """They are in the file that is made from the example."""
    assert set(service["environment"]) == {"IRON_TRUSTED_PROXIES"}


def test_it_is_asked_how_it_is_as_the_image_says(service: dict[str, Any]) -> None:
    """The same command, which a test runs."""
    kind, command = service["healthcheck"]["test"]

    assert kind == "CMD-SHELL"
    assert command == health_command().replace("${SERVER_PORT}", image_environment()["SERVER_PORT"])


def test_it_comes_back_by_itself_and_is_given_time_to_end(service: dict[str, Any]) -> None:
    """More than the server gives to what is under way."""
    assert service["restart"] == "unless-stopped"
    assert service["stop_signal"] == "SIGTERM"
    assert int(service["stop_grace_period"].removesuffix("s")) >= 3 * GRACE_S
