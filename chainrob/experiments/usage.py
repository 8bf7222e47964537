"""What goes wrong by the user's hand rather than by the program's."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """Something that the user can put right: the command prints it in one line and exits with 2."""
