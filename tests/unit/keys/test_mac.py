"""The message authentication code of names and commitments is the standard one."""

from __future__ import annotations

import hmac

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.keys.mac import hmac_sha256


@given(key=st.binary(max_size=200), message=st.binary(max_size=300))
@example(key=b"k" * 64, message=b"")
@example(key=b"k" * 65, message=b"m")
def test_it_is_the_standard_librarys(key: bytes, message: bytes):
    """HMAC-SHA-256 for keys shorter and longer than a block, and for messages of any length."""
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


def test_vector_of_the_standard():
    """RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == expected
