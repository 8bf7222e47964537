"""Sorting networks, by the zero-one principle and on the wires that are asked for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrob.kernels.cpu.sorting_network import BLOCK, BLOCK_MERGE, BLOCK_SORT, batcher, selection


def run(comparators, rows):
    for i, j in comparators:
        low, high = np.minimum(rows[i], rows[j]), np.maximum(rows[i], rows[j])
        rows[i], rows[j] = low, high
    return rows


def run_program(program, n, rows):
    """What the kernel does: rows in cache lines, one left out after every block."""
    full = -(-n // BLOCK) * BLOCK
    lines = np.full((full + 1 + (full + 1) // BLOCK + 1, *rows.shape[1:]), np.inf)
    line = np.arange(full + 1) + np.arange(full + 1) // BLOCK
    lines[line[:n]] = rows
    for start in range(0, full, BLOCK):
        lines[line[start : start + BLOCK]] = np.sort(lines[line[start : start + BLOCK]], axis=0)
    group, pair = 0, 0
    for groups_end, pairs_end in program.stages:
        for first in range(group, groups_end, BLOCK):
            wires = program.groups[first : first + BLOCK]
            merged = run(BLOCK_MERGE, lines[wires].copy())
            lines[wires] = merged
        for first in range(pair, pairs_end, 2):
            run([program.pairs[first : first + 2]], lines)
        group, pair = groups_end, pairs_end
    return lines[line[:n]]


@pytest.mark.parametrize("n", range(1, 13))
def test_sorts_all_zeros_and_ones(n):
    inputs = np.array(list(itertools.product([0, 1], repeat=n))).T
    result = run(batcher(n), inputs.copy())
    np.testing.assert_array_equal(result, np.sort(inputs, axis=0))


def test_blocks():
    inputs = np.array(list(itertools.product([0, 1], repeat=BLOCK)), dtype=np.int8).T
    np.testing.assert_array_equal(run(BLOCK_SORT, inputs.copy()), np.sort(inputs, axis=0))
    half = BLOCK // 2
    sorted_halves = [
        [0] * (half - i) + [1] * i + [0] * (half - j) + [1] * j
        for i in range(half + 1)
        for j in range(half + 1)
    ]
    inputs = np.array(sorted_halves).T
    np.testing.assert_array_equal(run(BLOCK_MERGE, inputs.copy()), np.sort(inputs, axis=0))


@given(n=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=40, deadline=None)
def test_selection(n, seed, data):
    low = data.draw(st.integers(0, n - 1))
    high = data.draw(st.integers(low + 1, n))
    alone = data.draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True))
    rows = np.random.default_rng(seed).integers(0, 2 * n, size=(n, 7)).astype(float)
    ordered = np.sort(rows, axis=0)
    result = run_program(selection(n, low, high, *alone), n, rows)
    for rank in alone:
        np.testing.assert_array_equal(result[rank], ordered[rank])
    assert np.all(result[low:high].sum(axis=0) == ordered[low:high].sum(axis=0))


def test_leaves_out_what_nobody_asks_for():
    everything = selection(256, 0, 0, *range(256))
    median = selection(256, 127, 129)
    assert len(median.pairs) < 0.7 * len(everything.pairs)
    assert len(selection(256, 0, 256).pairs) == 0
