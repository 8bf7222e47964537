"""What robustifiers warn of and raise."""

from __future__ import annotations


class NonFiniteGradientWarning(RuntimeWarning):
    """Some sample gradients held NaN or infinity and were given weight zero."""


class NonFiniteGradientError(ValueError, RuntimeError):
    """Sample gradients hold NaN or infinity, and the robustifier may not (or cannot) drop them.

    It ends a training that diverges before the parameters are spoiled, and is a RuntimeError as
    what Chainer's ``FailOnNonNumber`` raises a step later. What is to be seen by that extension, or
    by a loss scaler that skips a step when it finds an overflow, must be let through:
    ``nonfinite='propagate'``.
    """


class ConvergenceWarning(RuntimeWarning):
    """An iterative robustifier stopped before it met its tolerance.

    What ran on a device says so late: see ``chainrob.robustifiers.convergence``.
    """


class NotDifferentiableError(NotImplementedError):
    """A derivative was asked for that does not exist or is not known; zero would be a lie."""
