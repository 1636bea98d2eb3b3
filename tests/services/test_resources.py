"""The memory of a run is that of all its processes, and a shared page counts once."""

import multiprocessing
import time

import numpy as np
import pytest

from services.resources import SAMPLE_SECONDS, PeakMemory

BLOCK = 200 * 2**20


def hold(ready):
    block = np.ones(BLOCK, np.uint8)
    ready.set()
    time.sleep(2.5 * SAMPLE_SECONDS)
    del block


def test_the_memory_of_a_child_counts():
    context = multiprocessing.get_context("spawn")
    with PeakMemory() as before:
        time.sleep(0.1)
    ready = context.Event()
    with PeakMemory() as during:
        child = context.Process(target=hold, args=(ready,))
        child.start()
        ready.wait(30)
        child.join(30)
    assert during.peak_bytes > before.peak_bytes + 0.9 * BLOCK


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child only sleeps
def test_memory_shared_by_two_processes_counts_once():
    block = np.ones(BLOCK, np.uint8)
    with PeakMemory() as alone:
        time.sleep(0.1)
    context = multiprocessing.get_context("fork")
    with PeakMemory() as together:
        child = context.Process(target=time.sleep, args=(2.5 * SAMPLE_SECONDS,))
        child.start()
        child.join(30)
    assert together.peak_bytes < alone.peak_bytes + 0.5 * BLOCK
    assert block.all()
