"""DistributedDataParallel: the estimate over all ranks is the one of a single process."""

import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct

pytest.importorskip("torch.distributed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("needs gloo", allow_module_level=True)

PROGRAM = """
import os
import sys
import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
import chainrob
import chainrob.torch as ct

CASES = [
    (chainrob.Mean(), "layer"),
    (chainrob.GeometricMedian(), "layer"),
    (chainrob.GeometricMedian(), "model"),
    (chainrob.Krum(2), "unit"),
    (chainrob.ClipNorm(0.05) >> chainrob.Mean(), "model"),
    (chainrob.SoftTruncation(), "layer"),
    (chainrob.TrimmedMean(0.2), "model"),
    (chainrob.CoordinateMedian(), "parameter"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 4)
        self.conv = nn.Conv1d(4, 3, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(9, 2)
        self.double()

    def forward(self, ids):
        h = self.norm(self.embed(ids)).transpose(1, 2)
        return self.head(self.conv(h).tanh().flatten(1))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 9, (12, 4), generator=generator), torch.randint(
        0, 2, (12,), generator=generator)


def gradients(net):
    return [p.grad.clone() for p in net.parameters()]


def worker(rank, size, store):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method="file://" + store, rank=rank, world_size=size)
    ids, t = batch()
    edges = [0, 4, 12] if size == 2 else [0, 2, 5, 8, 12]
    mine = slice(edges[rank], edges[rank + 1])
    loss = nn.functional.cross_entropy
    cases = CASES if size == 2 else CASES[1:6:2]
    for number, (robustifier, scope) in enumerate(cases):
        single = ct.robustify(Net(), robustifier, scope=scope)
        loss(single(ids), t).backward()
        net = ct.robustify(Net(), robustifier, scope=scope)
        wrapped = DDP(net, find_unused_parameters=number % 2 == 1)
        for _ in range(2):
            wrapped.zero_grad()
            loss(wrapped(ids[mine]), t[mine]).backward()
        for (name, p), q in zip(net.named_parameters(), gradients(single), strict=True):
            worst = float((p.grad - q).abs().max())
            assert worst <= 1e-9, (robustifier, scope, name, worst)
    # Accumulation without a message of the wrapper's own.
    wrapped.zero_grad()
    with wrapped.no_sync():
        loss(wrapped(ids[mine]), t[mine]).backward()
    loss(wrapped(ids[mine]), t[mine]).backward()
    for p, q in zip(net.parameters(), gradients(single), strict=True):
        assert float((p.grad - 2 * q).abs().max()) <= 1e-9
    # An overflow on one rank is one on all of them.
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    ct.use_grad_scaler(net, scaler)
    wrapped.zero_grad()
    factor = float("inf") if rank == 0 else 1.0
    (loss(wrapped(ids[mine]), t[mine]) * factor).backward()
    assert not torch.isfinite(net.head.weight.grad).all()
    ct.use_grad_scaler(net, None)
    # What cannot be right is refused, on all ranks.
    for net, words in (
        (ct.robustify(Net(), chainrob.Mean(), loss_reduction="sum"), "too small by their number"),
        (ct.robustify(Net(), chainrob.Mean()), "not available inside"),
    ):
        wrapped = DDP(net)
        try:
            with ct.accumulate_samples(net):
                wrapped(ids[mine]).mean().backward()
        except RuntimeError as error:
            assert words in str(error), error
        else:
            raise AssertionError(words)
    from torch.distributed.algorithms.join import Join
    net = DDP(ct.robustify(Net(), chainrob.Mean()))
    try:
        with Join([net]):
            net(ids[mine])
    except RuntimeError as error:
        assert "in Join" in str(error), error
    else:
        raise AssertionError("Join")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if rank == 0:
        print("equal on", size, flush=True)
    # Threads of gloo that still run when Python takes itself apart can abort the process.
    os._exit(0)


if __name__ == "__main__":
    for size in (2, 4):  # forked, so that PyTorch is imported once
        torch.multiprocessing.start_processes(
            worker, (size, sys.argv[1] + str(size)), size, start_method="fork")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_estimates_are_those_of_a_single_process(run_python, tmp_path):
    printed = run_python(PROGRAM, str(tmp_path / "store"), timeout=280)
    assert "equal on 2\nequal on 4\n" in printed


def test_fully_sharded_modules_are_refused(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        ct.robustify(net, chainrob.Mean())
        fully_shard(net, mesh=mesh)
        with pytest.raises(RuntimeError, match="linear '0': FSDP splits"):
            net(torch.randn(3, 4))
        with pytest.raises(RuntimeError, match="FSDP splits the parameters of"):
            ct.robustify(net, chainrob.Mean())
    finally:
        torch.distributed.destroy_process_group()


def test_replicas_of_data_parallel_are_refused():
    net = ct.robustify(nn.Linear(4, 2), chainrob.Mean())
    replica = net._replicate_for_data_parallel()
    replica.weight, replica.bias = net.weight, net.bias
    with pytest.raises(RuntimeError, match="DataParallel runs copies"):
        replica(torch.randn(3, 4))
