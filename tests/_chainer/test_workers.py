"""Worker processes start under fork, spawn and forkserver, and none hangs: real processes.

A child that unpickles something of Chainer's before chainrob is imported fails on today's NumPy,
and a pool starts another in its place, for ever. So every program has a time limit.
"""

from __future__ import annotations

import sys

import numpy
import pytest

# A dataset, a model and a function whose module knows nothing of chainrob.
USER = """
import chainer
import numpy

class Squares(chainer.dataset.DatasetMixin):
    def __len__(self):
        return 10

    def get_example(self, i):
        return numpy.full(3, i * i, numpy.float32), numpy.int32(i)

def relu(x):
    return chainer.functions.relu(numpy.asarray(x, numpy.float32)).array.tolist()

def is_mended():
    return "trunc" in chainer.functions.fix.__code__.co_names
"""

# Nothing at top level imports chainrob: the child must come to it by itself.
PROGRAM = """
import multiprocessing
import sys

def main():
    multiprocessing.set_start_method(sys.argv[1])
    import chainrob
    import chainer
    import user
    iterator = chainer.iterators.MultiprocessIterator(
        user.Squares(), 4, repeat=False, shuffle=False, n_processes=int(sys.argv[2])
    )
    for batch in iterator:
        x, i = chainer.dataset.concat_examples(batch)
        assert x.shape == (len(batch), 3) and (x == (i * i)[:, None]).all(), (x, i)
        print(*i, end=" ", flush=True)
    iterator.finalize()
    with multiprocessing.Pool(1) as pool:
        print(pool.apply(user.relu, ([-1, 2],)), pool.apply(user.is_mended))

if __name__ == "__main__":
    main()
"""
EXPECTED = "0 1 2 3 4 5 6 7 8 9 [0.0, 2.0] True\n"

METHODS = ["spawn", "forkserver"]
if sys.platform == "win32":
    METHODS.remove("forkserver")


@pytest.mark.parametrize(
    ("method", "as_command"), [("spawn", False), ("spawn", True), (METHODS[-1], True)]
)
def test_children_that_start_anew_import_chainrob_first(run_python, method, as_command):
    printed = run_python(PROGRAM, method, "1", files={"user.py": USER}, as_command=as_command)
    assert printed == EXPECTED


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_children_that_are_forked(run_python):
    # Python 3.12 warns of a fork in a process of several threads, such as BLAS libraries start.
    program = "import warnings\nwarnings.filterwarnings('ignore', 'This process')\n" + PROGRAM
    assert run_python(program, "fork", "2", files={"user.py": USER}) == EXPECTED


def test_executors_and_grandchildren(run_python):
    program = """
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

def child(queue):
    import user          # the grandchild's process object must carry chainrob too
    grandchild = multiprocessing.Process(target=grand, args=(queue, user.Squares()))
    grandchild.start()
    grandchild.join()

def grand(queue, dataset):
    queue.put(len(dataset))

def main():
    multiprocessing.set_start_method("spawn")
    import chainrob
    import user
    with ProcessPoolExecutor(1) as executor:
        print(executor.submit(user.relu, [-1, 2]).result())
    queue = multiprocessing.SimpleQueue()
    process = multiprocessing.Process(target=child, args=(queue,))
    process.start()
    print(queue.get())
    process.join()

if __name__ == "__main__":
    main()
"""
    assert run_python(program, files={"user.py": USER}) == "[0.0, 2.0]\n10\n"


def test_workers_that_cannot_start_are_told_rather_than_waited_for(run_python):
    """The class of the dataset is in a main module that the workers do not have."""
    program = """
import multiprocessing
import sys
import chainrob
import chainer

class Here(chainer.dataset.DatasetMixin):
    def __len__(self):
        return 10
    def get_example(self, i):
        return i

multiprocessing.set_start_method("spawn")
iterator = chainer.iterators.MultiprocessIterator(Here(), 4, n_processes=2)
try:
    next(iterator)
finally:
    iterator.finalize()
"""
    stderr = run_python(program, as_command=True, status=1)
    assert "RuntimeError: the workers of MultiprocessIterator cannot start" in stderr
    assert "start method 'spawn'" in stderr
    assert "Can't get attribute 'Here'" in stderr


def test_multithread_iterator():
    import chainer

    data = numpy.arange(6, dtype=numpy.float32)
    iterator = chainer.iterators.MultithreadIterator(
        data, 2, repeat=False, shuffle=False, n_threads=2
    )
    assert [list(batch) for batch in iterator] == [[0, 1], [2, 3], [4, 5]]
    iterator.finalize()
