"""Signup Sidecar: verified phone numbers in front of a registration service that knows nothing of it."""

__version__ = "0.1.0"
