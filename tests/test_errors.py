"""sidecar/errors.py: every no says what happened, in a sentence of ours."""

import ast
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from sources import tree

import sidecar
from sidecar import problem
from sidecar.errors import CODES, DETAILS, Refusal

PYTHONS_OWN = {status.description for status in HTTPStatus} | {status.phrase for status in HTTPStatus}


def is_sentence(text: str) -> bool:
    return text[0].isupper() and text.endswith(".") and text not in PYTHONS_OWN and " " in text


def refusals() -> Iterator[tuple[str, ast.Call]]:
    """Every call of `Refusal` in the sources, with where it stands."""
    for path in Path(sidecar.__file__).parent.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                yield f"{path.name}:{node.lineno}", node


def test_every_code_has_a_sentence_of_ours() -> None:
    """Whoever refuses without one says this; never what Python says of the status."""
    assert CODES.keys() == DETAILS.keys()
    for code in CODES:
        refusal = Refusal(code, "because")
        assert is_sentence(refusal.detail), code
        assert refusal.detail.encode() in problem.document(refusal, "id", ()).body


def test_every_refusal_is_one_of_the_codes_and_ends_its_sentence() -> None:
    """In the sources: the code is of the contract, and a detail that is written there is a sentence."""
    found = list(refusals())
    assert len(found) > 40
    for where, call in found:
        code, detail = call.args[0], call.args[2] if len(call.args) > 2 else None
        assert isinstance(code, ast.Constant), where
        assert code.value in CODES, where
        if isinstance(detail, ast.Constant):
            assert is_sentence(str(detail.value)), where
        elif isinstance(detail, ast.JoinedStr) and isinstance(end := detail.values[-1], ast.Constant):
            assert str(end.value).endswith("."), where
