"""The whole story on one machine: `signup-sidecar demo`. Only the command and tests import this room."""

from sidecar.demo.stage import main

__all__ = ["main"]
