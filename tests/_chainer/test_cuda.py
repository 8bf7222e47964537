"""The mends of what runs with CuPy or under MPI, as far as a machine without them can tell.

ChainerMN's modules are imported with a stand-in for mpi4py, and kernels are looked at as text.
Where CuPy and NVRTC are installed the kernels are compiled as well, which takes no GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import chainer
from chainer.training.updaters import multiprocess_parallel_updater

FAKE_MPI = """
import sys
from unittest import mock
sys.modules.update({name: mock.MagicMock() for name in ("mpi4py", "mpi4py.MPI")})
import chainrob, chainer, numpy
"""


def memcpy_kernels(monkeypatch) -> dict[str, types.SimpleNamespace]:
    kernels = {}

    def elementwise(in_params, out_params, operation, name, **options):
        kernels[name] = types.SimpleNamespace(operation=operation, **options)

    monkeypatch.setattr(chainer.backends.cuda, "elementwise", elementwise)
    multiprocess_parallel_updater._memcpy_gather()
    multiprocess_parallel_updater._memcpy_scatter()
    return kernels


def test_kernels_of_the_parallel_updater_declare_float16(monkeypatch):
    kernels = memcpy_kernels(monkeypatch)
    assert sorted(kernels) == ["_memcpy_gather", "_memcpy_scatter"]
    for kernel in kernels.values():
        assert "float16 *" in kernel.operation
        assert kernel.preamble == "#include <cupy/float16.cuh>"
        assert "num_src = info[0]" in kernel.loop_prep


PACK_KERNELS = (
    FAKE_MPI
    + """
from chainermn.communicators import _memory_utility
kernels = {}
raw, chainer.cuda.raw = chainer.cuda.raw, lambda source, name: kernels.setdefault(name, source)
_memory_utility._cupy_batched_pack_params()
_memory_utility._cupy_batched_unpack_params()
"""
)

DECLARE_HALF = """
chainer.cuda.raw = raw
assert sorted(kernels) == ["cupy_batched_pack_params", "cupy_batched_unpack_params"]
for name, source in kernels.items():
    assert source.index("#include <cuda_fp16.h>") < source.index("half"), source
    assert name in source
"""

UNPACKING_COPIES_ONLY_WHERE_THE_TYPE_DIFFERS = """
class Buffer:
    given = []
    def to_device(self, array, size, offset, stream):
        assert size == 4 * array.size and offset == sum(a.nbytes for a in self.given)
        array[...] = len(self.given) + 1
        self.given.append(array)

params = [chainer.Parameter(numpy.zeros(n, dtype)) for n, dtype in ((2, "f2"), (3, "f4"))]
for param in params:
    param.grad = numpy.zeros_like(param.array)
kept = [param.grad for param in params]
_memory_utility.unpack_params(params, "grad", Buffer(), numpy.float32, False)
assert [array.dtype for array in Buffer.given] == [numpy.float32] * 2
assert Buffer.given[1] is kept[1]
for i, param in enumerate(params):
    assert param.grad is kept[i] and (param.grad == i + 1).all(), param.grad
"""

ITERATOR_READS_THE_SIZE_OF_THE_DATASET = """
from chainermn.iterators import multi_node_iterator
sent = iter([numpy.array([7.0], "f4"), numpy.array([-1.0], "f4")])
class Communicator:
    def bcast(self, value, root):
        return next(sent)
iterator = multi_node_iterator._MultiNodeIteratorSlave(Communicator(), 0)
assert iterator.dataset_size == 7 and type(iterator.dataset_size) is int
"""


def test_chainermn_with_a_stand_in_for_mpi(run_python):
    run_python(
        PACK_KERNELS
        + DECLARE_HALF
        + UNPACKING_COPIES_ONLY_WHERE_THE_TYPE_DIFFERS
        + ITERATOR_READS_THE_SIZE_OF_THE_DATASET
    )


def nvrtc_is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("cupy", "nvidia.cuda_nvrtc"))


COMPILE = (
    "import warnings; warnings.simplefilter('ignore')  # CuPy's of its missing parts\n"
    + PACK_KERNELS
    + """
from cupy._core import core
from cupy.cuda import compiler
from chainer.training.updaters import multiprocess_parallel_updater as updater

# Without a GPU to ask, the architecture is given.
compiler._get_arch_for_options_for_nvrtc = lambda arch=None: ("-arch=sm_90", "cubin")
options = core.assemble_cupy_compiler_options(())

def elementwise(in_params, out_params, operation, name, preamble="", loop_prep="", **_):
    array = "dst" if "raw float32 dst" in out_params else "array"
    kernels[name] = f'''#include <cupy/carray.cuh>
{preamble}
extern "C" __global__ void {name}(
        unsigned long long *ptrs, signed char *dtypes, int *info, float *{array}, int i) {{
    {loop_prep}
    {operation}
}}'''

chainer.backends.cuda.elementwise = elementwise
updater._memcpy_gather()
updater._memcpy_scatter()
assert len(kernels) == 4
for name, source in kernels.items():
    compiler.compile_using_nvrtc(source, options, arch="90")
    for include in ("#include <cuda_fp16.h>", "#include <cupy/float16.cuh>"):
        if include in source:
            try:
                compiler.compile_using_nvrtc(source.replace(include, ""), options, arch="90")
            except compiler.CompileException:
                break
    else:
        raise AssertionError(f"{name} compiles without its mend")
"""
)


@pytest.mark.skipif(not importlib.util.find_spec("cupy"), reason="needs CuPy")
def test_kernels_compile(run_python):
    if not nvrtc_is_installed():
        pytest.skip("needs NVRTC as a wheel")
    run_python(COMPILE)


@pytest.mark.mpi
@pytest.mark.skipif(not importlib.util.find_spec("mpi4py"), reason="needs mpi4py")
def test_two_ranks_keep_in_step(tmp_path):
    mpiexec = Path(sys.executable).with_name("mpiexec")
    found = str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs an MPI")
    program = tmp_path / "ranks.py"
    program.write_text(
        """
import chainrob, chainer, chainermn, numpy
comm = chainermn.create_communicator("naive")
rng = numpy.random.default_rng(comm.rank)          # other parameters and other data on each rank
model = chainer.links.Linear(3, 2)
model.W.array[...] = rng.normal(size=(2, 3))
optimizer = chainermn.create_multi_node_optimizer(chainer.optimizers.SGD(0.1), comm).setup(model)
data = numpy.arange(8, dtype=numpy.float32)
iterator = chainermn.iterators.create_multi_node_iterator(
    chainer.iterators.SerialIterator(data, 4, repeat=False, shuffle=False), comm)
assert iterator.dataset_size == 8 if comm.rank else True
assert [list(batch) for batch in iterator] == [[0, 1, 2, 3], [4, 5, 6, 7]]
for _ in range(3):
    x = rng.normal(size=(5, 3)).astype(numpy.float32)
    optimizer.update(lambda: chainer.functions.mean(model(x) ** 2))
first = comm.bcast_obj(model.W.array if comm.rank == 0 else None, root=0)
assert (model.W.array == first).all()
print("in step")
"""
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [found, "-n", "2", sys.executable, str(program)],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
        | {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n").count("in step") == 2
