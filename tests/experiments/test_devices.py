import sys
import types

import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.devices import get_device


@pytest.mark.parametrize("name", ["", "cupy", "@cupy", "@cupy:-1", "@cupy:x", "numpy", "@intel64"])
def test_unknown_devices_are_named(name):
    with pytest.raises(UsageError, match="must be @numpy or @cupy:N"):
        get_device(name)


def test_without_cupy_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(UsageError, match=r"needs CuPy .*pip install 'chainrob\[cuda13\]'"):
        get_device("@cupy:0")


def fake_cupy(count):
    def get_device_count():
        if count is None:
            raise RuntimeError("cudaErrorNoDevice")
        return count

    runtime = types.SimpleNamespace(getDeviceCount=get_device_count)
    fake = types.ModuleType("cupy")
    fake.cuda = types.SimpleNamespace(runtime=runtime)
    return fake


def test_cupy_without_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(None))
    with pytest.raises(UsageError, match=r"finds no GPU .*cudaErrorNoDevice.*driver"):
        get_device("@cupy:0")


def test_too_large_a_number(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(2))
    with pytest.raises(UsageError, match="there are 2 GPUs, numbered from 0"):
        get_device("@cupy:2")
