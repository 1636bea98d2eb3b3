"""Names that a server answers to, so that no page of another site reads or writes here with a visitor's browser.

Another site can make its own name point at this address (DNS rebinding) and then ask with that name as `Host`. It cannot do so with a
literal address. So an address is always an answerable name, and any other name has to be configured. What a client sends is never compared
with itself.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from sae.errors import InputError

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?")


@dataclass(frozen=True)
class Hosts:
    """Names that a request may use for its host.

    Attributes:
        only_loopback: of addresses, only those of loopback.
        names: further names, in lower case.
    """

    only_loopback: bool
    names: frozenset[str] = frozenset()

    def answers_to(self, host: str) -> bool:
        """Say whether a `Host` header, with or without a port, is answered."""
        name = _name_in(host)
        if name is None:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.names
        return address.is_loopback or not self.only_loopback

    def is_own_page(self, origin: str | None, host: str) -> bool:
        """Say whether an `Origin` header is that of a page of this server: a configured name, or the very address that was asked."""
        try:
            parts = urlsplit(origin or "")
            named = parts.netloc
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not self.answers_to(named):  # either scheme: a proxy may speak TLS to the visitor
            return False
        return _name_in(named) in self.names or named.lower() == host.lower()


def allowed_hosts(host: str, names: list[str]) -> Hosts:
    """The names that a server on `host` answers to.

    Raises:
        InputError: one of `names` is no host name.
    """
    for name in names:
        if not _NAME.fullmatch(name.lower()):
            raise InputError(f"--allowed-host {name[:80]!r} is no host name. Give a name without scheme and port, such as features.example.com")
    own = set() if is_address(host) else {host.lower()}
    return Hosts(is_loopback(host), frozenset({name.lower().rstrip(".") for name in names} | own))


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on is reached from this machine alone."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host.lower() == "localhost"


def is_address(host: str) -> bool:
    """Say whether a host is a literal address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_in(host: str) -> str | None:
    """The name or address in a `Host` header, in lower case; None where there is none."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([^\[\]:/@\s]{1,254})(?::[0-9]{1,5})?", host, re.ASCII)
    return None if match is None else (match[1] or match[2]).lower().rstrip(".")
