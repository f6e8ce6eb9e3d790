"""Batches on their way from a loader process: the same on arrival, and an answer where one cannot be handed over."""

import os
import pickle

import pytest
import torch
from limits import no_more_open_files

from pipeline import handover
from pipeline.batch_bytes import ByteBatch

BATCHES = [
    ByteBatch(
        torch.arange(2 * 5 * 7 * 3).to(torch.uint8).reshape(2, 5, 7, 3),
        torch.tensor([3, 4]),
        torch.tensor([[0, 1, 1, 2, 2]]),
        torch.linspace(0, 1, 12),
    ),
    ByteBatch(torch.ones(1, 1, 1, 3, dtype=torch.uint8), torch.tensor([0]), torch.zeros(0, 5).long(), torch.zeros(0)),
]


@pytest.fixture
def channel():
    opened = handover.open_channel()
    if opened is None:
        pytest.skip("NOT CHECKED: this system has no files in memory")
    yield opened
    opened.close()


def assert_equal(got, want):
    assert type(got) is ByteBatch
    for one, other in zip(got, want):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_batches_arrive_as_they_were_sent_in_any_order(channel):
    before = len(os.listdir("/proc/self/fd"))
    messages = [pickle.dumps(channel.send(batch)) for batch in BATCHES]
    assert max(map(len, messages)) < 1000  # the batch itself is elsewhere
    arrived = [pickle.loads(message) for message in reversed(messages)]
    for got, want in zip(reversed(arrived), BATCHES):
        assert_equal(got, want)
        got.bytes.add_(1)  # it is this process's own
    del arrived, got
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_stays_open_where_batches_are_given_up():
    before = len(os.listdir("/proc/self/fd"))
    channel = handover.open_channel()
    first, second = (pickle.dumps(channel.send(batch)) for batch in BATCHES)
    pickle.loads(second)
    channel.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_batch_is_reported_where_no_file_can_be_opened(channel):
    message = pickle.dumps(channel.send(BATCHES[0]))
    with no_more_open_files():
        sent, arrived = channel.send(BATCHES[0]), pickle.loads(message)
    assert (sent.reason, arrived.reason) == ("Too many open files",) * 2


def test_a_batch_that_was_not_sent_is_not_waited_for(channel):
    assert isinstance(pickle.loads(pickle.dumps(handover.Parcel(channel.number, b"x", []))), handover.Undelivered)
