"""Run the tests of the device and measure it: one JSON and one table.

    python benchmarks/gpu.py [--device @cupy:0] [--out benchmarks/results] [--no-tests]

Measured are the forward and backward pass of one layer (4096 -> 4096, a batch of 1024, float32)
with every robustifier, as ratios to Chainer's own ``Linear`` in the same run, and the Iris
experiment with 10,000 trials of both methods. Times are taken on the device, the stock layer's
before and after each robustifier's, and the ratio is that of medians. ``benchmarks/gpu.sh`` finds
what is needed on a bare machine. To see that the script itself works, without a GPU:

    python benchmarks/gpu.py --device @numpy --width 64 --rows 40 --iris-trials 5 --iterations 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from statistics import median

import numpy as np

import chainrob
import chainer
from chainrob.experiments.devices import get_device
from chainrob.experiments.files import write_json
from chainrob.experiments.iris import iris_settings, run_iris
from chainrob.experiments.usage import UsageError
from chainrob.experiments.versions import versions

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"SoftTruncation(delta=0.005)": 3.0, "GeometricMedian()": 1.5}
"""Largest ratios to the stock layer on an H200, at the default sizes."""

IRIS_GOAL = 60.0
"""Seconds for 10,000 trials of both methods."""


def robustifiers(rows):
    """What is timed: every name with the parameters for a tenth of bad rows."""
    yield chainrob.SoftTruncation(delta=0.005)
    yield chainrob.MEstimator()
    for name in chainrob.robustifiers.names():
        if name == "clip_norm":  # its limit has a unit, so nothing follows from the sizes
            yield chainrob.ClipNorm(1.0) >> chainrob.Mean()
            continue
        try:
            found = chainrob.robustifiers.default(name, rows)
        except ValueError:  # a search that refuses so many rows is to say so itself
            found = chainrob.robustifiers.default(name, 20)
        is_whole = isinstance(found, chainrob.Robustifier)
        yield found if is_whole else found >> chainrob.CoordinateMedian()


def stopwatch(device):
    """A function that runs another and gives the seconds that the device was busy with it."""
    if device.name == "@numpy":

        def on_host(run):
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        return on_host
    import cupy

    def on_device(run):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return cupy.cuda.get_elapsed_time(start, stop) / 1000.0

    return on_device


def layer_step(link, device, rows, width):
    """One forward and backward pass, as a function without arguments."""
    rng = np.random.default_rng(0)
    x, gy = (device.send(rng.normal(size=(rows, width)).astype(np.float32)) for _ in range(2))
    gy = gy / np.float32(rows)
    link.to_device(device)

    def run():
        link.cleargrads()
        source = chainer.Variable(x)
        y = link(source)
        y.grad = gy
        y.backward()

    return run


def measure(step, watch, seconds):
    """Times of repeated steps: at least three, for about so many seconds; the first is not kept."""
    first = watch(step)
    count = int(min(max(3, seconds / max(first, 1e-9)), 200))
    return [watch(step) for _ in range(count)]


@contextlib.contextmanager
def kernels_launched():
    """The set of names of chainrob's own kernels that are launched inside."""
    names = set()
    handler = logging.Handler()
    handler.emit = lambda record: names.add(record.getMessage())
    log = logging.getLogger("chainrob.kernels.gpu.loading")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield names
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def layers(device, rows, width, seconds):
    """Yield an entry a robustifier: its time, that of the stock layer around it, and their ratio.

    One that cannot run is an entry too, and no end.
    """
    watch = stopwatch(device)
    stock = layer_step(chainer.links.Linear(width, width), device, rows, width)
    for robustifier in robustifiers(rows):
        name = repr(robustifier)
        link = chainrob.links.Linear(width, width, robustifier=robustifier)
        try:
            before = measure(stock, watch, seconds / 4)
            step = layer_step(link, device, rows, width)
            with kernels_launched() as kernels:
                step()
            own = measure(step, watch, seconds)
            after = measure(stock, watch, seconds / 4)
        except (ValueError, MemoryError) as error:  # searches refuse so many rows
            yield {"robustifier": name, "refused": str(error)}
        except Exception as error:
            traceback.print_exc()
            yield {"robustifier": name, "failed": described(error)}
        else:
            base = median(before + after)
            yield {
                "robustifier": name,
                "seconds": median(own),
                "stock_seconds": base,
                "ratio": median(own) / base,
                "repeats": len(own),
                "kernels": sorted(kernels),
                "goal": GOALS.get(name) if (rows, width) == (1024, 4096) else None,
            }


def iris(device_name, trials, iterations):
    """Seconds of the experiment, with its errors; a short run before it compiles what is needed."""
    run_iris(iris_settings(trials=2, iterations=2), device=device_name, progress=False)
    start = time.perf_counter()
    settings = iris_settings(trials=trials, iterations=iterations)
    results = run_iris(settings, device=device_name, progress=False)
    seconds = time.perf_counter() - start
    goal = IRIS_GOAL if (trials, iterations) == (10_000, 1000) else None
    errors = results.final()
    return {
        "trials": trials,
        "iterations": iterations,
        "seconds": seconds,
        "goal": goal,
        "test_error": errors,
    }


def run_tests(device_name):
    """Numbers of passed, failed and skipped tests, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # By itself: the project's settings ask for plugins that a bare machine lacks.
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={ROOT}"),
            *("--confcutdir", str(ROOT / "tests" / "gpu"), "-p", "no:cacheprovider"),
            *("-o", "markers=gpu: needs a CUDA device", "--import-mode=importlib"),
            *(f"--junitxml={report}", str(ROOT / "tests" / "gpu")),
        ]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "CHAINROB_TEST_DEVICE": device_name}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if not report.exists():
            return {"error": "the tests did not start"}
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": len(failed), "skipped": skipped, "failures": failed}


def describe(device):
    """The device's name, driver and memory, as far as it tells."""
    if device.name == "@numpy":
        return {"name": "host", "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(device.device.id)
    return {
        "name": properties["name"].decode(),
        "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
        "processors": properties["multiProcessorCount"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


def described(error):
    """An error in a line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]


def attempt(work, *args):
    """What work(*args) finds, or its error: what was measured before is not to be lost."""
    try:
        return work(*args)
    except Exception as error:
        traceback.print_exc()
        return {"error": described(error)}


def line_of(entry):
    for what in ("refused", "failed"):
        if what in entry:
            return f"| {entry['robustifier']} | | | | {what}: {entry[what]} |"
    goal = "" if entry["goal"] is None else f"at most {entry['goal']:g}"
    return (
        f"| {entry['robustifier']} | {1e3 * entry['seconds']:.3f} | {entry['ratio']:.2f} | {goal} "
        f"| {', '.join(entry['kernels'])} |"
    )


def table(record):
    """The record as Markdown."""
    sizes, found, tests = record["sizes"], record["iris"], record["tests"]
    lines = [
        f"# {record['device']['name']}",
        "",
        f"Forward and backward pass of a layer {sizes['width']} -> {sizes['width']}, a batch of "
        f"{sizes['rows']}, float32; ratios to Chainer's own Linear in the same run. The kernels "
        "are chainrob's own that ran, beside those of CuPy and cuBLAS: soft_truncation_moments is "
        "soft truncation from three matrix products, soft_truncation_mean the one that looks at "
        "all values.",
        "",
        "| robustifier | ms | ratio | goal | kernels |",
        "|---|---|---|---|---|",
        *(line_of(entry) for entry in record["layers"]),
        "",
    ]
    if found is None or "error" in found:
        lines.append(f"Iris: {found['error'] if found else 'not run yet'}.")
    else:
        goal = f" (goal {found['goal']:g} s)" if found["goal"] else ""
        lines.append(
            f"Iris, {found['trials']} trials of both methods, {found['iterations']} iterations: "
            f"{found['seconds']:.1f} s{goal}."
        )
    if tests is not None:
        counts = (f"{tests[key]} {key}" for key in ("passed", "failed", "skipped") if key in tests)
        lines += ["", f"Tests on the device: {tests.get('error') or ', '.join(counts)}."]
        lines += [f"- failed: {name}" for name in tests.get("failures", [])]
    return "\n".join(lines) + "\n"


def write(folder, record):
    """The two files, as far as the record goes; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "gpu.json", record)
    temporary = folder / ".gpu.md.tmp"
    temporary.write_text(table(record), encoding="utf-8")
    os.replace(temporary, folder / "gpu.md")
    return [str(folder / "gpu.json"), str(folder / "gpu.md")]


def main(arguments=None):
    """Run everything, and write the two files anew after every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="@cupy:0")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=2.0, help="a robustifier's share")
    parser.add_argument("--iris-trials", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=1000)
    args = parser.parse_args(arguments)
    try:
        device = get_device(args.device)
    except UsageError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        print("to try the script itself: see python benchmarks/gpu.py --help", file=sys.stderr)
        return 2
    with chainer.using_device(device):
        record = {
            "device": describe(device),
            "versions": versions(),
            "sizes": {"width": args.width, "rows": args.rows, "dtype": "float32"},
            "tests": None,
            "layers": [],
            "iris": None,
        }
        if not args.no_tests:
            record["tests"] = attempt(run_tests, args.device)
            write(args.out, record)
        for entry in layers(device, args.rows, args.width, args.seconds):
            print(line_of(entry), flush=True)
            record["layers"].append(entry)
            write(args.out, record)
        record["iris"] = attempt(iris, args.device, args.iris_trials, args.iterations)
    written = write(args.out, record)
    print(table(record))
    print(json.dumps({"written": written}))
    parts = [record["tests"] or {}, record["iris"], *record["layers"]]
    return int(any(part.get("error") or part.get("failed") for part in parts))


if __name__ == "__main__":
    sys.exit(main())
