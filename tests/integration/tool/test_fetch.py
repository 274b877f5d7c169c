"""Pages of the web: what is fetched, and the ways round the rules that are closed."""

import ipaddress
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from aiohttp import web

from aios_proto.errors import InvalidRequest, ToolFailed, ToolForbidden, ToolLimitExceeded
from aios_tool.adapters.builtins.fetch import Fetcher, is_allowed, is_public

MakeFetcher = Callable[..., Fetcher]


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG", content_type="image/png")

    async def large(_: web.Request) -> web.Response:
        return web.Response(text="x" * 5000)

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def circle(_: web.Request) -> web.Response:
        raise web.HTTPFound("/circle")

    app = web.Application()
    app.router.add_get("/circle", circle)
    app.router.add_get("/", page)
    app.router.add_get("/picture", picture)
    app.router.add_get("/large", large)
    app.router.add_get("/redirect", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture
def open_fetcher(port: int) -> Fetcher:
    """Takes the test's own server for a public one."""
    return Fetcher(["localhost", "127.0.0.1"], 1024, lambda address: address.is_loopback, (port,))


async def test_a_page_is_fetched(open_fetcher: Fetcher, port: int) -> None:
    page = await open_fetcher.get(f"http://localhost:{port}/")
    assert (page.status, page.text, page.content_type) == (200, "hello", "text/plain")


async def test_a_redirect_is_followed(open_fetcher: Fetcher, port: int) -> None:
    page = await open_fetcher.get(f"http://localhost:{port}/redirect?to=/")
    assert page.url == f"http://localhost:{port}/"


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/latest/meta-data/", "http://example.org/", "http://localhost:1/", "http://10.0.0.1/"]
)
async def test_a_redirect_out_of_bounds_is_not_followed(open_fetcher: Fetcher, port: int, to: str) -> None:
    with pytest.raises(ToolForbidden):
        await open_fetcher.get(f"http://localhost:{port}/redirect?to={to}")


async def test_a_redirect_to_another_kind_of_url_is_refused(open_fetcher: Fetcher, port: int) -> None:
    with pytest.raises(InvalidRequest):
        await open_fetcher.get(f"http://localhost:{port}/redirect?to=file:///etc/passwd")


async def test_redirects_in_a_circle_end(open_fetcher: Fetcher, port: int) -> None:
    with pytest.raises(ToolLimitExceeded):
        await open_fetcher.get(f"http://localhost:{port}/circle")


async def test_a_large_page_and_a_picture_are_refused(open_fetcher: Fetcher, port: int) -> None:
    with pytest.raises(ToolLimitExceeded):
        await open_fetcher.get(f"http://localhost:{port}/large")
    with pytest.raises(ToolFailed):
        await open_fetcher.get(f"http://localhost:{port}/picture")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"),
        *("017700000001", "169.254.169.254", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "224.0.0.1"),
        *("255.255.255.255", "[fe80::1]", "[fc00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::]", "[::7f00:1]"),
    ],
)
async def test_no_spelling_of_a_private_address_is_reached(host: str) -> None:
    with pytest.raises((ToolForbidden, ToolFailed, InvalidRequest)) as caught:
        await Fetcher(["*"], 1024).get(f"http://{host}/")
    assert not isinstance(caught.value, ToolFailed) or "looked up" in caught.value.message


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/", "gopher://x/", "http://", "http://user:secret@example.org/", "no"],
)
async def test_only_plain_addresses_of_the_web_are_taken(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await Fetcher(["*"], 1024).get(url)


async def test_only_allowed_hosts_and_ports_are_reached() -> None:
    fetcher = Fetcher(["*.example.org"], 1024)
    for url in (
        "http://example.com/",
        "http://example.org.evil.com/",
        "http://notexample.org/",
        "http://a.example.org:22/",
    ):
        with pytest.raises(ToolForbidden):
            await fetcher.get(url)


def test_patterns_and_public_addresses() -> None:
    assert is_allowed("WWW.Example.org.", ["*.example.org"])
    assert not is_allowed("example.org", ["*.example.org"])
    assert is_allowed("anything", ["*"])
    for address in ("1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"):
        assert is_public(ipaddress.ip_address(address))
