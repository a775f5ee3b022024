"""The signer's memory lets through only extensions of what it signed, and survives what a process does not."""

from __future__ import annotations

import fcntl

import pytest

from bridge.errors import Forbidden, Unavailable
from bridge.ledger import watermark
from bridge.ledger.merkle import EMPTY_HEAD, CompactRange, TreeHead, TreeReader, hash_leaf
from bridge.ledger.watermark import FileWatermark

ORIGIN = "example.org/log"


class Log:
    """A small log in memory, of leaves named by a prefix."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._hashes = [hash_leaf(leaf) for leaf in leaves]
        self._reader = TreeReader(lambda level, first, count: self._hashes[first : first + count])

    def head(self, size: int) -> TreeHead:
        edge = CompactRange()
        edge.extend(self._hashes[:size])
        return edge.head()

    def consistency(self, old: int, new: int) -> list[bytes]:
        return self._reader.consistency(old, new)


LOG = Log([b"%d" % number for number in range(20)])
BESIDE = Log([b"%d" % number for number in range(9)] + [b"other"] * 11)


@pytest.fixture
def mark(tmp_path):
    mark = FileWatermark(tmp_path / "watermark.json", ORIGIN)
    mark.start(EMPTY_HEAD)
    return mark


def test_heads_that_extend_the_last_pass_and_are_remembered(mark, tmp_path) -> None:
    """Growth passes, the same head passes again, and another process remembers it."""
    for size in (1, 7, 7, 20):
        mark.advance(LOG.head(size), LOG.consistency)

    again = FileWatermark(tmp_path / "watermark.json", ORIGIN)
    again.start(LOG.head(20))
    assert again.read() == LOG.head(20)


def test_a_head_below_stops_signing(mark) -> None:
    """Yesterday's database has fewer leaves than were signed."""
    mark.advance(LOG.head(10), LOG.consistency)

    with pytest.raises(Forbidden, match="head-behind-watermark"):
        mark.advance(LOG.head(9), LOG.consistency)
    assert mark.read() == LOG.head(10)


@pytest.mark.parametrize("size", [10, 11, 20])
def test_a_head_beside_stops_signing(mark, size) -> None:
    """Another history, of the same size or longer, is no extension."""
    mark.advance(LOG.head(10), LOG.consistency)

    with pytest.raises(Forbidden, match="head-beside-watermark"):
        mark.advance(BESIDE.head(size), BESIDE.consistency)
    assert mark.read() == LOG.head(10)


def test_a_longer_head_must_be_proved(mark) -> None:
    """A root that is merely claimed for a larger size is refused."""
    mark.advance(LOG.head(10), LOG.consistency)

    with pytest.raises(Forbidden, match="head-beside-watermark"):
        mark.advance(TreeHead(12, bytes(32)), LOG.consistency)


def test_a_missing_memory_of_a_log_with_leaves_stops_signing(tmp_path) -> None:
    """A lost watermark is not begun anew for a log that has leaves, neither at the start nor when signing."""
    mark = FileWatermark(tmp_path / "watermark.json", ORIGIN)

    with pytest.raises(Forbidden, match="watermark-missing"):
        mark.start(LOG.head(3))
    with pytest.raises(Forbidden, match="watermark-missing"):
        mark.advance(LOG.head(3), LOG.consistency)
    assert mark.read() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"origin":"example.org/log","size":-1,"root":"00"}',
        '{"origin":"example.org/log","size":1,"root":5}',
    ],
)
def test_a_damaged_memory_stops_signing(mark, tmp_path, text) -> None:
    """A half-written or foreign file is no permission."""
    (tmp_path / "watermark.json").write_text(text, "ascii")

    with pytest.raises(Forbidden, match="watermark-malformed"):
        mark.advance(LOG.head(3), LOG.consistency)


def test_the_memory_of_another_log_stops_signing(mark, tmp_path) -> None:
    """Two logs never share a watermark."""
    with pytest.raises(Forbidden, match="watermark-of-another-log"):
        FileWatermark(tmp_path / "watermark.json", "example.org/other").advance(LOG.head(3), LOG.consistency)


def test_a_place_that_can_not_be_written_is_unavailable(tmp_path) -> None:
    """Without a durable memory nothing is signed, and the error can be retried after the disk is mended."""
    with pytest.raises(Unavailable, match="watermark-unwritable"):
        FileWatermark(tmp_path / "absent" / "watermark.json", ORIGIN).start(EMPTY_HEAD)


def test_a_frozen_holder_is_not_waited_for_without_end(mark, tmp_path, monkeypatch) -> None:
    """Whoever holds the lock and does not go on makes signing wait, in a way that can be retried and stopped."""
    monkeypatch.setattr(watermark, "_LOCK_SECONDS", 0.0)
    [lock] = tmp_path.glob("*.lock")
    with lock.open("w") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="watermark-held") as caught:
            mark.start(EMPTY_HEAD)
    mark.start(EMPTY_HEAD)

    assert caught.value.transient
