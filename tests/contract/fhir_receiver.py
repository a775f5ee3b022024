"""A FHIR server written for tests, no product: it takes transaction Bundles alone, and is stricter about them than R4 asks.

What it does it does by R4 (4.0.1), http.html#transaction: all or nothing; conditional update and delete by ``identifier`` or
``_tag``; ``urn:uuid`` and conditional references resolved, each to exactly one resource; no resource twice. Beyond that it wants
literal references to name what it has, and every resource to bear the name that it is put under.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

Json = Any
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


class Refusal(Exception):  # noqa: N818
    """Status and words of an answer that is no success."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Receiver:
    """The server and what it holds. ``current`` by (type, server id); ``log`` lists every change as it was committed.

    ``failing`` is a status that every request is answered with, without an OperationOutcome; ``forbidden`` a type of resource
    that it answers 500 to; ``authorization`` the header that it wants.
    """

    def __init__(self) -> None:
        self.current: dict[tuple[str, str], dict[str, Json]] = {}
        self.log: list[tuple[str, str, dict[str, Json] | None]] = []
        self.requests = 0
        self.failing = 0
        self.broken_type = ""
        self.authorization: str | None = None
        self.lose_answers = 0
        self._next = 1
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def base(self) -> str:
        """Base of the API."""
        return f"http://127.0.0.1:{self._port}/fhir"

    def start(self) -> None:
        """Serves on the port it had before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Nothing listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nothing listens for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def transact(self, bundle: dict[str, Json]) -> dict[str, Json]:
        """Commits a transaction, or raises what it is refused with."""
        with self._lock:
            return self._transact(bundle)

    def _transact(self, bundle: dict[str, Json]) -> dict[str, Json]:
        if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
            raise Refusal(400, "no transaction")
        fresh = copy.deepcopy(self.current)
        placed: list[tuple[dict[str, Json], tuple[str, str] | None]] = []
        urls: dict[str, str] = {}
        for entry in bundle["entry"]:
            method, url = entry["request"]["method"], entry["request"]["url"]
            kind, _, _ = url.partition("?")
            found = self._found(self.current, url)
            if method == "DELETE":
                placed.append((entry, found))
                continue
            if method != "PUT" or "id" in entry["resource"] or entry["resource"]["resourceType"] != kind:
                raise Refusal(400, "no conditional update")
            if not self._bears(entry["resource"], url):
                raise Refusal(400, "not named as it is put")
            place = found or (kind, str(self._next))
            self._next += found is None
            placed.append((entry, place))
            if entry["fullUrl"] in urls or not entry["fullUrl"].startswith("urn:uuid:"):
                raise Refusal(400, "fullUrl")
            urls[entry["fullUrl"]] = "/".join(place)
        touched = [place for _, place in placed if place is not None]
        if len(set(touched)) < len(touched):
            raise Refusal(400, "one resource twice")
        changes: list[tuple[str, str, dict[str, Json] | None]] = []
        for entry, place in placed:
            if "resource" not in entry:
                if place is not None:
                    del fresh[place]
                    changes.append((*place, None))
                continue
            assert place is not None
            resource = copy.deepcopy(entry["resource"])
            self._check(resource)
            fresh[place] = resource
            changes.append((*place, resource))
        for _, _, resource in changes:
            self._resolve(resource, urls, fresh)
        self.current = fresh
        self.log += changes
        entries = [{"response": {"status": "204" if "resource" not in entry else "200"}} for entry, _ in placed]
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}

    def _check(self, resource: dict[str, Json]) -> None:
        if resource["resourceType"] == self.broken_type:
            raise Refusal(500, "this server breaks on it")
        birth = resource.get("birthDate")
        if birth is not None and not _DATE.fullmatch(birth):
            raise Refusal(422, "birthDate")

    def _found(self, held: dict[tuple[str, str], dict[str, Json]], url: str) -> tuple[str, str] | None:
        kind, _, _ = url.partition("?")
        matching = [place for place, resource in held.items() if place[0] == kind and self._bears(resource, url)]
        if len(matching) > 1:
            raise Refusal(412, "several match")
        return matching[0] if matching else None

    @staticmethod
    def _bears(resource: dict[str, Json], url: str) -> bool:
        [(parameter, [value])] = parse_qs(url.partition("?")[2], strict_parsing=True).items()
        system, _, code = value.partition("|")
        if parameter == "_tag":
            return any(t["system"] == system and t["code"] == code for t in resource.get("meta", {}).get("tag", ()))
        assert parameter == "identifier"
        named = resource.get("identifier", ())
        return any(i.get("system") == system and i.get("value") == code for i in named)

    def _resolve(self, node: Json, urls: dict[str, str], held: dict[tuple[str, str], dict[str, Json]]) -> None:
        if isinstance(node, list):
            for item in node:
                self._resolve(item, urls, held)
        if not isinstance(node, dict):
            return
        reference = node.get("reference")
        if isinstance(reference, str):
            if reference in urls:
                node["reference"] = urls[reference]
            elif "?" in reference:
                found = self._found(held, reference)
                if found is None:
                    raise Refusal(404, "no such target")
                node["reference"] = "/".join(found)
            elif tuple(reference.split("/")) not in held:
                raise Refusal(400, "a reference to nothing")
        for value in node.values():
            self._resolve(value, urls, held)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests += 1
                if receiver._server is None:  # a connection that was open when it stopped
                    self.close_connection = True
                    return None
                if receiver.failing:
                    return self._say(receiver.failing, None)
                if receiver.authorization is not None and self.headers.get("Authorization") != receiver.authorization:
                    return self._say(401, None)
                if self.path != "/fhir" or self.headers["Content-Type"] != "application/fhir+json":
                    return self._say(404, None)
                try:
                    answer = receiver.transact(json.loads(content))
                except Refusal as refusal:
                    issue = {"severity": "error", "code": "processing", "diagnostics": str(refusal)}
                    return self._say(refusal.status, {"resourceType": "OperationOutcome", "issue": [issue]})
                if receiver.lose_answers:
                    receiver.lose_answers -= 1
                    self.close_connection = True
                    return None
                return self._say(200, answer)

            def _say(self, status: int, body: dict[str, Json] | None) -> None:
                content = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
