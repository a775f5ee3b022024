"""``synth``: the feed where it is wanted, in its order, and the truth about it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from bridge.cli import destinations
from bridge.cli.destinations import Router
from bridge.cli.main import run
from bridge.config.load import mappings_root
from bridge.errors import Incorrect, Unavailable
from bridge.pipeline.ports import Receipt
from bridge.synth.region import Region

SMALL = ("synth", "--seed", "3", "--patients", "20", "--messages", "60")
REGION = Region(3, 20, 60)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Recording:
    """An intake that keeps what it is given, refuses some, and lets the event loop turn in between."""

    def __init__(self, refuses=(), broken_after=None):
        self.kept = []
        self.closed = 0
        self.most = 0
        self._waiting = 0
        self._refuses = refuses
        self._broken_after = broken_after
        self._turn = asyncio.Lock()

    async def accept(self, raw):
        self._waiting += 1
        self.most = max(self.most, self._waiting)
        async with self._turn:
            await asyncio.sleep(0)
            self._waiting -= 1
            if raw.content in self._refuses:
                raise Incorrect("refused", "it is refused")
            if self._broken_after is not None and len(self.kept) >= self._broken_after:
                raise Unavailable("gone", "nobody answers")
            self.kept.append(raw)
            return Receipt(str(len(self.kept)))

    def close(self):
        self.closed += 1


@pytest.fixture
def intakes(monkeypatch):
    """Addresses ``kafka://NAME/…`` lead to the intake of that name."""
    made = {}

    def build(_name, settings):
        return made.setdefault(settings["bootstrap_servers"][0], Recording())

    class Spec:
        settings = type("Settings", (), {"model_validate": staticmethod(lambda value: value)})

    Spec.build = staticmethod(build)
    monkeypatch.setattr(destinations, "load_adapter", lambda _group, _name: Spec)
    return made


def test_a_folder_gets_a_folder_a_site_with_a_file_a_message(here):
    """Byte for byte, in the order of their names, and the truth beside them."""
    assert run([*SMALL, "--to", "feed"]) == 0

    written = {}
    for file in sorted((here / "feed").glob("*/*.hl7")):
        written.setdefault(file.parent.name, []).append(file.read_bytes())
    expected = {}
    for message in REGION:
        expected.setdefault(message.site, []).append(message.content)
    assert written == expected
    truth = json.loads((here / "feed" / "truth.json").read_text())
    assert truth["people"] == json.loads(json.dumps(REGION.truth().as_json()["people"]))
    assert not list((here / "feed").rglob("*.part"))


def test_the_truth_names_the_site_files(here):
    """Each of them is among the built-in mappings."""
    assert run([*SMALL, "--to", "feed", "--truth", "elsewhere/who.json"]) == 0

    truth = json.loads((here / "elsewhere" / "who.json").read_text())
    assert set(truth["sites"]) >= {message.site for message in REGION}
    assert all((mappings_root() / path).is_file() for path in truth["sites"].values())
    assert truth["region"] == {"seed": 3, "patients": 20, "messages": 60}
    assert not (here / "feed" / "truth.json").exists()


def test_standard_output_is_the_default(here, capfdbinary):
    """Messages there, the summary on the other stream, and no file without being asked for one."""
    assert run([*SMALL]) == 0

    out, err = capfdbinary.readouterr()
    assert out == b"".join(message.content + b"\n" for message in REGION)
    assert err.startswith(b"sent: ")
    assert list(here.iterdir()) == []


def test_shares_of_other_messages_are_as_asked_for(here, capsys):
    """Uncovered, malformed and repeated ones."""
    assert run([*SMALL, "--uncovered", "10", "--malformed", "10", "--duplicates", "10", "--to", "feed", "--json"]) == 0

    counts = json.loads((here / "feed" / "truth.json").read_text())["counts"]
    assert {outcome: sum(kinds.values()) for outcome, kinds in counts.items()}["duplicate"] == 6
    said = json.loads(capsys.readouterr().out)
    assert sum(said["sent"].values()) == 60
    assert (said["refused"], said["left_out"], said["truth"]) == (0, 0, "feed/truth.json")


def test_an_intake_gets_the_feed_in_its_order_with_many_under_way(here, intakes):
    """With the partitioning keys of the feed."""
    assert run([*SMALL, "--to", "kafka://one/adt"]) == 0

    one = intakes["one"]
    assert [(raw.content, raw.key) for raw in one.kept] == [(message.content, message.key) for message in REGION]
    assert one.most > 1
    assert one.closed == 1
    assert (here / "truth.json").is_file()


def test_each_site_may_have_an_address_of_its_own(here, intakes, capsys):
    """Those of a site without one go to the address for all, or are left out and counted."""
    sites = Counter(message.site for message in REGION)
    first, second = list(sites)[:2]
    assert run([*SMALL, "--to", f"{first}=kafka://one/adt", "--to", f"{second}=kafka://two/adt", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert run([*SMALL, "--to", f"{first}=kafka://three/adt", "--to", "kafka://four/adt"]) == 0

    assert said["sent"] == {first: sites[first], second: sites[second]}
    assert said["left_out"] == 60 - sites[first] - sites[second]
    assert len(intakes["one"].kept) == len(intakes["three"].kept) == sites[first]
    assert len(intakes["four"].kept) == 60 - sites[first]


def test_what_is_refused_is_counted_and_the_rest_goes_on(here, intakes, capsys):
    """A receiver refuses what can never be accepted; the feed holds such messages on purpose."""
    messages = [message.content for message in REGION]
    intakes["one"] = Recording(refuses={messages[5], messages[17]})

    assert run([*SMALL, "--to", "kafka://one/adt"]) == 0
    assert "2 refused" in capsys.readouterr().out
    assert [raw.content for raw in intakes["one"].kept] == [m for m in messages if m not in (messages[5], messages[17])]


def test_a_receiver_that_is_gone_ends_it(here, intakes, capsys):
    """Nothing after the gap is sent as if there were none, and connections are closed."""
    intakes["one"] = Recording(broken_after=7)

    assert run([*SMALL, "--to", "kafka://one/adt"]) == 7
    assert "[gone]" in capsys.readouterr().err
    assert [raw.content for raw in intakes["one"].kept] == [message.content for message in REGION][:7]
    assert intakes["one"].closed == 1
    assert not (here / "truth.json").exists()


def test_a_rate_is_kept(monkeypatch):
    """Message n starts no earlier than n/rate after the first, by the loop's clock."""
    clock, slept = [0.0], []

    async def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    async def send():
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0])
        monkeypatch.setattr(destinations.asyncio, "sleep", sleep)
        router = Router([], Nowhere())
        await router.send(list(REGION)[:5], 10)
        return router.delivery

    class Nowhere:
        async def put(self, message):
            pass

        async def close(self):
            pass

    delivery = asyncio.run(send())

    assert sum(delivery.sent.values()) == 5
    assert sum(slept) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "route",
    [
        "ftp://x/y",
        "kafka://",
        "kafka://host:9092/",
        "mllp://host",
        "mllp://host:99999",
        "mllp://host:x",
        "kafka://[x/y",
    ],
)
def test_an_address_that_is_none_is_refused(here, capsys, route):
    """Before anything is sent."""
    assert run([*SMALL, "--to", route]) == 2
    assert "[destination-malformed]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--to", "nowhere=feed"], "site-unknown"),
        (["--to", "feed", "--to", "other"], "destination-twice"),
        (["--uncovered", "40", "--malformed", "40"], "synth-arguments"),
    ],
)
def test_what_makes_no_sense_is_refused(here, capsys, arguments, cause):
    """With what to do instead."""
    assert run([*SMALL, *arguments]) == 2
    assert f"[{cause}]" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_folder_that_cannot_be_written_ends_it(here, capsys):
    """A file stands in the way."""
    (here / "feed").write_text("")

    assert run([*SMALL, "--to", "feed"]) == 2
    assert "[file-unwritable]" in capsys.readouterr().err
