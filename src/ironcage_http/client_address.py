"""The client's address: the socket's peer, or what a trusted proxy says of it.

Every proxy appends the address it was called from, so the list is believed from the right, as long as those who wrote
it are trusted; what stands further left, anybody may have made up.

Source: contract identity.md 8.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from ironcage_http.variable_kinds import Network

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_ONE_CUSTOMER: Final = 64
"""Bits that name the network of one customer at least. Source: RFC 6177."""

_WITH_PORT: Final = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}", re.ASCII)


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """Return the address that a request came from, in its canonical form.

    Args:
        peer: The peer of the socket; None if there is none. What is no address is returned as it is.
        forwarded: The values of all `X-Forwarded-For` headers, in their order; read only where the peer is trusted.
        trusted: The networks of the proxies.

    Returns:
        The right-most hop that is not trusted. An entry that is no address ends the list: the hop right of it counts.
    """
    address = _address_of(peer or "")
    if address is None:
        return peer
    hops = (hop.strip() for hop in reversed(",".join(forwarded).split(",")))
    for hop in filter(None, hops):
        found = _address_of(hop) if _is_in(address, trusted) else None
        if found is None:
            break
        address = found
    return str(address)


def counted_as(address: str | None) -> str:
    """Return by what an address is counted: one of IPv6 by its network, for a customer has a whole one to himself."""
    found = _address_of(address or "")
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, _ONE_CUSTOMER), strict=False))
    return address or ""


def _is_in(address: _Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _address_of(text: str) -> _Address | None:
    form = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((form[1] or form[2] or "") if form else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # Two ways to write one client are one client: an IPv4 peer of an IPv6 socket, and a link's zone.
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address
