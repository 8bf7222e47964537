"""Sample gradients brought to ordinary size by powers of two, so that squares neither overflow nor
vanish.

Products of float32 numbers are at home in float64, where every Gram matrix is formed, so only
float64 gradients need this. A power of two costs no digit.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import SampleGradients


def normalized(gradients: SampleGradients) -> tuple[SampleGradients, Any]:
    """The operator 2^-e G and e, with e such that its Gram matrix fits into float64.

    It does where the largest row is less than about 1e200 times the median one. float16 and
    float32 gradients are returned as they are, with e = 0. Exponents are numbers, but for arrays on
    a device they stay there, arrays without axes, so that nothing waits for them.
    """
    if gradients.compute_dtype != np.float64:
        return gradients, 0
    exponent = gradients.magnitude()
    return gradients.scaled_down(exponent), exponent


def larger(*exponents: Any) -> Any:
    """The largest of several exponents."""
    if all(isinstance(one, int) for one in exponents):
        return max(exponents)
    return reduce(array_module(*exponents).maximum, exponents)
