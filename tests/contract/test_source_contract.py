"""The contract of a source: a durable log in numbered partitions whose place is the store's. On every registered one."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config.adapters import SOURCES, adapter_names, load_adapter
from bridge.errors import BridgeError, Fault, Unavailable
from bridge.pipeline.ports import Partition
from tests.contract.source_harness import LOGS, NAME, Log, Member, Store, ends

# (adapter, test without its prefix): why this guarantee can't be asked of it
WAIVERS: dict[tuple[str, str], str] = {}

ADAPTERS = adapter_names(SOURCES)

# A client that never reached its server leaves sockets to the garbage collector; that is kafka-python's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects those sockets here, where that is forgiven, and not in the middle of someone else's test."""
    yield
    gc.collect()


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.ci) for name in ADAPTERS])
def adapter(request: pytest.FixtureRequest) -> str:
    """Each registered source."""
    waived = WAIVERS.get((request.param, request.function.__name__.removeprefix("test_")))
    if waived:
        pytest.skip(waived)
    return str(request.param)


@pytest.fixture
def make_log(adapter: str, request: pytest.FixtureRequest) -> Callable[[int], Log]:
    """Makes an empty log with so many partitions."""
    fixture, build = LOGS[adapter]
    server = request.getfixturevalue(fixture)
    return lambda partitions: build(server, partitions)


@pytest.fixture
def log(make_log: Callable[[int], Log]) -> Log:
    """An empty log of one partition."""
    return make_log(1)


@pytest.fixture
def member(adapter: str) -> Iterator[Callable[..., Member]]:
    """Makes members of a log's group; leaves with them."""
    made: list[Member] = []

    def make(log: Log, **changes: Any) -> Member:
        made.append(Member(adapter, log.settings(**changes)))
        return made[-1]

    yield make
    for one in made:
        one.source.close()


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def test_every_registered_source_is_under_this_contract_and_every_waiver_is_used() -> None:
    """A new one needs a log; a waiver of a test that is gone goes too."""
    tests = {name.removeprefix("test_") for name, found in globals().items() if inspect.isfunction(found)}

    assert set(ADAPTERS) == set(LOGS)
    assert all(one in ADAPTERS and test in tests and reason for (one, test), reason in WAIVERS.items())


def test_each_partition_is_read_in_order_and_whole(
    make_log: Callable[[int], Log], member: Callable[..., Member]
) -> None:
    """Offsets strictly rise, and contents are those that were written, with the source's name and the time."""
    log = make_log(3)
    for number in range(3):
        log.write(number, *numbered(50, number * 100))
    one = member(log).open()

    one.read(150)

    assert len(one.got) == 150
    for number in range(3):
        offsets = one.offsets(number)
        assert offsets == sorted(set(offsets))
        of_this = [fetched.raw for fetched in one.got if fetched.partition.number == number]
        assert [raw.content for raw in of_this] == numbered(50, number * 100)
        assert {raw.source for raw in of_this} == {NAME}
        assert all(raw.received_us > 1_700_000_000_000_000 for raw in of_this)


def test_a_poll_brings_at_most_what_was_asked_for(log: Log, member: Callable[..., Member]) -> None:
    """However much is there; the rest comes with the next."""
    log.write(0, *numbered(20))
    one = member(log).open()

    one.until(lambda: one.got, most=7)
    sizes = [len(one.got), len(one.poll(7)), len(one.poll(7))]

    assert sizes == [7, 7, 6]


def test_a_poll_with_nothing_to_bring_ends(log: Log, member: Callable[..., Member]) -> None:
    """Empty after its time."""
    one = member(log).open().ready()

    assert one.quiet() == []


def test_the_store_says_where_to_read(log: Log, member: Callable[..., Member]) -> None:
    """Its answer at the assignment wins over what was committed."""
    log.write(0, *numbered(50))
    first = member(log).open()
    first.read(50)
    first.source.commit({first.store.owned[0]: 50})
    first.source.close()

    second = member(log)
    second.store.position = {0: 45}
    second.open().read(5)

    assert second.offsets() == [45, 46, 47, 48, 49]


def test_what_was_not_stored_comes_again(log: Log, member: Callable[..., Member]) -> None:
    """At least once: a member that ends without storing leaves everything to the next, also after opening it anew."""
    log.write(0, *numbered(10))
    one = member(log).open()
    one.read(10)
    one.source.close()
    one.got.clear()
    one.store = Store()
    one.store.position = {0: 3}

    one.open().read(7)

    assert one.offsets() == list(range(3, 10))


def test_seeking_reads_from_there(log: Log, member: Callable[..., Member]) -> None:
    """Back and forth; what was fetched ahead of it is not brought."""
    log.write(0, *numbered(30))
    one = member(log).open()
    one.until(lambda: one.got, most=10)
    one.got.clear()

    one.source.seek(one.store.owned[0], 4)
    one.until(lambda: one.got, most=3)
    one.source.seek(one.store.owned[0], 28)
    one.until(lambda: len(one.got) >= 5)

    assert one.offsets() == [4, 5, 6, 28, 29]


def test_partitions_of_others_are_left_alone(log: Log, member: Callable[..., Member]) -> None:
    """To commit, seek, pause or resume what is not assigned does nothing."""
    log.write(0, *numbered(3))
    one = member(log).open()
    one.read(1)
    stranger = Partition(NAME, "elsewhere", 7)

    one.source.commit({stranger: 3})
    one.source.seek(stranger, 0)
    one.source.pause([stranger])
    one.source.resume([stranger])

    one.read(3)
    assert one.offsets() == [0, 1, 2]


def test_a_paused_partition_gives_nothing_until_resumed(
    make_log: Callable[[int], Log], member: Callable[..., Member]
) -> None:
    """Back-pressure keeps the assignment, and the others go on."""
    log = make_log(2)
    one = member(log).open().ready(2)
    one.source.pause([one.store.owned[0]])
    for number in range(2):
        log.write(number, *numbered(5))

    one.read(5)
    one.quiet()
    assert (one.offsets(0), one.offsets(1)) == ([], [0, 1, 2, 3, 4])

    one.source.resume([one.store.owned[0]])
    one.read(10)
    assert one.offsets(0) == [0, 1, 2, 3, 4]
    assert [what for what, _ in one.store.told] == ["assigned"]


def test_a_member_that_joins_takes_over_and_one_that_leaves_gives_back(
    make_log: Callable[[int], Log], member: Callable[..., Member]
) -> None:
    """The first is told before the second reads; no partition has two holders, and in the end none has no holder."""
    log = make_log(4)
    first = member(log).open().ready(4)
    second = member(log).open()
    first.until(lambda: len(second.store.owned) == 2, second)

    assert first.store.owned.keys() | second.store.owned.keys() == {0, 1, 2, 3}
    assert len(first.store.owned) == 2

    first.source.close()
    second.ready(4)
    log.write(0, b"x")
    second.read(1)


def test_a_member_that_was_silent_too_long_is_told_what_it_lost(log: Log, member: Callable[..., Member]) -> None:
    """Before anything of it is read again; meanwhile another had it, from where the store stands."""
    log.write(0, *numbered(5))
    silent, other = member(log).open(), member(log)
    silent.read(5)
    other.store.position = {0: 2}
    other.open().ready()
    other.read(3)
    other.source.close()
    silent.got.clear()
    silent.store.position = {0: 5}

    silent.until(lambda: [what for what, _ in silent.store.told] == ["assigned", "lost", "assigned"])
    silent.quiet()

    assert other.offsets() == [2, 3, 4]
    assert silent.got == []


@pytest.mark.parametrize("stored", [2, 999], ids=["overtaken-by-retention", "cut-or-restored"])
def test_a_position_that_is_not_there_at_assignment_is_said(
    log: Log, member: Callable[..., Member], stored: int
) -> None:
    """Never skipped, never read again from the start as if nothing were; a seek goes on."""
    log.write(0, *numbered(20))
    log.expire(0, 10)
    one = member(log)
    one.store.position = {0: stored}
    one.open().until(lambda: one.gaps)

    assert one.gaps == {one.store.owned[0]: 10}
    assert one.quiet() == []

    one.source.seek(one.store.owned[0], 10)
    one.read(10)
    assert one.offsets() == list(range(10, 20))


def test_retention_that_overtakes_an_assigned_partition_is_said(
    make_log: Callable[[int], Log], member: Callable[..., Member]
) -> None:
    """As at assignment; what other partitions have is brought all the same, once."""
    log = make_log(2)
    for number in range(2):
        log.write(number, *numbered(20))
    one = member(log).open().ready(2)
    one.read(40)
    one.got.clear()
    one.source.pause([one.store.owned[0]])
    log.write(0, *numbered(20, 20))
    log.expire(0, 30)
    log.write(1, *numbered(20, 20))
    one.source.seek(one.store.owned[0], 20)

    one.until(lambda: one.gaps and len(one.offsets(1)) == 20)
    one.quiet()

    assert one.gaps == {one.store.owned[0]: 30}
    assert (one.offsets(0), one.offsets(1)) == ([], list(range(20, 40)))

    one.source.seek(one.store.owned[0], 30)
    one.read(30)
    assert one.offsets(0) == list(range(30, 40))


def test_a_log_made_anew_is_another(log: Log, member: Callable[..., Member]) -> None:
    """So that position 0 of the new one is not taken for position 0 of the old one; no gap is reported."""
    log.write(0, *numbered(5))
    one = member(log).open()
    one.read(5)
    before = one.store.owned[0]
    one.source.close()
    log.recreate()
    log.write(0, *numbered(2))
    one.got.clear()
    one.store = Store()

    one.open().read(2)

    assert before.topic_id
    assert before != one.store.owned[0]
    assert (one.offsets(), one.gaps) == ([0, 1], {})


def test_while_the_server_hangs_calls_end_and_afterwards_nothing_is_missing(
    log: Log, member: Callable[..., Member]
) -> None:
    """A poll brings nothing or says that the source is unavailable; a new one brings everything from the store's place."""
    log.write(0, *numbered(5))
    one = member(log).open()
    one.read(5)
    said: list[BridgeError] = []

    def poll_and_close() -> None:
        try:
            one.quiet(3)
        except BridgeError as error:
            said.append(error)
        one.source.close()

    with log.hanging():
        ended = ends(poll_and_close)

    assert ended
    assert all(error.transient for error in said)
    log.write(0, *numbered(5, 5))
    again = member(log)
    again.store.position = {0: 5}
    again.open().read(5)
    assert again.offsets() == [5, 6, 7, 8, 9]


def test_a_server_that_is_not_there_is_unavailable_and_the_source_can_be_opened_later(
    adapter: str, log: Log, member: Callable[..., Member]
) -> None:
    """With what to do; closing what never opened is no error."""
    one = Member(adapter, log.unreachable())

    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            one.open()
        one.source.close()

    assert caught.value.remedy


def test_closing_may_be_repeated_and_using_a_closed_source_is_our_fault(
    log: Log, member: Callable[..., Member]
) -> None:
    """Before it is opened as after it was closed."""
    one = member(log)
    with pytest.raises(Fault):
        one.source.poll(1, 0)
    one.open()

    one.source.close()
    one.source.close()

    with pytest.raises(Fault):
        one.source.poll(1, 0)


def test_settings_are_typed_and_described(adapter: str) -> None:
    """Unknown ones are refused; building connects to nothing."""
    spec = load_adapter(SOURCES, adapter)

    assert all(field.description for field in spec.settings.model_fields.values())
    with pytest.raises(ValidationError, match="extra_forbidden"):
        spec.settings.model_validate({"no-such-setting": 1})
