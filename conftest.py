"""What of the package needs PyTorch is left out where that is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["chainrob/torch/*", "tests/torch/*"]
