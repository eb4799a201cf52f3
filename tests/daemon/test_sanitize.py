"""Nothing that moves a terminal's cursor comes out, and nothing else is lost."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etltd.sanitize import Sanitizer, clean
from etltd.stats import LoopStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.daemon.rig import Rig

tricky = st.lists(
    st.one_of(
        st.binary(max_size=3),
        st.sampled_from([b"\xc2", b"\x9b", b"\xc2\x9b", b"\xe2\x9b\x84", b"\x1b[2J", b"\0", b"\t"]),
        st.text(max_size=3).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
).map(b"".join)


@given(tricky)
def test_nothing_that_a_terminal_obeys_comes_out(block: bytes) -> None:
    cleaned = clean(block)

    assert not {*cleaned} & ({*range(0x20)} - {0x09, 0x0A} | {0x7F})
    left = cleaned.decode("utf-8", "surrogateescape")
    assert not [one for one in left if unicodedata.category(one) == "Cc" and one not in "\t\n"]
    assert not [one for one in left if "\udc80" <= one <= "\udc9f"]
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n")))
def test_text_comes_out_as_it_went_in(text: str) -> None:
    assert clean(text.encode()) == text.encode()


@given(tricky)
def test_no_line_is_added_or_lost(block: bytes) -> None:
    """The count of messages was made before."""
    assert clean(block).count(b"\n") == block.count(b"\n")


def test_letters_of_another_encoding_stay() -> None:
    assert clean(b"\xe9t\xe9 \x85 na\xefve\n") == b"\xe9t\xe9  na\xefve\n"


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        (b"\r[USER1] I am somebody else\n", b"[USER1] I am somebody else\n"),
        (b"\x1b]0;owned\x07\n", b"]0;owned\n"),
        (b"\xc2\x9b2J\n", b"2J\n"),
        (b"\xc2\0\x9b2J\n", b"2J\n"),
        (b"tab\tstays\r\n", b"tab\tstays\n"),
    ],
    ids=["carriage-return", "title", "c1", "hidden-c1", "tab"],
)
def test_tricks_come_out_harmless_and_are_counted(
    make_rig: Callable[..., Rig], evil: bytes, shown: bytes
) -> None:
    rig = make_rig(sanitize=True)
    anna, bert = rig.dial_many(2)

    anna.say(evil)
    rig.settle()

    assert bert.hear() == anna.user + shown
    assert rig.stats.sanitized_bytes == len(evil) - len(shown)


def test_without_the_option_every_byte_is_passed_on(rig: Rig) -> None:
    anna, bert = rig.dial_many(2)

    anna.say(b"\x1b[2J\0\x9b\n")
    rig.settle()

    assert bert.hear() == anna.user + b"\x1b[2J\0\x9b\n"
    assert rig.stats.sanitized_bytes == 0


def test_each_line_of_a_block_gets_its_prefix() -> None:
    stats = LoopStats()

    assert Sanitizer(stats).prefixed(b"> ", b"a\0\n\x07\nb\n", 3) == b"> a\n> \n> b\n"
    assert stats.sanitized_bytes == 2
