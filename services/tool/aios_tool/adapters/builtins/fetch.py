"""Pages of the web, from allowed hosts only, and never from an address that is not public.

A name is looked up once; every address it leads to must be public; the connection goes to just those addresses, so a
name that answers differently the second time gains nothing. Each redirect is a new request under the same rules.
Proxies of the environment are not used: they would look the name up again.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import JsonValue
from yarl import URL

from aios_proto.errors import InvalidRequest, ToolFailed, ToolForbidden, ToolLimitExceeded
from aios_proto.messages.tool import ToolSpec
from aios_tool.core.builtin import Builtin
from aios_tool.ports import Attempt

MAX_REDIRECTS = 5
TIMEOUT_S = 20.0
_PORTS = (80, 443)
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml", "application/javascript")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also where it stands inside another."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and address in _V4_COMPATIBLE:
            return False
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


def is_allowed(host: str, patterns: Sequence[str]) -> bool:
    """Whether a host is one of `example.org`, `*.example.org` (its subdomains) or `*`."""
    name = host.lower().rstrip(".")
    for pattern in patterns:
        wanted = pattern.lower()
        if wanted in ("*", name) or (wanted.startswith("*.") and name.endswith(wanted[1:])):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered."""

    url: str
    status: int
    content_type: str
    text: str


class _Pinned(AbstractResolver):
    """Resolves to the addresses that were checked, and to nothing else."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None: ...


class Fetcher:
    """Fetches pages.

    Args:
        hosts: patterns of allowed hosts, see `is_allowed`.
        max_bytes: of a page.
        may_reach: which addresses may be connected to.
        ports: which ports.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        may_reach: Callable[[Address], bool] = is_public,
        ports: Sequence[int] = _PORTS,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._may_reach = may_reach
        self._ports = ports

    async def get(self, url: str) -> Page:
        """One page, after its redirects.

        Raises:
            InvalidRequest: the URL is none, or not of the web.
            ToolForbidden: it, or a redirect, leads where the tool may not go.
            ToolLimitExceeded: it is too large, or redirects too often.
            ToolFailed: the server cannot be reached, or does not answer with text.
        """
        target = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            page, onward = await self._once(target)
            if page is not None:
                return page
            target = _parsed(str(onward))
        raise ToolLimitExceeded(f"{url} redirects more than {MAX_REDIRECTS} times")

    async def _once(self, url: URL) -> tuple[Page | None, URL]:
        addresses = await self._checked(url)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False, limit=1)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.get(url, allow_redirects=False, headers={"User-Agent": "aios-fetch/1"}) as response,
            ):
                onward = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and onward is not None:
                    return None, url.join(URL(onward))
                return await self._page(url, response), url
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ToolFailed(f"{url.host} cannot be reached: {type(error).__name__}", retryable=True) from error

    async def _page(self, url: URL, response: aiohttp.ClientResponse) -> Page:
        kind = response.content_type
        if not kind.startswith(_TEXT_TYPES) and not kind.endswith(("+json", "+xml")):
            raise ToolFailed(f"{url} is {kind}, not text")
        kept = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            kept += chunk
            if len(kept) > self._max_bytes:
                raise ToolLimitExceeded(f"{url} has more than {self._max_bytes} bytes")
        try:
            text = kept.decode(response.charset or "utf-8", "replace")
        except LookupError:
            text = kept.decode("utf-8", "replace")
        return Page(str(url), response.status, kind, text)

    async def _checked(self, url: URL) -> list[Address]:
        host = url.host or ""
        if not is_allowed(host, self._hosts):
            raise ToolForbidden(f"{host} is not among the hosts that may be fetched from", field="arguments.url")
        if url.port not in self._ports:
            raise ToolForbidden(f"port {url.port} may not be fetched from", field="arguments.url")
        addresses = await _looked_up(host, url.port or 0)
        if any(not self._may_reach(address) for address in addresses):
            raise ToolForbidden(f"{host} leads to an address that is not public", field="arguments.url")
        return addresses


def _parsed(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise InvalidRequest("url: that is no URL", field="arguments.url") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidRequest("url: only http and https are fetched", field="arguments.url")
    if url.user is not None or url.password is not None:
        raise InvalidRequest("url: no user and no password may stand in it", field="arguments.url")
    return url.with_fragment(None)


async def _looked_up(host: str, port: int) -> list[Address]:
    with suppress(ValueError):
        return [ipaddress.ip_address(host.strip("[]").partition("%")[0])]
    try:
        async with asyncio.timeout(TIMEOUT_S / 2):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise ToolFailed(f"{host} cannot be looked up", retryable=True) from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def fetch_tool(fetcher: Fetcher) -> Builtin:
    """The tool."""

    async def work(attempt: Attempt) -> JsonValue:
        page = await fetcher.get(str(attempt.arguments["url"]))
        return {"url": page.url, "status": page.status, "content_type": page.content_type, "text": page.text}

    spec = ToolSpec(
        name="fetch",
        description="Fetches a page of the web as text.",
        input_schema={
            "type": "object",
            "properties": {"url": {"type": "string", "maxLength": 4096}},
            "required": ["url"],
            "additionalProperties": False,
        },
        effects=["read_only"],
        timeout_s=60,
        concurrency=16,
        retries=1,
    )
    return Builtin(spec, work)
