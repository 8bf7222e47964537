from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest

import chainrob
import chainer
from chainer.training import extensions
from chainrob._chainer.npz import UnsafeFileError
from chainrob.training import SeededShuffle, Snapshot, SnapshotWarning, resume

RNG = np.random.default_rng(0)
DATA = chainer.datasets.TupleDataset(
    RNG.normal(size=(23, 4)).astype(np.float32), RNG.integers(0, 3, 23).astype(np.int32)
)


class Net(chainer.Chain):
    def __init__(self):
        super().__init__()
        with self.init_scope():
            robust = chainrob.TrimmedMean(fraction=0.2)
            self.l1 = chainrob.links.Linear(None, 8, robustifier=robust)
            self.l2 = chainrob.links.Linear(8, 3, robustifier=chainrob.GeometricMedian())

    def forward(self, x):
        return self.l2(chainer.functions.dropout(chainer.functions.relu(self.l1(x)), 0.3))


class Noise:
    """A dataset that draws from a generator of its own and from Python's."""

    def __init__(self):
        self.generator = np.random.default_rng(7)

    def __call__(self, example):
        x, t = example
        shift = self.generator.normal() + random.random()
        return (x + 0.1 * shift).astype(np.float32), t


def make_trainer(out, stop, *, iterator="serial", snapshot=None, shift=True, seed=0):
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    noise = Noise()
    data = chainer.datasets.TransformDataset(DATA, noise)
    iterators = chainer.iterators
    if iterator == "threads":
        # Threads read ahead, so what they draw is no longer in order; they read the plain data.
        main = iterators.MultithreadIterator(DATA, 5, n_threads=2, order_sampler=SeededShuffle(1))
    elif iterator == "sampler":
        sampler = iterators.ShuffleOrderSampler(np.random.RandomState(5))
        main = iterators.SerialIterator(data, 5, order_sampler=sampler)
    elif iterator == "ordered":
        main = iterators.SerialIterator(data, 5, shuffle=False)
    else:
        main = iterators.SerialIterator(data, 5)
    model = chainer.links.Classifier(Net())
    optimizer = chainer.optimizers.Adam(0.01).setup(model)
    trainer = chainer.training.Trainer(
        chainer.training.StandardUpdater(main, optimizer), (stop, "iteration"), out=str(out)
    )
    test = iterators.SerialIterator(DATA, 23, repeat=False, shuffle=False)
    if shift:
        # Changes a hyperparameter that is in no snapshot of Chainer's optimizers.
        trainer.extend(extensions.ExponentialShift("alpha", 0.9), trigger=(3, "iteration"))
    trainer.extend(extensions.Evaluator(test, model), trigger=(4, "iteration"))
    trainer.extend(extensions.LogReport(trigger=(4, "iteration")))
    trainer.extend(snapshot or Snapshot(generators=[noise.generator]), trigger=(7, "iteration"))
    return trainer


def weights(trainer):
    optimizer = trainer.updater.get_optimizer("main")
    state = chainer.serializers.DictionarySerializer()
    state["model"].save(optimizer.target)
    state["optimizer"].save(optimizer)
    return {name: np.asarray(value).tolist() for name, value in state.target.items()}


def log(trainer):
    entries = trainer.get_extension("LogReport").log
    return [{k: v for k, v in entry.items() if k != "elapsed_time"} for entry in entries]


@pytest.mark.parametrize("iterator", ["serial", "sampler", "threads", "ordered"])
@pytest.mark.parametrize("stop", [7, 17, 29])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, iterator, stop):
    whole = make_trainer(tmp_path / "whole", 40, iterator=iterator)
    whole.run()
    make_trainer(tmp_path / "cut", stop, iterator=iterator).run()
    second = make_trainer(tmp_path / "cut", 40, iterator=iterator, seed=99)
    assert resume(second).name == f"snapshot_iter_{stop - stop % 7}"
    second.run()
    assert weights(second) == weights(whole)
    assert log(second) == log(whole)


def test_the_file_also_loads_as_chainers_own_snapshot(tmp_path):
    make_trainer(tmp_path, 14).run()
    second = make_trainer(tmp_path, 20, seed=3)
    chainer.serializers.load_npz(str(tmp_path / "snapshot_iter_14"), second)
    second.run()
    whole = make_trainer(tmp_path / "whole", 20)
    whole.run()
    assert weights(second) == weights(whole)


def test_without_a_snapshot_the_run_starts_anew(tmp_path):
    trainer = make_trainer(tmp_path / "none", 5)
    assert resume(trainer) is None
    trainer.run()
    assert trainer.updater.iteration == 5


def test_only_the_newest_are_kept(tmp_path):
    make_trainer(tmp_path, 40, snapshot=Snapshot(keep=2)).run()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "snapshot_iter_28", "snapshot_iter_35"]
    make_trainer(tmp_path / "all", 40, snapshot=Snapshot(keep=None)).run()
    assert len(Snapshot().files(tmp_path / "all")) == 5


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_file_is_passed_over(tmp_path, damage):
    make_trainer(tmp_path, 21, snapshot=Snapshot()).run()
    newest = tmp_path / "snapshot_iter_21"
    content = bytearray(newest.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-200], "bit": content, "empty": b""}[damage])
    os.utime(newest)
    trainer = make_trainer(tmp_path, 30, snapshot=Snapshot())
    with pytest.warns(SnapshotWarning, match="snapshot_iter_21 cannot be read"):
        assert resume(trainer).name == "snapshot_iter_14"
    with pytest.raises(Exception, match=r"checksum|zip"):
        resume(make_trainer(tmp_path, 30, snapshot=Snapshot()), newest)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = tmp_path / ".snapshot_iter_7.999999999.tmp"
    living = tmp_path / f".snapshot_iter_7.{os.getpid()}.tmp"
    dead.touch()
    living.touch()
    make_trainer(tmp_path, 1).run()
    assert not dead.exists()
    assert living.exists()


def test_another_setting_of_the_trainer_is_an_error_that_says_so(tmp_path):
    make_trainer(tmp_path, 7).run()
    trainer = make_trainer(tmp_path, 9)
    trainer.extend(extensions.ExponentialShift("eps", 0.5))
    with pytest.raises(ValueError, match="set up differently"):
        resume(trainer)
    fewer = make_trainer(tmp_path, 9, snapshot=Snapshot())
    resume(fewer)
    with pytest.raises(ValueError, match=r"of 1 generators, but this run .* 0 generators"):
        fewer.run(show_loop_exception_msg=False)


def test_a_trainer_without_the_extension_is_an_error():
    optimizer = chainer.optimizers.SGD().setup(chainer.links.Linear(1, 1))
    updater = chainer.training.StandardUpdater(chainer.iterators.SerialIterator([0], 1), optimizer)
    with pytest.raises(ValueError, match=r"no chainrob\.training\.Snapshot"):
        resume(chainer.training.Trainer(updater))


@pytest.mark.parametrize("kind", ["MultithreadIterator", "MultiprocessIterator"])
def test_iterators_that_shuffle_ahead_are_refused(tmp_path, kind):
    iterator = getattr(chainer.iterators, kind)(DATA, 5)
    trainer = make_trainer(tmp_path, 2)
    trainer.updater._iterators["main"] = iterator
    try:
        with pytest.raises(ValueError, match=r"shuffles ahead of time.*SeededShuffle\(seed\)"):
            trainer.run(show_loop_exception_msg=False)
    finally:
        iterator.finalize()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep must be at least 1"),
        ({"prefix": ""}, "prefix must be"),
        ({"prefix": "a/b"}, "prefix must be"),
        ({"prefix": ".hidden"}, "prefix must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Snapshot(**arguments)


KILLED = """
import json, os, random, shutil, signal, sys, time
import numpy as np
import chainrob
import chainer
from chainer.training import extensions

rng = np.random.default_rng(0)
data = chainer.datasets.TupleDataset(
    rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50).astype(np.int32))


class Net(chainer.Chain):
    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.l1 = chainrob.links.Linear(6, 300, robustifier=chainrob.TrimmedMean(fraction=0.2))
            self.l2 = chainrob.links.Linear(300, 3, robustifier=chainrob.GeometricMedian())

    def forward(self, x):
        return self.l2(chainer.functions.dropout(chainer.functions.relu(self.l1(x)), 0.3))


def train(out):
    np.random.seed(0)
    model = chainer.links.Classifier(Net())
    updater = chainer.training.StandardUpdater(
        chainer.iterators.SerialIterator(data, 8), chainer.optimizers.Adam().setup(model))
    trainer = chainer.training.Trainer(updater, (STOP, 'iteration'), out=out)
    trainer.extend(extensions.LogReport(trigger=(10, 'iteration')))
    trainer.extend(chainrob.training.Snapshot(), trigger=(2, 'iteration'))
    chainrob.training.resume(trainer)
    trainer.run()
    chainer.serializers.save_npz(out + '/final.npz', model)


def start(out):
    child = os.fork()
    if child == 0:
        train(out)
        os._exit(0)
    return child


def final(out):
    with np.load(out + '/final.npz') as content:
        return {name: content[name] for name in content.files}


STOP, KILLS = int(sys.argv[1]), int(sys.argv[2])
STOP, stop = 2, STOP
train('warm')  # the children inherit what is loaded and compiled here, and train at once
STOP = stop
begin = time.monotonic()
assert os.waitpid(start('whole'), 0)[1] == 0
duration = time.monotonic() - begin  # kills must reach into the training on slow machines too
whole = final('whole')
delays = random.Random(1)
kills = finished = torn = 0
while kills < KILLS or not finished:
    child = start('killed')
    if kills < KILLS:
        time.sleep(delays.uniform(0.0, 0.3 * duration))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        kills += 1
        left = os.listdir('killed') if os.path.isdir('killed') else []
        torn += any(name.endswith('.tmp') for name in left)
        continue
    assert status == 0, status
    found = final('killed')
    assert found.keys() == whole.keys()
    assert all((found[name] == whole[name]).all() for name in whole), 'the weights differ'
    finished += 1
    assert not [name for name in os.listdir('killed') if name.endswith('.tmp')]
    shutil.rmtree('killed')
print(json.dumps([kills, torn, finished]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(run_python):
    kills, torn, finished = json.loads(run_python(KILLED, "150", "30", timeout=110))
    assert kills == 30
    assert finished >= 1
    # Some of the kills must have hit a snapshot that was being written.
    assert torn >= 1


def test_a_snapshot_with_pickled_objects_is_refused_and_no_older_one_is_taken(tmp_path):
    trainer = make_trainer(tmp_path, 14)
    trainer.run()
    newest = tmp_path / "snapshot_iter_14"
    with np.load(newest, allow_pickle=True) as content:
        arrays = dict(content)
    with open(newest, "wb") as stream:
        np.savez(stream, **arrays, extra=np.array({"a": 1}, dtype=object))
    fresh = make_trainer(tmp_path, 21)
    with pytest.raises(UnsafeFileError, match="'extra' holds pickled objects"):
        resume(fresh)
    assert fresh.updater.iteration == 0
