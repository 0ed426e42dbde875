"""Fixtures of the story tests: `start` starts the whole product."""

from telling import start

__all__ = ["start"]
