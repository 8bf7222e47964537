"""The PyTorch front on a device against itself on the CPU."""

import pytest

import chainrob
from tests.gpu.conftest import NAME

torch = pytest.importorskip("torch")
if NAME != "@numpy" and not torch.cuda.is_available():
    pytest.skip("PyTorch finds no GPU", allow_module_level=True)

DEVICE = "cpu" if NAME == "@numpy" else "cuda"
ROBUSTIFIERS = [
    chainrob.Mean(),
    chainrob.SoftTruncation(),
    chainrob.GeometricMedian(),
    chainrob.TrimmedMean(0.2),
    chainrob.ClipNorm(0.1) >> chainrob.Mean(),
]


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 2),
        torch.nn.GroupNorm(1, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(27, 4),
    ).double()


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_the_device_gives_the_gradients_of_the_host(robustifier, scope):
    import chainrob.torch

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
    x[0] *= 50
    found = []
    for device in ("cpu", DEVICE):
        net = chainrob.torch.robustify(network(), robustifier, scope=scope).to(device)
        side = torch.cuda.Stream() if device == "cuda" else None
        if side is not None:
            side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # of None: nothing
            net(x.to(device)).square().mean().backward()
        if side is not None:
            side.synchronize()
        found.append([p.grad.cpu() for p in net.parameters()])
    for host, device_one in zip(*found, strict=True):
        torch.testing.assert_close(device_one, host, rtol=1e-9, atol=1e-12)
