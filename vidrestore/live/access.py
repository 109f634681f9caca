"""Who may talk to the page's server: the machine itself, or whoever knows the token.

A web page anywhere can make a browser send requests to this server, and a name under somebody else's control can be
made to point at it. So every request must name this server as its Host, and every one that a page makes must come
from a page of this server (Origin, Sec-Fetch-Site). On a loopback address that is enough, since only programs of this
machine reach it; on any other address a token is asked for as well.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["PROTOCOL", "TOKEN_PREFIX", "Gate", "is_loopback", "new_token"]

PROTOCOL = "vidrestore.live.1"
"""The WebSocket's subprotocol."""
TOKEN_PREFIX = "token."
"""A browser cannot set headers of a WebSocket, but it can name subprotocols: one of them carries the token."""
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def new_token() -> str:
    """128 bits that nobody guesses, in letters and digits that an address may hold."""
    return secrets.token_urlsafe(16)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides on each request."""

    host: str
    """What the server is bound to."""
    token: str | None = None
    """Asked for where it is not None."""
    names: frozenset[str] = field(default_factory=frozenset)
    """Further names under which the server may be addressed."""

    def refusal(self, headers: Mapping[str, str], *, is_page: bool = False) -> tuple[int, str] | None:
        """HTTP status and reason where a request is refused, None where it may pass.

        Args:
            headers: of the request.
            is_page: it asks for the page itself, which holds nothing and has no token to show yet.
        """
        host = headers.get("Host", "")
        if not self._is_ours(host):
            return 421, "this server is not known by that name"
        origin = headers.get("Origin")
        if origin is not None and not _same_origin(origin, host):
            return 403, "a page of another origin may not use this server"
        # a link to the page may be followed from anywhere; pictures and controls are for the page alone
        site = headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none") and not is_page:
            return 403, "a page of another origin may not use this server"
        if self.token is not None and not is_page and not self._knows_token(headers):
            return 401, "the token is missing or wrong; open the address that was printed at the start"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if not name or host != host.strip() or "@" in host or "/" in host:
            return False
        if name in _LOOPBACK_NAMES or name == self.host or name in self.names:
            return True
        if is_loopback(self.host):
            return False
        if _is_address(name):  # a rebound name is a name; a number is who it says it is
            return True
        own = socket.gethostname().lower()
        return name in (own, f"{own}.local", f"{own.partition('.')[0]}.local")

    def _knows_token(self, headers: Mapping[str, str]) -> bool:
        assert self.token is not None
        # every candidate is compared, in constant time, so that nothing is learned from how long it takes
        return any([hmac.compare_digest(one.encode(), self.token.encode()) for one in _shown_tokens(headers)])


def _shown_tokens(headers: Mapping[str, str]) -> Iterable[str]:
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    for word in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if word.strip().startswith(TOKEN_PREFIX):
            yield word.strip()[len(TOKEN_PREFIX) :]


def _same_origin(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme == "http" and parts.netloc.lower() == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
