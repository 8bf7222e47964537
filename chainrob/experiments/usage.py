"""Errors of the user, as opposed to errors of the program."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """An error that the user can correct. The command prints it in one line and exits with 2."""
