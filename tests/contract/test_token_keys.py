"""Port ``TokenKeys``: one suite over every registered adapter, then what only one of them promises."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import ValidationError

from adapters.keys.jwks_file import JwksFile, JwksFileSettings
from adapters.keys.jwks_url import JwksUrl, JwksUrlSettings
from bridge.config.adapters import TOKEN_KEYS, load_adapters
from bridge.errors import Unavailable

FIRST = {"keys": [{"kty": "EC", "kid": "one"}, "nonsense"]}
SECOND = {"keys": [{"kty": "EC", "kid": "one"}, {"kty": "EC", "kid": "two"}]}


class Issuer:
    """A server of one document on loopback; counts how often it is asked."""

    def __init__(self):
        self.document, self.status, self.asked = b"", 200, 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked += 1
                self.send_response(issuer.status)
                self.send_header("Content-Length", str(len(issuer.document)))
                self.end_headers()
                self.wfile.write(issuer.document)

            def log_message(self, *_):
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def publish(self, document):
        self.document = document if isinstance(document, bytes) else json.dumps(document).encode()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer():
    server = Issuer()
    yield server
    server.close()


class FileHarness:
    def __init__(self, tmp_path, issuer):
        self.path = tmp_path / "issuer.jwks.json"
        self.keys = JwksFile(JwksFileSettings(path=self.path))

    def publish(self, document):
        self.path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())


class UrlHarness:
    def __init__(self, tmp_path, issuer):
        self.keys = JwksUrl(JwksUrlSettings(url=issuer.url, retry_seconds=0.000001, keep_seconds=0.000001))
        self.publish = issuer.publish


HARNESSES = {"jwks-file": FileHarness, "jwks-url": UrlHarness}


def ask(keys, *key_ids):
    """The ids of the keys at each asking."""

    async def asking():
        try:
            return [[key["kid"] for key in await keys.keys(key_id)] for key_id in key_ids]
        finally:
            await keys.close()

    return asyncio.run(asking())


@pytest.fixture(params=sorted(HARNESSES))
def harness(request, tmp_path, issuer):
    return HARNESSES[request.param](tmp_path, issuer)


def test_every_registered_adapter_is_under_contract():
    """An adapter that is registered has a harness here."""
    assert set(load_adapters(TOKEN_KEYS)) == set(HARNESSES)


def test_keys_are_those_published(harness):
    """Only what is a key is given; the id asked for does not narrow the answer."""
    harness.publish(FIRST)

    assert ask(harness.keys, None, "one", "other") == [["one"]] * 3


def test_a_rotation_is_seen(harness):
    """A key that was added is there when it is asked for."""
    harness.publish(FIRST)

    async def rotating():
        before = await harness.keys.keys("one")
        harness.publish(SECOND)
        after = await harness.keys.keys("two")
        await harness.keys.close()
        return [len(before), len(after)]

    assert asyncio.run(rotating()) == [1, 2]


@pytest.mark.parametrize(
    "document",
    [b"nonsense", b"[]", b"{}", b'{"keys":{}}', b'{"keys":["\xff"]}', b'{"keys":' + b"[" * 100_000],
    ids=["nonsense", "array", "empty", "object", "not-utf-8", "nested"],
)
def test_nonsense_takes_the_place_of_no_keys(harness, document):
    """Without keys at hand nothing is verified; with keys at hand nonsense does not put them out of force."""
    harness.publish(document)
    with pytest.raises(Unavailable) as caught:
        ask(harness.keys, "one")
    assert caught.value.code == "token-keys-unavailable"

    async def replaced():
        harness.publish(FIRST)
        await harness.keys.keys("one")
        harness.publish(document + b" ")
        keys = await harness.keys.keys("one")
        await harness.keys.close()
        return len(keys)

    assert asyncio.run(replaced()) == 1


def test_an_issuer_that_withdraws_its_keys_is_believed(harness):
    """An empty set is an answer, and puts all earlier keys out of force."""
    harness.publish(FIRST)

    async def withdrawn():
        await harness.keys.keys("one")
        harness.publish({"keys": []})
        try:
            with pytest.raises(Unavailable):
                await harness.keys.keys("one")
        finally:
            await harness.keys.close()

    asyncio.run(withdrawn())


def test_unknown_key_ids_do_not_make_us_fetch(issuer):
    """Whatever tokens arrive, the issuer is asked once within the limit."""
    issuer.publish(FIRST)
    keys = JwksUrl(JwksUrlSettings(url=issuer.url))

    ask(keys, *(f"made-up-{number}" for number in range(50)))
    assert issuer.asked == 1


@pytest.mark.parametrize(
    ("status", "document"), [(500, b"{}"), (302, b"{}"), (200, b'{"keys":["' + b"x" * 2**21 + b'"]}')]
)
def test_failures_redirects_and_floods_are_no_keys(issuer, status, document):
    """An error, a redirect or an endless document leaves us without keys, not with others'."""
    issuer.status = status
    issuer.publish(document)

    with pytest.raises(Unavailable):
        ask(JwksUrl(JwksUrlSettings(url=issuer.url)), None)


def test_a_silent_issuer_is_unavailable():
    """Nobody listens there."""
    with pytest.raises(Unavailable):
        ask(JwksUrl(JwksUrlSettings(url="http://127.0.0.1:9/jwks", timeout_seconds=1)), None)


def test_keys_that_nobody_confirms_lose_their_trust(issuer):
    """A key that was withdrawn while the issuer was away counts no longer than ``max_stale_seconds``."""
    issuer.publish(FIRST)
    settings = JwksUrlSettings(url=issuer.url, retry_seconds=0.001, keep_seconds=0.001, max_stale_seconds=0.2)
    keys = JwksUrl(settings)

    async def staling():
        await keys.keys("one")
        issuer.status = 500
        kept = await keys.keys("one")
        await asyncio.sleep(0.25)
        with pytest.raises(Unavailable) as caught:
            await keys.keys("one")
        issuer.status = 200
        await asyncio.sleep(0.002)
        back = await keys.keys("one")
        await keys.close()
        return [len(kept), caught.value.code, len(back)]

    assert asyncio.run(staling()) == [1, "token-keys-stale", 1]


def test_an_issuer_that_drips_is_given_up():
    """The limit holds for the whole answer: bytes that keep coming do not hold up those who wait."""

    async def dripping(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def asking():
        server = await asyncio.start_server(dripping, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        keys = JwksUrl(JwksUrlSettings(url=f"http://127.0.0.1:{port}/", timeout_seconds=0.2))
        try:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(keys.keys("one"), 10)
        finally:
            await keys.close()
            server.close()
            await asyncio.sleep(0.1)  # the far end sees that it was left

    asyncio.run(asking())


def test_trust_lasts_until_keys_are_fetched_again():
    """A limit below the time between two fetches would refuse everyone in between."""
    with pytest.raises(ValidationError):
        JwksUrlSettings(url="https://login.example/jwks", keep_seconds=600, max_stale_seconds=599)


@pytest.mark.parametrize(
    "url", ["http://login.example/jwks", "ftp://x/", "http://127.0.0.1.evil.example/", "file:///x"]
)
def test_keys_come_over_tls_or_loopback(url):
    """An address on which someone could swap the keys is refused."""
    with pytest.raises(ValidationError):
        JwksUrlSettings(url=url)
