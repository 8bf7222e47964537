"""Time the whole of Figure 4 (both methods, all trials) against one-trial-after-the-other.

    python benchmarks/iris.py [--trials 20] [--iterations 1000] [--repeat 3]

Both ways start from the same data and the same initial weights, record the errors equally often,
and run in this process on one thread setting. The loop is written as the released program is
built: a chain of Chainer links, for the robust layer a function node whose backward goes through
the output units one by one and estimates the gradient of each unit's weights by NumPy, and one
trial and one method after the other.

Printed are the two times, their ratio, and how the errors compare. The curves of a trial agree
point by point at first. Later the pushed points make large steps, in which rounding in the last
bit grows until a trial may learn in one way of summing and not in the other (in float64 later than
in float32): at the end only the distributions over trials can be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np

import chainrob
import chainer
from chainrob.experiments.iris import initial_parameters, iris_settings, run_iris, trial_data
from chainrob.experiments.versions import versions

DELTA, FLOOR = 0.005, 0.001


def estimate(rows):
    """Soft truncation of 1/N-scaled rows (N, D), as the released program scales them."""
    n = len(rows)
    if n < 3:
        return rows.sum(axis=0)
    mean = rows.mean(axis=0)
    variance = np.maximum(rows.var(axis=0), FLOOR)
    s = np.sqrt(n * variance / (2 * np.log(1 / DELTA)))
    u = (rows - mean) / s
    inner = np.abs(u) <= np.sqrt(2)
    psi = np.where(inner, u - u**3 / 6, np.sign(u) * 2 * np.sqrt(2) / 3)
    return mean + s * psi.mean(axis=0)


class LoopFunction(chainer.FunctionNode):
    """A linear layer whose gradients are estimated unit by unit."""

    def forward(self, inputs):
        x, W, b = inputs
        self.retain_inputs((0, 1))
        return (x @ W.T + b,)

    def backward(self, indexes, grad_outputs):
        x, W = self.get_retained_inputs()
        gy = grad_outputs[0].array
        gW = np.empty_like(W.array)
        gb = np.empty(len(gW), dtype=gW.dtype)
        for unit in range(len(gW)):
            column = gy[:, unit : unit + 1]
            gW[unit] = estimate(column * x.array)
            gb[unit] = estimate(column)[0]
        gx = gy @ W.array
        return chainer.Variable(gx), chainer.Variable(gW), chainer.Variable(gb)


class LoopLinear(chainer.links.Linear):
    """The link of ``LoopFunction``."""

    def forward(self, x):
        return LoopFunction().apply((x, self.W, self.b))[0]


class LoopMLP(chainer.Chain):
    """The tutorial's chain, for one trial."""

    def __init__(self, parameters, robust):
        super().__init__()
        with self.init_scope():
            for number, (W, b) in enumerate(parameters, start=1):
                link = LoopLinear if robust and number == 1 else chainer.links.Linear
                layer = link(W.shape[1], W.shape[0], initialW=W, initial_bias=b)
                setattr(self, f"l{number}", layer)

    def forward(self, x):
        x = chainer.functions.relu(self.l1(x))
        x = chainer.functions.relu(self.l2(x))
        return self.l3(x)


def loop(settings):
    """All trials and methods, one after the other: errors (methods, trials, times, 2)."""
    result = []
    for robust in (False, True):
        curves = []
        for trial in range(settings.trials):
            data = trial_data(settings, trial)
            x, x_test = (z.astype(settings.dtype) for z in (data.x_train, data.x_test))
            with chainer.using_config("dtype", np.dtype(settings.dtype)):
                model = LoopMLP(initial_parameters(settings, trial), robust)
            optimizer = chainer.optimizers.SGD(settings.learning_rate).setup(model)
            curve = []
            for iteration in range(settings.iterations + 1):
                if iteration in settings.recorded:
                    with chainer.no_backprop_mode():
                        curve.append(
                            [
                                (model(points).array.argmax(axis=1) != t).mean()
                                for points, t in ((x, data.t_train), (x_test, data.t_test))
                            ]
                        )
                if iteration == settings.iterations:
                    break
                loss = chainer.functions.softmax_cross_entropy(model(x), data.t_train)
                model.cleargrads()
                loss.backward()
                optimizer.update()
            curves.append(curve)
        result.append(curves)
    return np.array(result)


def ensemble(settings):
    """The same by ``chainrob iris``'s own code, without its files."""
    return np.stack(list(run_iris(settings, progress=False).errors.values()))


def main(arguments=None):
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3, help="of ours; the loop is run once")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    args = parser.parse_args(arguments)
    settings = iris_settings("released", trials=args.trials, iterations=args.iterations)
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        ours = ensemble(settings)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    theirs = loop(settings)
    loop_seconds = time.perf_counter() - start
    final = {
        "ensemble": ours.mean(axis=1)[:, -1, 1].tolist(),
        "loop": theirs.mean(axis=1)[:, -1, 1].tolist(),
    }
    early = settings.recorded.index(min(100, args.iterations))
    same = (ours == theirs)[:, :, : early + 1].all(axis=(2, 3)).mean(axis=1)
    figures = {
        "trials": args.trials,
        "iterations": args.iterations,
        "loop_seconds": loop_seconds,
        "ensemble_seconds": min(seconds),
        "ratio": loop_seconds / min(seconds),
        "final_test_error_deep_and_deep_rob": final,
        "share_of_trials_equal_for_100_updates_deep_and_deep_rob": same.tolist(),
        "versions": versions(),
    }
    print(f"Figure 4: {args.trials} trials, 2 methods, {args.iterations} iterations")
    print(f"  loop over trials, loop over units   {loop_seconds:8.2f} s")
    ours_label = f"chainrob {chainrob.__version__}, ensemble (best of {args.repeat})"
    print(f"  {ours_label:<36}{min(seconds):8.2f} s")
    print(f"  ratio                               {figures['ratio']:8.1f}")
    for index, method in enumerate(settings.methods()):
        print(
            f"  {method}: final test error {final['ensemble'][index]:.3f}, loop "
            f"{final['loop'][index]:.3f}; {same[index]:.0%} of the trials equal for "
            f"{settings.recorded[early]} updates"
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
