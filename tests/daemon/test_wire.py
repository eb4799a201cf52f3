import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from etltd import wire

LIMIT = 8

streams = st.lists(
    st.one_of(st.sampled_from([b"\n", b"a\n", b"\r\n", b"\x00\xff\n"]), st.binary(max_size=12))
).map(b"".join)


def expected(stream: bytes, limit: int = LIMIT) -> tuple[bytes, int, bool]:
    """Return what the rules say of the whole stream: lines, too long ones, unfinished line."""
    *lines, tail = stream.split(b"\n")
    fitting = [line + b"\n" for line in lines if len(line) < limit]
    too_long = len(lines) - len(fitting) + (len(tail) >= limit)
    return b"".join(fitting), too_long, 0 < len(tail) < limit


def play(decoder: wire.LineDecoder, chunks: list[bytes]) -> tuple[bytes, int, int]:
    out, lines, too_long = b"", 0, 0
    for chunk in chunks:
        block, block_lines, block_too_long = decoder.feed(chunk)
        assert block.count(b"\n") == block_lines
        assert not block or block.endswith(b"\n")
        out, lines, too_long = out + block, lines + block_lines, too_long + block_too_long
    return out, lines, too_long


@given(streams, st.lists(st.integers(0, 60)))
def test_chunking_never_matters(stream: bytes, cuts: list[int]) -> None:
    """A line cut anywhere by the network would be torn, lost or doubled."""
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    decoder = wire.LineDecoder(LIMIT)

    out, lines, too_long = play(decoder, chunks)

    assert (out, too_long, decoder.end()) == expected(stream)
    assert lines == out.count(b"\n")


@given(streams)
def test_whole_byte_by_byte_and_with_garbage_after(stream: bytes) -> None:
    """The three ways h11 feeds its readers."""
    whole = play(wire.LineDecoder(LIMIT), [stream])
    bytewise = play(wire.LineDecoder(LIMIT), [stream[i : i + 1] for i in range(len(stream))])
    decoder = wire.LineDecoder(LIMIT)
    garbage = play(decoder, [stream, b"\n", b"zz"])

    assert whole == bytewise
    assert garbage[0].startswith(whole[0])
    assert decoder.end()


def test_line_of_exactly_the_limit_passes_and_one_more_byte_does_not() -> None:
    assert wire.LineDecoder(LIMIT).feed(b"1234567\n") == (b"1234567\n", 1, 0)
    assert wire.LineDecoder(LIMIT).feed(b"12345678\n") == (b"", 0, 1)


def test_too_long_line_is_reported_once_however_long_it_grows() -> None:
    """A sender of a gigabyte without newline would be told so for every segment."""
    decoder = wire.LineDecoder(LIMIT)

    results = [decoder.feed(b"x" * 6) for _ in range(5)]
    after = decoder.feed(b"xx\nok\n")

    assert sum(too_long for _, _, too_long in results) == 1
    assert after == (b"ok\n", 1, 0)


def test_an_endless_line_is_not_kept() -> None:
    """Memory per peer would grow as long as it sends."""
    decoder = wire.LineDecoder(LIMIT)
    for _ in range(3):
        decoder.feed(b"x" * 65536)

    assert not decoder.end()


def test_neighbours_of_a_too_long_line_are_untouched() -> None:
    block = b"a\n" + b"x" * 20 + b"\nb\n" + b"y" * 7

    assert wire.LineDecoder(LIMIT).feed(block) == (b"a\nb\n", 2, 1)


def test_a_block_of_newlines_is_not_taken_apart_line_by_line() -> None:
    """A flood of them, though limited, held everybody up for 100 ms a turn."""
    decoder, block = wire.LineDecoder(8192), b"\n" * 65536
    tracemalloc.start()
    fed = decoder.feed(block)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert fed == (block, len(block), 0)
    assert peak_bytes < 3 * len(block), "a pointer to each line alone would be eight times"


def test_many_short_lines_longer_together_than_the_limit_all_pass() -> None:
    assert wire.LineDecoder(LIMIT).feed(b"abc\n" * 9) == (b"abc\n" * 9, 9, 0)


@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"") + b"\n"), min_size=1))
def test_prefix_stands_before_every_line(lines: list[bytes]) -> None:
    prefix = wire.prefix(7)

    assert wire.prefixed(prefix, b"".join(lines), len(lines)) == b"".join(
        b"[USER7] " + line for line in lines
    )


def test_first_lines_cuts_at_a_line() -> None:
    assert wire.first_lines(b"a\nb\nc\n", 2) == b"a\nb\n"
    assert wire.first_lines(b"a\nb\n", 0) == b""
    assert wire.first_lines(b"a\nb\n", 2) == b"a\nb\n"


def test_notices_say_how_many() -> None:
    assert wire.messages_dropped(23) == b"[etltd] 23 messages dropped\n"
    assert wire.rate_limited(5) == b"[etltd] rate limited, 5 messages dropped\n"
