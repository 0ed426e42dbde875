"""What does each of these names stand for? Made when it is first asked for, and kept. Pure.

So that of the many kinds of captcha and provider a process imports those that its configuration names.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

_T = TypeVar("_T")


class OnDemand(Mapping[str, _T]):
    """A mapping whose names are known, and whose values `make` makes."""

    def __init__(self, names: Collection[str], make: Callable[[str], _T]) -> None:
        self._names = names
        self._make = make
        self._made: dict[str, _T] = {}

    def __getitem__(self, name: str) -> _T:
        if name not in self._made:
            if name not in self._names:
                raise KeyError(name)
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
