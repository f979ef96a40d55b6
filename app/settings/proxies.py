"""The networks whose proxies a listener believes."""

import ipaddress

from app.settings.errors import ConfigurationError, shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(prefix: str, text: str) -> Network:
    """Return the network that `text` writes, of IPv4 if it is mapped. Raises ConfigurationError, which begins with `prefix`."""
    try:
        found = ipaddress.ip_network(text)
        reason = "it has a zone, which no client has" if "%" in text else ""
    except ValueError as error:
        reason = shown(error)
    if reason:
        raise ConfigurationError(
            f"{prefix} trusted_proxies={shown(repr(text))} is no network ({reason}); write it like 10.0.0.0/8"
        )
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:  # peers are compared as the IPv4 addresses that they are
        return ipaddress.ip_network((mapped, found.prefixlen - 96))
    return found
