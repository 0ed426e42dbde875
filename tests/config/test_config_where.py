"""Every key is found on the line where a person would point at it."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.where import KeyPath, line_of, places

TOML = """\
# a comment with [brackets] and key = "value"
top.dotted."quoted.key" = 1
'literal key' = 2

[server] # comment
listen = "a # not a comment"
tls = { cert = "x", key = { deep = [1, 2] } }
"key with \\"quotes\\" and é" = 1

[a.b.c]
d = [
  1, # one
  # nothing
  "two ] , ",
  [3,
   4], { x = 5 },
]
text = '''
[not.a.table]
e = 1''''
more = \"\"\"
\\\"\"\" still [text]
\"\"\"\"
date = 1979-05-27 07:32:00
after = 1

[a]
late = 1

[[routes]]
match = 1
[routes.reply]
status = 200
[[routes.more]]
x = 1
[[routes.more]]
x = 2

[[routes]]
[routes.reply]
status = 201
"""

LINES: dict[KeyPath, int] = {
    ("top",): 2,
    ("top", "dotted"): 2,
    ("top", "dotted", "quoted.key"): 2,
    ("literal key",): 3,
    ("server",): 5,
    ("server", "listen"): 6,
    ("server", "tls"): 7,
    ("server", "tls", "key", "deep", 1): 7,
    ("server", 'key with "quotes" and é'): 8,
    ("a", "b"): 10,
    ("a", "b", "c"): 10,
    ("a", "b", "c", "d"): 11,
    ("a", "b", "c", "d", 0): 12,
    ("a", "b", "c", "d", 1): 14,
    ("a", "b", "c", "d", 2): 15,
    ("a", "b", "c", "d", 2, 0): 15,
    ("a", "b", "c", "d", 2, 1): 16,
    ("a", "b", "c", "d", 3, "x"): 16,
    ("a", "b", "c", "text"): 18,
    ("a", "b", "c", "more"): 21,
    ("a", "b", "c", "date"): 24,
    ("a", "b", "c", "after"): 25,
    ("a",): 27,
    ("a", "late"): 28,
    ("routes",): 30,
    ("routes", 0): 30,
    ("routes", 0, "match"): 31,
    ("routes", 0, "reply"): 32,
    ("routes", 0, "reply", "status"): 33,
    ("routes", 0, "more", 0, "x"): 35,
    ("routes", 0, "more", 1, "x"): 37,
    ("routes", 1): 39,
    ("routes", 1, "reply", "status"): 41,
}


def test_each_spelling_of_a_key_is_found_on_its_line() -> None:
    tomllib.loads(TOML)
    found = places(TOML)
    assert {path: found.get(path) for path in LINES} == LINES


def test_a_key_that_is_not_there_has_its_tables_line() -> None:
    found = places(TOML)
    assert line_of(found, ("server", "tls", "nothing")) == 7
    assert line_of(found, ("server", "nothing", "below")) == 5
    assert line_of(found, ("routes", 1, "match")) == 39
    assert line_of(found, ("nothing",)) == 1
    assert line_of(found, ()) == 1


def test_windows_line_ends_count_once() -> None:
    assert places(TOML.replace("\n", "\r\n")) == places(TOML)


def test_an_empty_file_has_no_places() -> None:
    assert places("") == {}
    assert places("# only this") == {}


# Any document, written in any of TOML's ways: each value is a number that stands nowhere else, so it tells its line…

NAMES = st.sampled_from(["a", "b-1", "c_d", "3", "two words", "é", 'q"q', "x.y", "#", "]", "'"])
LEAVES = st.sampled_from(["number", "text", "literal", "long text", "long literal"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: ("array", items))
        | st.dictionaries(NAMES, inner, max_size=3).map(lambda items: ("inline", items))
        | st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(lambda items: ("dotted", items))
    ),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=4).map(lambda items: ("table", items)),
    lambda inner: (
        st.dictionaries(NAMES, inner | VALUES, max_size=4).map(lambda items: ("table", items))
        | st.lists(inner, min_size=1, max_size=3).map(lambda items: ("tables", items))
    ),
    max_leaves=6,
)


class Writer:
    """Writes a drawn document; `marks` says where the number of each leaf must be found."""

    def __init__(self) -> None:
        self.marks: dict[KeyPath, int] = {}
        self.lines: list[str] = []

    def mark(self, path: KeyPath) -> int:
        self.marks[path] = 100_000 + len(self.marks)
        return self.marks[path]

    def value(self, drawn: Any, path: KeyPath) -> str:
        match drawn:
            case "number":
                return str(self.mark(path))
            case "text":
                return f'"{self.mark(path)} \\" ] #"'
            case "literal":
                return f"'{self.mark(path)} }} \\'"
            case "long text":
                return f'"""{self.mark(path)}\n[x]\ny = "" \\"""\n"""""'
            case "long literal":
                return f"'''{self.mark(path)}\n[[x]]\n'' \n''''"
            case ("array", items):
                inner = [self.value(item, (*path, index)) for index, item in enumerate(items)]
                return "[ # [\n" + "".join(f"  {text}, # ,\n\n" for text in inner) + "]"
            case _:  # inline, and dotted where no dots can be
                pairs = [f"{key(name)} = {self.value(item, (*path, name))}" for name, item in drawn[1].items()]
                return "{ " + ", ".join(pairs) + " }"

    def pair(self, keys: str, drawn: Any, path: KeyPath) -> None:
        if drawn[0] == "dotted":
            for name, item in drawn[1].items():
                self.pair(f"{keys} . {key(name)}", item, (*path, name))
        else:
            self.lines.append(f"{keys} = {self.value(drawn, path)} # end")

    def table(self, items: dict[str, Any], path: KeyPath, keys: str) -> None:
        below = {name: item for name, item in items.items() if item[0] in {"table", "tables"}}
        for name, item in items.items():
            if name not in below:
                self.pair(key(name), item, (*path, name))
        for name, (kind, inner) in below.items():
            self.tables(kind, inner, (*path, name), f"{keys}.{key(name)}" if keys else key(name))

    def tables(self, kind: str, inner: Any, path: KeyPath, keys: str) -> None:
        if kind == "table":
            self.lines += ["", f"[ {keys} ] # table"]
            self.table(inner, path, keys)
            return
        for index, (below, items) in enumerate(inner):
            self.lines.append(f"[[{keys}]]")
            self.table(items if below == "table" else {}, (*path, index), keys)


def key(name: str) -> str:
    if name.replace("-", "").replace("_", "").isalnum() and name.isascii():
        return name
    return f"'{name}'" if "'" not in name else f'"{name}"'


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, below in inner for found in paths(below, (*path, name)))]


@given(st.dictionaries(NAMES, TABLES | VALUES, max_size=5))
def test_every_path_of_any_document_is_found_and_every_value_on_its_line(drawn: dict[str, Any]) -> None:
    writer = Writer()
    writer.table(drawn, (), "")
    text = "\n".join(writer.lines)
    document, found, lines = tomllib.loads(text), places(text), text.split("\n")
    assert set(found) == set(paths(document)) - {()}
    for path, number in writer.marks.items():
        assert str(number) in lines[found[path] - 1]
