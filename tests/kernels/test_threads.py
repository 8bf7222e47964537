"""The thread pool: limits, errors, forks, callers at once, and results that do not depend on it."""

import os
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import chainrob
from chainrob.kernels import threads
from chainrob.sample_gradients import OuterProducts


@pytest.fixture
def two(monkeypatch):
    """As many threads as asked for, whatever the machine and its settings."""
    monkeypatch.setattr(threads, "count", lambda: 2)


def collect(n_items, grain):
    seen = np.zeros(n_items, int)

    def work(start, stop):
        seen[start:stop] += 1

    threads.share(work, n_items, grain)
    return seen


@pytest.mark.parametrize(("n_items", "grain"), [(0, 4), (1, 4), (4, 4), (5, 4), (1000, 7)])
def test_every_item_once(two, n_items, grain):
    np.testing.assert_array_equal(collect(n_items, grain), 1)


def test_helpers_take_part(two):
    names, both = set(), threading.Barrier(2, timeout=20)

    def work(start, stop):
        names.add(threading.current_thread().name)
        both.wait()

    threads.share(work, 2, 1)
    assert len(names) == 2


def test_error_of_a_helper_is_raised(two):
    def work(start, stop):
        raise ZeroDivisionError(f"{start}")

    with pytest.raises(ZeroDivisionError):
        threads.share(work, 100, 1)
    np.testing.assert_array_equal(collect(50, 1), 1)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_environment_limits(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert threads.count() == 1
    monkeypatch.setenv(name, "1,4")
    assert threads.count() == 1
    monkeypatch.setenv(name, "nonsense")
    assert threads.count() >= 1


def test_limits_of_the_matrix_products_and_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    with threadpool_limits(1, user_api="blas"):
        assert threads.count() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert threads.count() == 1


def problem(seed=0, n=40):
    rng = np.random.default_rng(seed)
    x, gy = rng.normal(size=(n, 1, 200)), rng.normal(size=(n, 1, 60))
    return OuterProducts(x.astype(np.float32), gy.astype(np.float32))


ROBUSTIFIERS = [
    chainrob.CoordinateMedian(),
    chainrob.TrimmedMean(fraction=0.1),
    chainrob.SoftTruncation(),
    chainrob.SoftTruncation(pilot="median"),
    chainrob.GeometricMedian(),
]


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch, robustifier):
    results = []
    for number in (1, 2, 5):
        monkeypatch.setattr(threads, "count", lambda number=number: number)
        results.append(robustifier(problem()))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_callers_at_once(two):
    problems = [problem(seed) for seed in range(4)]
    robustifier = chainrob.CoordinateMedian()
    expected = [robustifier(one) for one in problems]
    results = [[] for _ in problems]

    def call(k):
        for _ in range(20):
            results[k].append(robustifier(problems[k]))

    callers = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    for k, several in enumerate(results):
        assert len(several) == 20
        for one in several:
            np.testing.assert_array_equal(one, expected[k])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork(two):
    robustifier, one = chainrob.CoordinateMedian(), problem()
    expected = robustifier(one)
    for _ in range(3):
        read, write = os.pipe()
        with warnings.catch_warnings():
            # Other libraries' threads make Python 3.12 warn; the pool's own have ended by then.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                same = np.array_equal(robustifier(one), expected)
                os.write(write, b"1" if same else b"0")
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        assert os.read(read, 1) == b"1"
        os.close(read)
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(robustifier(one), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_no_thread_of_the_pool_is_left_at_a_fork(two):
    collect(100, 1)
    threads._before_fork()
    try:
        assert not [t for t in threading.enumerate() if t.name.startswith("chainrob")]
    finally:
        threads._after_fork()
    np.testing.assert_array_equal(collect(100, 1), 1)


def test_works_while_the_interpreter_ends(run_python):
    printed = run_python(
        "import atexit, numpy as np, chainrob\n"
        "from chainrob.kernels import threads\n"
        "threads.count = lambda: 2\n"
        "rows = np.random.default_rng(0).normal(size=(64, 40000)).astype(np.float32)\n"
        "median = chainrob.CoordinateMedian()\n"
        "first = median(rows)\n"
        "atexit.register(lambda: print(np.array_equal(median(rows), first)))\n"
    )
    assert printed.strip() == "True"
