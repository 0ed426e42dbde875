"""sidecar/json_text.py: a text is read as the standard library reads it, and by whatever decoder is given."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import json_text

PIECES = st.sampled_from(
    ['{"a":1}', "[1, 2]", "1", '"x"', "null", " ", "\t\r\n", "\u00a0", "\ufeff", "\v", "{", "]", ","]
)


def read(text: str) -> object:
    try:
        return json_text.document(text, json.JSONDecoder())
    except ValueError:
        return ValueError


def expected(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return ValueError


@given(st.lists(PIECES, max_size=4).map("".join))
@example("")
@example(' {"a":1}\n')
@example('{"a":1} x')
def test_a_document_is_what_the_standard_library_reads(text: str) -> None:
    """Space around it is none of it; anything else around it makes it no document."""
    assert read(text) == expected(text)
