"""Server-sent events: what goes in comes out, however the stream is cut."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sse


def decoded(*reads: bytes) -> list[bytes]:
    decoder = sse.Decoder()
    return [event for read in reads for event in decoder.feed(read)]


@pytest.mark.parametrize(
    ("data", "fields", "expected"),
    [
        ("a", {}, b"data: a\n\n"),
        ("", {}, b"data: \n\n"),
        ("a\nb", {}, b"data: a\ndata: b\n\n"),
        ("a\r\nb\rc", {}, b"data: a\ndata: b\ndata: c\n\n"),
        ("a\n", {}, b"data: a\ndata: \n\n"),
        ("a", {"event": "e"}, b"event: e\ndata: a\n\n"),
        ("a", {"event": "e", "id": "r:1:2"}, b"id: r:1:2\nevent: e\ndata: a\n\n"),
        ("a", {"id": ""}, b"id: \ndata: a\n\n"),
        ("\u2028\u0085\0é", {}, "data: \u2028\u0085\0é\n\n".encode()),
    ],
)
def test_a_frame_is_written_as_the_standard_says(
    data: str, fields: dict[str, str], expected: bytes
) -> None:
    assert sse.frame(data, **fields) == expected


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("character", "\r\n\0")
def test_a_field_that_the_format_cannot_carry_is_refused(field: str, character: str) -> None:
    with pytest.raises(ValueError, match=field):
        sse.frame("a", **{field: f"x{character}y"})


def test_the_fast_path_writes_what_the_plain_one_writes() -> None:
    assert sse.json_frame(b'{"a":1}', b"r:1:2") == sse.frame('{"a":1}', id="r:1:2")


CASES = [
    (b"data: a\n\n", [b"a"]),
    (b"data:a\n\n", [b"a"]),
    (b"data:  a\n\n", [b" a"]),
    (b"data: a\r\n\r\n", [b"a"]),
    (b"data: a\r\r", [b"a"]),
    (b"data: a\r\n\rdata: b\n\r\n", [b"a", b"b"]),
    (b"data: a\ndata: b\n\n", [b"a\nb"]),
    (b"data: a\rdata: b\r\n\r\n", [b"a\nb"]),
    (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    (b"data\n\n", [b""]),
    (b"data:\n\n", [b""]),
    (b"data\ndata\n\n", [b"\n"]),
    (b"data: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    (b"\n\n\ndata: a\n\n", [b"a"]),
    (b": comment\n\n", []),
    (b": comment\ndata: a\n: another\n\n", [b"a"]),
    (b":\n\ndata: a\n\n", [b"a"]),
    (b"event: ping\n\n", []),
    (b"event: e\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    (b"data: a\nevent: e\n\n", [b"a"]),
    (b"unknown: x\nnocolon\ndata: a\n\n", [b"a"]),
    (b"Data: x\n data: x\ndata: a\n\n", [b"a"]),
    (b"database: x\n\n", []),
    (b"data: a: b\n\n", [b"a: b"]),
    (b"data: a\n", []),
    (b"data: a", []),
    (b"data: a\n\ndata: b\n", [b"a"]),
    (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    (b"\xef\xbbdata: a\n\ndata: b\n\n", [b"b"]),
    ("data: \u2028\u0085\v\f\0\x1e\n\n".encode(), ["\u2028\u0085\v\f\0\x1e".encode()]),
    ("data: grüße 😀\r\n\r\n".encode(), ["grüße 😀".encode()]),
    (b"", []),
]


@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_a_stream_reads_the_same_whole_by_bytes_and_cut_anywhere(
    stream: bytes, expected: list[bytes]
) -> None:
    assert decoded(stream) == expected
    assert decoded(*(stream[at : at + 1] for at in range(len(stream)))) == expected
    for at in range(len(stream) + 1):
        assert decoded(stream[:at], stream[at:]) == expected
        assert decoded(stream[:at], b"", stream[at:]) == expected


def normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


TEXT = st.text(
    st.one_of(st.sampled_from("\r\n: \0\ufeff\u2028\u0085dat"), st.characters(codec="utf-8"))
)
FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))


@given(
    events=st.lists(st.tuples(TEXT, st.none() | FIELD)),
    line_end=st.sampled_from(["\n", "\r", "\r\n"]),
    cuts=st.lists(st.integers(0, 10_000)),
)
def test_any_data_comes_back_from_any_partition_of_its_stream(
    events: list[tuple[str, str | None]], line_end: str, cuts: list[int]
) -> None:
    frames = [sse.frame(data, id=id) + sse.HEARTBEAT for data, id in events]
    stream = b"".join(frames).replace(b"\n", line_end.encode())
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    reads = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    assert decoded(*reads) == [normal(data).encode() for data, _ in events]


@given(stream=st.lists(st.sampled_from([b"\r", b"\n", b"data", b":", b" ", b"x"])).map(b"".join))
def test_any_mixture_of_line_ends_reads_the_same_however_it_is_cut(stream: bytes) -> None:
    whole = decoded(stream)
    assert decoded(*(stream[at : at + 1] for at in range(len(stream)))) == whole
    assert decoded(stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) == whole


def test_an_event_is_given_out_with_the_read_that_completes_it() -> None:
    decoder = sse.Decoder()
    assert decoder.feed(b"data: a\r\n\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == [b"b"]


def test_an_unfinished_event_past_the_limit_is_refused() -> None:
    decoder = sse.Decoder(max_event_bytes=100)
    assert decoder.feed(b"data: " + b"x" * 94) == []
    with pytest.raises(sse.FrameTooLarge, match="100 bytes"):
        decoder.feed(b"x")


def test_many_finished_events_do_not_add_up_to_the_limit() -> None:
    decoder = sse.Decoder(max_event_bytes=100)
    for _ in range(50):
        assert decoder.feed(b"data: aaaaaaaaaaaaaaa") == []
        assert decoder.feed(b"aaa\n\ndata: b\n\n") == [b"a" * 18, b"b"]


def test_a_large_event_in_many_reads_takes_linear_time() -> None:
    def seconds(reads: int) -> float:
        decoder = sse.Decoder(max_event_bytes=2**30)
        start = time.process_time()
        for _ in range(reads):
            decoder.feed(b"x" * 1000)
        return time.process_time() - start

    seconds(1000)
    # 16 times as long; to copy what has come with each read would take 256 times as long.
    few, many = (min(seconds(reads) for _ in range(3)) for reads in (1000, 16_000))
    assert many < 120 * few + 0.05
