"""The core runs where no framework is installed, and `import chainrob` loads none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import chainrob

PACKAGE = Path(chainrob.__file__).parent
CORE = (
    "robustifiers",
    "sample_gradients",
    "kernels",
    "characteristics",
    "statistics",
    "datasets",
    "aggregation",
    "builders",
)
FRONTS = ("chainer", "torch", *(f"chainrob.{one}" for one in ("functions", "links", "training")))

BLOCKED = """
import sys
sys.modules["chainer"] = None
class Refuse:    # not None for these: SciPy looks them up in sys.modules
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cupy"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "installed"])
def test_the_core_alone(run_python, blocked):
    """Then what needs Chainer: it is imported, and mended, or an error names it."""
    run_python(
        (BLOCKED if blocked else "import sys")
        + CORE_ALONE
        + (MISSING_CHAINER if blocked else CHAINER_PART)
    )


CORE_ALONE = """
import importlib, pkgutil
import numpy as np
import chainrob

for part in ("robustifiers", "sample_gradients", "characteristics", "statistics", "datasets",
             "aggregation", "builders"):
    package = importlib.import_module(f"chainrob.{part}")
    for module in pkgutil.walk_packages(package.__path__, f"chainrob.{part}."):
        importlib.import_module(module.name)

from chainrob import builders
from chainrob.aggregation import Aggregation, LayerGradients

rng = np.random.default_rng(0)
x, gy = rng.normal(size=(8, 3)), rng.normal(size=(8, 2)) / 8
gy[0] *= 1e6
told = []
class Layer: pass
layer = Layer()
from chainrob.aggregation import add_observer
add_observer(layer, lambda seen: told.append(seen.sample_weights()), "/l1")
for robustifier in (chainrob.GeometricMedian(), chainrob.TrimmedMean(0.2), chainrob.Krum(f=1),
                    chainrob.SoftTruncation(0.01), chainrob.CoordinateMedian(),
                    chainrob.ClipNorm(1.0) >> chainrob.Mean()):
    plan = Aggregation(robustifier, "mean", "layer", layer)
    gradients = LayerGradients(builders.linear_rows, plan, [1, 2], {1: "W", 2: "b"},
                               {1: x.dtype, 2: x.dtype}, pull=builders.linear_pullback)
    gW, gb = gradients.estimates((x, gy))
    rows = np.concatenate([np.einsum("nq,np->nqp", 8 * gy, x).reshape(8, -1), 8 * gy], axis=1)
    expected = robustifier(rows)
    assert np.allclose(np.concatenate([gW.ravel(), gb]), expected, rtol=1e-7), robustifier
assert len(told) == 6 and told[0].shape == (8,) and told[0].argmin() == 0
assert not {name for name in sys.modules
            if name.partition(".")[0] in ("chainer", "chainermn", "torch") and sys.modules[name]}
"""

CHAINER_PART = """
assert {"links", "functions", "training", "robustify", "plain"} <= set(dir(chainrob))
model = chainrob.robustify(chainrob.links.MLP((2, 3, 1)), chainrob.Mean())
assert "chainer" in sys.modules and chainrob.plain(model) is model
from chainrob import functions, links, training
assert functions is chainrob.functions
import chainer
assert chainer.functions.fix(np.float32([-1.5])).array[0] == -1    # mended
"""

MISSING_CHAINER = """
for name in ("links", "functions", "training", "robustify"):
    try:
        getattr(chainrob, name)
    except ImportError as error:
        assert "chainer" in str(error), error
    else:
        raise AssertionError(name)
"""


def test_another_chainer_is_refused_when_it_is_imported(run_python):
    run_python(
        """
import chainrob
try:
    import chainer
except ImportError as error:
    assert "found Chainer 6.0.0" in str(error), error
else:
    raise AssertionError("imported")
""",
        files={"chainer.py": "__version__ = '6.0.0'"},
    )


def test_no_source_file_of_the_core_imports_a_framework():
    found = []
    for part in CORE:
        for path in (PACKAGE / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [one.name for one in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                found += [(path.name, name) for name in names if name.startswith(FRONTS)]
    assert not found
