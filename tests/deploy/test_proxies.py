"""What stands in front of the server lets through what the server takes, and says who asks."""

import re

from ironcage_http import variables
from tests.support.deployment import DEPLOY, unit

NGINX = (DEPLOY / "nginx.conf").read_text()
CADDY = (DEPLOY / "Caddyfile").read_text()


def test_both_pass_requests_to_the_server_of_the_unit() -> None:
    """At its address, where nobody else reaches it."""
    settings = dict(each.split("=", 1) for each in unit("ironcage.service")["Environment"])
    address = f"{settings['SERVER_HOST']}:{settings['SERVER_PORT']}"

    assert f"reverse_proxy {address}\n" in CADDY
    assert f"server {address};" in NGINX


def test_nginx_takes_bodies_that_the_server_takes() -> None:
    """It would refuse them in words that no client understands."""
    found = re.search(r"client_max_body_size (\d+)m;", NGINX)

    assert found is not None
    assert int(found[1]) * 2**20 >= 2 * variables.MAX_BODY.default


def test_nginx_says_who_asks_and_lets_the_live_feed_through() -> None:
    """Without the first, all clients share one limit of requests."""
    for line in (
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header Connection $connection_upgrade;",
        "proxy_http_version 1.1;",
    ):
        assert f"\n        {line}\n" in NGINX, line
