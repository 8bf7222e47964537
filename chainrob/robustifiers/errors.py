"""What robustifiers warn of and raise."""

from __future__ import annotations


class NonFiniteGradientWarning(RuntimeWarning):
    """Some sample gradients held NaN or infinity and were given weight zero."""


class NonFiniteGradientError(ValueError):
    """Sample gradients hold NaN or infinity, and the robustifier may not (or cannot) drop them."""


class ConvergenceWarning(RuntimeWarning):
    """An iterative robustifier stopped before it met its tolerance.

    What ran on a device says so late: see ``chainrob.robustifiers.convergence``.
    """


class NotDifferentiableError(NotImplementedError):
    """A derivative was asked for that does not exist or is not known; zero would be a lie."""
