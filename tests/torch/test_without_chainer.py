"""The PyTorch front where Chainer is not installed, and the package where PyTorch is not."""

from tests.aggregation.test_without_a_framework import BLOCKED


def test_training_without_chainer(run_python):
    run_python(
        """
import sys
for name in ("chainer", "chainermn"):
    sys.modules[name] = None
import copy
import importlib
import pkgutil
import torch
import chainrob
import chainrob.torch as ct

for module in pkgutil.walk_packages(ct.__path__, "chainrob.torch."):
    importlib.import_module(module.name)
assert "torch._dynamo" not in sys.modules  # two seconds that only torch.compile needs
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
net = copy.deepcopy(ct.robustify(net, chainrob.GeometricMedian(), scope="model"))
optimizer = torch.optim.SGD(net.parameters(), 0.1)
x = torch.randn(6, 3)
x[2] *= 1e3
suspects = ct.Suspects(net, 6)
suspects.next(range(6))
with ct.accumulate_samples(net):
    net(x).square().mean().backward()
optimizer.step()
net(x).square().mean().backward()
assert suspects.averages.counts().sum() > 0
with ct.per_sample_norms(net) as norms:
    net(x).square().mean().backward()
assert norms.total.shape == (6,)
chainrob.distributed.Distributed
try:
    chainrob.links
except ImportError:
    print("no Chainer")
"""
    )


def test_a_clear_error_without_pytorch(run_python):
    printed = run_python(
        BLOCKED
        + """
import chainrob
try:
    import chainrob.torch
except ImportError as error:
    assert "pip install 'chainrob[torch]'" in str(error), error
    print("told")
"""
    )
    assert "told" in printed
