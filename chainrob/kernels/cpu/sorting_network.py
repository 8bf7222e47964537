"""Sorting networks: fixed lists of compare-exchanges, so that all lanes of a vector sort at once.

Batcher's odd-even merge sort on N wires. Memory, not arithmetic, is what it waits for, so as much
of it as possible runs within registers: blocks of 16 wires are sorted there, and the first four
layers of every merge fall into independent groups of 16 wires. The remaining comparators run one by
one, and are left out where nobody asks in which order their two wires leave them.

References:
    K. E. Batcher, Sorting networks and their applications, AFIPS 1968. D. E. Knuth, The art of
    computer programming 3, section 5.3.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 16
"""Wires that fit into registers."""

MAX_ROWS = 4096
"""Largest N that is sorted by a network; beyond it selection in plain array code costs less."""

KEPT, DROPPED, WANTED = 1, 0, -1


class Program(NamedTuple):
    """What remains to be done once the blocks are sorted, one stage a merge."""

    groups: np.ndarray
    """Cache lines of all groups' wires, 16 numbers a group, int32; see ``BLOCK_MERGE``."""
    pairs: np.ndarray
    """Comparators, two cache lines each, int32; ``columns.line`` says which line holds a wire."""
    stages: np.ndarray
    """(stages, 2): how many numbers of ``groups`` and of ``pairs`` are used up after each stage."""


def merge_layer(n: int, run: int, step: int) -> Iterator[tuple[int, int]]:
    """Comparators at distance ``step`` of the merge of sorted runs, a power of two long."""
    for start in range(step % run, n - step, 2 * step):
        for i in range(start, min(start + step, n - step)):
            if i // (2 * run) == (i + step) // (2 * run):
                yield i, i + step


def batcher(n: int, run: int = 1) -> list[tuple[int, int]]:
    """Comparators (i, j), i < j, that sort n wires, runs of ``run`` wires being sorted already."""
    comparators: list[tuple[int, int]] = []
    while run < n:
        step = run
        while step:
            comparators += merge_layer(n, run, step)
            step //= 2
        run *= 2
    return comparators


BLOCK_SORT = batcher(BLOCK)
BLOCK_MERGE = batcher(BLOCK, BLOCK // 2)


@lru_cache(maxsize=64)
def selection(n: int, low: int, high: int, *alone: int) -> Program:
    """The merges that carry the order statistics asked for to their wires.

    Args:
        n: number of wires.
        low, high: ranks of which only the sum is wanted: which of them lands on which of the wires
            low to high - 1 is left open.
        alone: ranks that are wanted by themselves.
    """
    # Whole blocks; one more row, of plus infinity, stands for all the wires beyond them.
    beyond = -(-n // BLOCK) * BLOCK
    labels = [KEPT if low <= wire < high else DROPPED for wire in range(beyond + 1)]
    for wire in alone:
        labels[wire] = WANTED

    def prune(comparators: list[tuple[int, int]]) -> list[tuple[int, int]]:
        needed = []
        for i, j in reversed(comparators):
            if labels[i] != labels[j] or labels[i] == WANTED:
                labels[i] = labels[j] = WANTED
                needed.append((i, j))
        return needed[::-1]

    runs = []
    run = BLOCK
    while run < n:
        runs.append(run)
        run *= 2
    stages = []
    for run in reversed(runs):
        layers, step = [], run // BLOCK
        while step:
            layers += list(merge_layer(beyond, run, step))
            step //= 2
        pairs = prune(layers)
        groups = []
        for wires in reversed(list(_groups(beyond, run))):
            # The row beyond stands for many wires and never changes.
            inside = [(wires[i], wires[j]) for i, j in BLOCK_MERGE if wires[j] < beyond]
            if prune(inside):
                groups.append(wires)
        stages.append((groups[::-1], pairs))
    stages.reverse()
    ends = np.cumsum([[len(groups) * BLOCK, len(pairs) * 2] for groups, pairs in stages], axis=0)
    return Program(
        _lines([wires for groups, _ in stages for wires in groups]),
        _lines([pair for _, pairs in stages for pair in pairs]),
        np.ascontiguousarray(ends.reshape(-1, 2), dtype=np.int64),
    )


def _groups(beyond: int, run: int) -> Iterator[list[int]]:
    """The independent groups of the first four layers of the merges of runs."""
    stride = 2 * run // BLOCK
    for start in range(0, beyond, 2 * run):
        if start + run >= beyond:
            continue  # a run without a partner
        for first in range(start, start + stride):
            yield [min(first + k * stride, beyond) for k in range(BLOCK)]


def _lines(wires: list[list[int]] | list[tuple[int, int]]) -> np.ndarray:
    numbers = np.array(wires, dtype=np.int32).reshape(-1)
    return numbers + numbers // BLOCK
