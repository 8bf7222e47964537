"""Numbers that the definition of an estimator and its compiled forms have in common.

The CUDA sources hold them once more, for they are compiled without Python.
"""

CHI_LEVEL = 0.34432045758120144
"""beta = E[Z^2 / (1 + Z^2)] for standard normal Z, which makes the M-estimate of scale that of the
normal."""

MAD_TO_SIGMA = 1.482602218505602
"""1 / Phi^-1(3/4), which makes the median absolute deviation the normal's standard deviation."""
