"""Chainer imports on today's stack, and nothing outside it is changed."""

from __future__ import annotations

import sys
import types
import unittest

import numpy
import pytest

from chainrob import _chainer
from chainrob._chainer import mending

NUMPY_2 = int(numpy.__version__.partition(".")[0]) >= 2


def test_import_leaves_numpy_as_it_was(run_python):
    run_python(
        """
import sys, types
import numpy
# What Chainer imports of NumPy and SciPy by itself (numpy.typing, say) is not ours to keep away.
import scipy.io, scipy.linalg, scipy.sparse, scipy.special, numpy.testing

before = {name: getattr(numpy, name) for name in dir(numpy)}
modules = set(sys.modules)
import chainrob
import chainer
import chainer.functions as F
# These come late.
assert not {"chainer.testing", "chainermn", "cupy"} & (set(sys.modules) - modules)
import chainer.gradient_check
import chainer.testing
import chainer.testing.doctest_helper
assert chainer.testing.doctest_helper.skipif_requires_satisfied("numpy")
assert not chainer.testing.doctest_helper.skipif_requires_satisfied("numpy<1")

x = chainer.Variable(numpy.arange(6, dtype=numpy.float32))
F.as_strided(x, (2, 2), (2, 1), 0).grad = None
F.sum(F.as_strided(x, (2, 2), (2, 1), 0)).backward()
F.resize_images(numpy.ones((1, 1, 2, 2), "f"), (3, 3))

after = {name: getattr(numpy, name) for name in dir(numpy)}
for name, value in after.items():
    if name in before:
        assert value is before[name], name
    else:
        assert isinstance(value, types.ModuleType) and value.__name__ == f"numpy.{name}", name
assert set(before) <= set(after)
assert not {"pkg_resources", "numpy.distutils"} & (set(sys.modules) - modules)
"""
    )


def test_import_after_a_failed_import_of_chainer(run_python):
    run_python(
        """
try:
    import chainer          # fails on NumPy 2 and on Python 3.12, and leaves its submodules behind
except Exception:
    pass
import chainrob
import chainer
import numpy
assert chainer.backends.cuda.get_array_module(numpy.ones(1)) is numpy
assert chainer.functions.array.as_strided.as_strided is chainer.functions.as_strided
assert isinstance(chainer.links.Linear(2, 1)(numpy.ones((1, 2), "f")), chainer.Variable)
"""
        if NUMPY_2
        else "import chainrob, chainer"
    )


def test_chainer_imported_before_is_mended_in_place(run_python):
    """As with NumPy 1.26, whose names are lent to later NumPys for the import only."""
    run_python(
        """
import sys, types, warnings
import numpy

stubs = {name: types.ModuleType(name) for name in ("numpy.distutils", "numpy.distutils.system_info",
                                                   "pkg_resources")}
class Missing(Exception): pass
def require(requirement): raise Missing
stubs["pkg_resources"].require = require
stubs["pkg_resources"].DistributionNotFound = Missing
sys.modules.update(stubs)
lent = [name for name in ("sctypes", "distutils") if not hasattr(numpy, name)]
if "sctypes" in lent:
    numpy.sctypes = {"int": [numpy.int8, numpy.int16, numpy.int32, numpy.int64],
                     "float": [numpy.float16, numpy.float32, numpy.float64, numpy.longdouble]}
if "distutils" in lent:
    numpy.distutils = stubs["numpy.distutils"]
import chainer
fix, Categorical, module = chainer.functions.fix, chainer.distributions.Categorical, chainer
for name in stubs: del sys.modules[name]

import chainrob
import chainer, chainer.testing
assert chainer is module and chainer.functions.fix is fix
assert fix(numpy.float32([-1.5])).array[0] == -1
assert Categorical is chainer.distributions.Categorical
log_prob = Categorical(p=numpy.float32([[0.25, 0.75]])).log_prob(numpy.array([1])).array
assert numpy.allclose(log_prob, numpy.log([0.75]))
padded = chainer.functions.pad_sequence([numpy.ones(1, "u1"), numpy.ones(2, "u1")], padding=-1)
assert padded.array.tolist() == [[1, 255], [1, 1]]
"""
    )


def test_install_twice_changes_nothing():
    import chainer

    before = list(sys.meta_path), chainer.functions.fix.__code__
    _chainer.install()
    assert (list(sys.meta_path), chainer.functions.fix.__code__) == before


def test_another_chainer_is_refused(monkeypatch):
    import chainer

    monkeypatch.setattr(chainer, "__version__", "6.0.0")
    with pytest.raises(ImportError, match=r"needs Chainer 7\.8\.1.*found Chainer 6\.0\.0"):
        _chainer.install()


def test_a_function_that_is_not_the_known_one_is_refused():
    def function():
        return numpy.fix

    with pytest.raises(ImportError, match="does not read 'float'"):
        mending.rename(function, float="float64")


def test_rebinding_is_for_one_function_alone():
    namespace: dict[str, types.FunctionType] = {}
    exec("def f(x): return len(x)\ndef g(x): return len(x)", namespace)
    f = namespace["f"]
    mending.rebind(f, len=lambda x: -1)
    assert namespace["f"] is f
    assert (f("ab"), namespace["g"]("ab")) == (-1, 2)


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("numpy", True),
        ("numpy>=1.10", True),
        ("numpy<1.10", False),
        ("no-such-distribution-anywhere", False),
        ("no-such-distribution-anywhere; python_version < '3'", True),
    ],
)
def test_with_requires(requirement, met):
    from chainer import testing

    def skipped(decorator):
        class Case(unittest.TestCase):
            @decorator(requirement)
            def test(self):
                pass

        result = unittest.TestResult()
        Case("test").run(result)
        return bool(result.skipped)

    assert skipped(testing.with_requires) is not met
    assert skipped(testing.without_requires) is met


def test_no_advice_to_install_cudnn_with_cupy_14():
    for major, silent in ((14, True), (13, False)):
        cuda = types.SimpleNamespace(
            available=True, _cupy_major=major, check_cuda_available=types.SimpleNamespace()
        )
        mending.MENDS["chainer.backends.cuda"](cuda)
        assert getattr(cuda.check_cuda_available, "_already_warned", False) is silent
