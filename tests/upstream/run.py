"""Run Chainer's own tests against our links and functions: ``make upstream CHAINER=<a checkout>``.

The checkout is of Chainer's repository at v7.8.1. The tests of every layer that has a robust form
run three times: as they are, with our links and functions without a robustifier, and with our links
and the robustifier ``Mean()``. A test that fails only with ours is a difference; those that are
known are in ``known_differences.toml`` with their reason, and any other one is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODES = ("stock", "none", "mean")
FILES = {
    "links_tests/connection_tests": (
        "bias",
        "convolution_2d",
        "convolution_nd",
        "deconvolution_2d",
        "deconvolution_nd",
        "dilated_convolution_2d",
        "embed_id",
        "inception",
        "linear",
        "mlp_convolution_2d",
        "scale",
    ),
    "links_tests/rnn_tests": (
        "link_n_step_gru",
        "link_n_step_lstm",
        "link_n_step_rnn",
        "link_tree_lstm",
    ),
    "links_tests/normalization_tests": ("group_normalization", "layer_normalization"),
    "links_tests/activation_tests": ("prelu", "swish"),
    "functions_tests/connection_tests": (
        "convolution_2d",
        "convolution_nd",
        "deconvolution_2d",
        "deconvolution_nd",
        "embed_id",
        "linear",
    ),
    "link_hooks_tests": ("spectral_normalization", "weight_standardization"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chainer", type=Path, help="a checkout of Chainer's repository at v7.8.1")
    parser.add_argument("-k", default="", help="only tests whose name holds this, as for pytest")
    arguments = parser.parse_args()
    tests = arguments.chainer.resolve() / "tests" / "chainer_tests"
    if not tests.is_dir():
        parser.error(f"{arguments.chainer} holds no tests/chainer_tests: is it a Chainer checkout?")
    files = [
        tests / folder / f"test_{name}.py"
        for folder, names in FILES.items()
        for name in names
        if (tests / folder / f"test_{name}.py").exists()
    ]
    known = tomllib.loads((HERE / "known_differences.toml").read_text())
    failed = {mode: run(mode, files, arguments.k) for mode in MODES}
    surprises = 0
    for mode in MODES[1:]:
        differences = failed[mode].keys() - failed["stock"].keys()
        for test in sorted(differences):
            reason = next((r for p, r in known[mode].items() if re.search(p, test)), None)
            surprises += reason is None
            print(f"{mode}: {test}: {reason or 'NOT KNOWN: ' + failed[mode][test]}")
    print("no difference that is not known" if not surprises else f"{surprises} are not known")
    return 1 if surprises else 0


def run(mode: str, files: list[Path], only: str) -> dict[str, str]:
    """Run the tests in one mode; the failed ones by name, with the first line of their message."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "stand_ins",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-c", os.devnull, "--rootdir", str(files[0].parents[3]), f"--junitxml={report}"]
        command += ["-m", "not (gpu or cudnn or ideep or chainerx or multi_gpu)", "-k", only]
        command += ["-W", "ignore", "--tb=line", "-n", "2", *map(str, files)]
        environment = {
            **os.environ,
            "CHAINROB_UPSTREAM": mode,
            "CHAINER_TEST_PAIRWISE_PARAMETERIZATION": "always",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            sys.exit(done.stdout + done.stderr)
        cases = ET.parse(report).getroot().iter("testcase")
        failed = {}
        for case in cases:
            for child in case:
                if child.tag in ("failure", "error"):
                    message = (child.get("message") or "").split("\n")[0]
                    failed[f"{case.get('classname')}.{case.get('name')}"] = message
    print(f"{mode}: {done.stdout.strip().splitlines()[-1]}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
