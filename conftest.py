"""What needs PyTorch is left out where that is not installed, and what needs a GPU without one."""

from importlib.util import find_spec

from tests.gpu.conftest import missing

collect_ignore_glob = [] if find_spec("torch") else ["chainrob/torch/*", "tests/torch/*"]
if missing():
    collect_ignore_glob.append("tests/gpu/*")


def pytest_report_header() -> str | None:
    """Say so once; to skip 800 tests one by one takes seconds."""
    return f"without tests/gpu: {missing()}" if missing() else None
