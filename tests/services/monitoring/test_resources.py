"""The memory of a run is that of all its processes, and a shared page counts once."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from services.monitoring.resources import SAMPLE_SECONDS, PeakMemory

BLOCK = 200 * 2**20
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def measured():
    """Calls a function in a process of its own, whose memory other tests' children have no part in."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
        yield lambda function: process.submit(function).result(60)


def test_the_memory_of_a_child_counts(measured):
    alone, together = measured(with_a_child_that_holds_a_block)
    assert together > alone + 0.9 * BLOCK


def test_memory_shared_by_two_processes_counts_once(measured):
    alone, together = measured(with_a_child_that_shares_a_block)
    assert alone > BLOCK
    assert together < alone + 0.5 * BLOCK


def with_a_child_that_holds_a_block():
    return peaks(SPAWN, hold)


def with_a_child_that_shares_a_block():
    block = np.ones(BLOCK, np.uint8)
    found = peaks(multiprocessing.get_context("fork"), rest)
    assert block.all()
    return found


def peaks(context, child):
    """Peak bytes before there is a child, and with it."""
    with PeakMemory() as alone:
        time.sleep(0.1)
    with PeakMemory() as together:
        process = context.Process(target=child)
        process.start()
        process.join(30)
    return alone.peak_bytes, together.peak_bytes


def hold():
    block = np.ones(BLOCK, np.uint8)
    rest()
    assert block.all()


def rest():
    time.sleep(2.5 * SAMPLE_SECONDS)
