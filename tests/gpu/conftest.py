"""What the tests on a device share. They skip, with the reason, where there is none.

``CHAINROB_TEST_DEVICE=@numpy`` lets them compare NumPy with itself: a check of the tests.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import chainrob
import chainer

NAME = os.environ.get("CHAINROB_TEST_DEVICE", "@cupy:0")


def missing() -> str | None:
    """Why there is nothing to test on."""
    if NAME == "@numpy":
        return None
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is not installed ({error})"
    try:
        there = cupy.cuda.is_available()
    except Exception as error:  # the driver is missing: CuPy's own type is private
        return f"CuPy finds no GPU ({error})"
    return None if there else "CuPy finds no GPU"


def pytest_collection_modifyitems(items):
    reason = missing()
    for item in items:
        if "/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device():
    """The device, which arrays are made on inside the test."""
    found = chainer.get_device(NAME)
    with chainer.using_device(found):
        yield found


def to_host(value):
    if isinstance(value, tuple | list):
        return type(value)(to_host(one) for one in value)
    return chainrob.kernels.to_host(value)


TOLERANCES = {"float64": 1e-8, "float32": 3e-4, "float16": 3e-2}


def assert_close(found, expected, slack=1.0):
    """Compare an array of the device with the host's, in shares of its largest entry."""
    if isinstance(expected, tuple | list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, slack)
        return
    found = to_host(found)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    size = np.abs(expected.astype(np.float64)).max(initial=1e-30)
    np.testing.assert_allclose(
        found.astype(np.float64) / size,
        expected.astype(np.float64) / size,
        atol=slack * TOLERANCES[expected.dtype.name],
        rtol=0,
    )
