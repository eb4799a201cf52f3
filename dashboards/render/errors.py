"""What keeps the boards from being drawn, in one sentence each."""

from __future__ import annotations


class CannotRenderError(Exception):
    """Something is missing on this machine, or broke; the message says what to do."""


class UsageError(Exception):
    """An option has a value that it must not have; the message names both."""
