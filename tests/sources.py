"""The program's own text, as a tree."""

import ast
import gc
from pathlib import Path


def tree(path: Path) -> ast.Module:
    """Parse a file. Nothing is collected meanwhile: before Python 3.11.8, a tree cannot be made within another one.

    A traceback that is written makes one, and so does the log of a task that ends in the hands of the collector.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
