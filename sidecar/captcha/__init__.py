"""Is this a person? One file per kind; the seam says what a kind is."""

import importlib
import pkgutil
from types import ModuleType
from typing import Final

_NO_KINDS: Final = frozenset({"seam", "remote"})


def kinds() -> dict[str, ModuleType]:
    """Every kind by its TOML `kind`: the files of this folder but the seam and what calls out for it."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_KINDS)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
