"""sidecar/assent.py: only what was read whole and for certain is a yes."""

import gzip
import json
import zlib
from typing import Any

import pytest
from awake import cpu_s
from hypothesis import given
from hypothesis import strategies as st

from sidecar.assent import Assent, Scalar

MOST = 1 << 16
JSON = (b"Content-Type", b"application/json")


def heard(
    content: bytes,
    wanted: dict[str, Scalar] | None = None,
    *fields: tuple[bytes, bytes],
    most: int = MOST,
    piece: int = 1 << 20,
    is_whole: bool = True,
) -> str:
    """What becomes of an answer that comes in pieces of this size."""
    assent = Assent(wanted or {"code": 0}, most)
    assent.begin((JSON, *fields))
    for at in range(0, len(content), piece):
        if not assent.take(content[at : at + piece]):
            break
    else:
        if is_whole:
            assent.end()
    assert assent.is_yes == (assent.why == "yes")
    return assent.why


def raw_deflate(content: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(content) + deflate.flush()


@pytest.mark.parametrize(
    ("content", "wanted", "why"),
    [
        ({"code": 0, "msg": "ok"}, {"code": 0}, "yes"),
        ({"code": 0.0}, {"code": 0}, "yes"),
        ({"code": 1}, {"code": 1.0}, "yes"),
        ({"code": False}, {"code": 0}, "no"),
        ({"code": 0}, {"code": False}, "no"),
        ({"code": True}, {"code": 1}, "no"),
        ({"code": "0"}, {"code": 0}, "no"),
        ({"code": None}, {"code": 0}, "no"),
        ({"code": []}, {"code": 0}, "no"),
        ({"code": {}}, {"code": 0}, "no"),
        ({"Code": 0}, {"code": 0}, "no"),
        ({}, {"code": 0}, "no"),
        ({"ok": True}, {"ok": True}, "yes"),
        ({"ok": "ok"}, {"ok": "ok"}, "yes"),
        ({"ok": "OK"}, {"ok": "ok"}, "no"),
        ({"data": {"user": {"ok": True}}}, {"data.user.ok": True}, "yes"),
        ({"data.user.ok": True}, {"data.user.ok": True}, "no"),
        ({"data": [{"ok": True}]}, {"data.ok": True}, "no"),
        ({"data": "user"}, {"data.user": True}, "no"),
        ({"code": 0, "ok": True}, {"code": 0, "ok": True}, "yes"),
        ({"code": 0, "ok": False}, {"code": 0, "ok": True}, "no"),
        ([{"code": 0}], {"code": 0}, "no"),
        ("code", {"code": 0}, "no"),
        (0, {"code": 0}, "no"),
    ],
)
def test_every_member_says_so(content: Any, wanted: dict[str, Scalar], why: str) -> None:
    """Types count: false is not 0. Numbers are numbers: 1 is 1.0."""
    assert heard(json.dumps(content).encode(), wanted) == why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no_json"),
        (b"<html>", "no_json"),
        (b'{"code": 0', "no_json"),
        (b'{"code": 0} x', "no_json"),
        (b'callback({"code": 0})', "no_json"),
        (b"[" * 60_000, "no_json"),
        (b'\xef\xbb\xbf{"code": 0}', "yes"),
        (b' {"code":\r\n0}\n', "yes"),
        (b'{"code": 0, "id": ' + b"9" * 5000 + b"}", "yes"),
        (b'{"code": ' + b"0" * 5000 + b"}", "no_json"),
        (b'{"code": 1, "code": 0}', "yes"),
        ('{"code": 0, "msg": "成功"}'.encode("utf-16"), "yes"),
        ('{"code": 0, "msg": "成功"}'.encode("gbk"), "no_json"),
        (b'{"code": 0, "msg": "\\ud800"}', "yes"),
    ],
)
def test_only_json_says_yes(content: bytes, why: str) -> None:
    """Whatever else an answer is, it is no yes; other members may hold what they like."""
    assert heard(content) == why


@pytest.mark.parametrize("charset", ["gbk", "GB2312", "gb18030", "big5", "Shift_JIS", "euc-kr", "utf-8", "klingon"])
def test_an_old_backends_charset_is_read(charset: str) -> None:
    """JSON is UTF-8, but not everywhere."""
    codec = charset if charset != "klingon" else "utf-8"
    content = '{"code": 0, "msg": "日"}'.encode(codec)
    assert heard(content, None, (b"content-type", f'text/html; charset="{charset}"'.encode())) == "yes"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        (b"gzip", gzip.compress),
        (b"X-GZip", gzip.compress),
        (b"gzip", lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])),
        (b"gzip", lambda content: gzip.compress(content) + bytes(40)),
        (b"deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"identity", bytes),
        (b"", bytes),
    ],
)
def test_the_content_is_decoded_however_it_is_cut(coding: bytes, encode: Any, piece: int) -> None:
    """gzip with several members or padding, deflate as RFC 9110 has it and as some send it."""
    content = encode(b'{"msg": "' + b"abc" * 700 + b'", "code": 0}')
    assert heard(content, None, (b"Content-Encoding", coding), piece=piece) == "yes"


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"gzip, br", b"aes128gcm"])
def test_a_coding_that_is_not_known_is_no_yes(coding: bytes) -> None:
    """Not even when the content looks like JSON."""
    assert heard(b'{"code": 0}', None, (b"content-encoding", coding)) == "coding"
    assert heard(b'{"code": 0}', None, (b"content-encoding", b"gzip"), (b"Content-Encoding", b"br")) == "coding"


def test_what_is_not_what_it_says_is_no_yes() -> None:
    """No gzip, a broken one, one that was cut off."""
    whole = gzip.compress(b'{"code": 0}')
    field = (b"Content-Encoding", b"gzip")
    assert heard(b'{"code": 0}', None, field) == "coding"
    assert heard(whole[:-8] + bytes(8), None, field) == "coding"
    for end in range(len(whole)):
        assert heard(whole[:end], None, field) == "cut_off"
    assert heard(b'{"code": 0}', is_whole=False) == "cut_off"


def test_what_is_too_large_is_no_yes() -> None:
    """As it comes and as it is decoded; up to the limit it is read."""
    content = b'{"code": 0}'
    assert heard(content, most=len(content)) == "yes"
    assert heard(content, most=len(content) - 1) == "too_large"
    field = (b"Content-Encoding", b"gzip")
    padded = content + b" " * 5000
    assert heard(gzip.compress(padded), None, field, most=len(padded)) == "yes"
    assert heard(gzip.compress(padded), None, field, most=len(padded) - 1) == "too_large"
    assert heard(gzip.compress(content), None, field, most=20) == "too_large"


@pytest.mark.parametrize(
    "bomb",
    [
        gzip.compress(bytes(200 << 20), 9),
        gzip.compress(b"", 9) * 3000,
        gzip.compress(gzip.compress(bytes(50 << 20))),
    ],
    ids=["zeros", "members", "nested"],
)
def test_a_bomb_goes_off_in_nobodys_face(bomb: bytes) -> None:
    """What is decoded is bounded, and so is the time that it takes."""
    found = []
    assert cpu_s(lambda: found.append(heard(bomb, None, (b"Content-Encoding", b"gzip")))) < 0.2
    assert found[0] in {"too_large", "no_json"}


@given(st.binary(max_size=300), st.sampled_from([b"", b"gzip", b"deflate", b"br"]), st.integers(1, 50))
def test_any_octets_are_read(content: bytes, coding: bytes, piece: int) -> None:
    """Nothing that upstream sends raises."""
    assert heard(content, None, (b"Content-Encoding", coding), piece=piece) in {
        "yes", "no", "no_json", "coding", "cut_off", "too_large"
    }  # fmt: skip
