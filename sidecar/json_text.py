"""When is a text one JSON document? When nothing but space stands around it. RFC 8259 section 2.

`json.loads` says the same, and looks for the space with an expression on either side, which takes longer than reading
a vendor's answer.
"""

import json
from typing import Any, Final

_SPACE: Final = " \t\n\r"


def document(text: str, decoder: json.JSONDecoder) -> Any:
    """Read the one JSON document that a text is. Raises ValueError, RecursionError for what nests too deeply."""
    text = text.strip(_SPACE)
    found, end = decoder.raw_decode(text)
    if end != len(text):
        raise ValueError("something stands behind the document")
    return found
