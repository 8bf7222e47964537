"""What Chainer misses when it is imported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy

from chainrob._chainer.mending import STAND_INS, StandIn, mends

# NumPy 2 dropped sctypes. Chainer looks up the integer of a size, and whether a type is a float.
STAND_INS["chainer.functions.array.as_strided"] = {
    "numpy": StandIn(
        numpy,
        sctypes={
            "int": [numpy.int8, numpy.int16, numpy.int32, numpy.int64],
            "float": [numpy.float16, numpy.float32, numpy.float64, numpy.longdouble],
        },
    )
}

# It looks for a faulty BLAS of old macOS through numpy.distutils, and for old versions of CuPy and
# iDeep through pkg_resources. Both modules are gone, and there is nothing left to check.
STAND_INS["chainer._environment_check"] = {"numpy": None, "pkg_resources": None}


@mends("chainer._environment_check")
def _environment_check(module: Any) -> None:
    module.check = lambda: None


class _ResolutionError(Exception):
    """A requirement is not met."""


class _WorkingSet:
    """The part of pkg_resources.WorkingSet that ``chainer.testing`` uses."""

    @staticmethod
    def require(*requirements: str) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from packaging.requirements import Requirement

        for requirement in map(Requirement, requirements):
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                raise _ResolutionError(str(requirement)) from None
            if not requirement.specifier.contains(found, prereleases=True):
                raise _ResolutionError(f"{requirement}: found {found}")


for _name in ("chainer.testing.helper", "chainer.testing.doctest_helper"):
    STAND_INS[_name] = {
        "pkg_resources": SimpleNamespace(WorkingSet=_WorkingSet, ResolutionError=_ResolutionError)
    }
