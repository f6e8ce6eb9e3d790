"""Which signals stop a run, and which one the ranks obey."""

import os
import signal
import time

from runtime.signals import StopSignals, agreed_signal


def test_the_first_signal_is_kept_and_all_ranks_obey_it():
    reported = []
    listening = StopSignals(reported.append)
    with listening:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same request, as launchers pass it on
        deadline = time.time() + 5
        while not listening.number and time.time() < deadline:
            time.sleep(0.01)
    assert listening.number == signal.SIGUSR1 and len(reported) == 1 and "SIGUSR1" in reported[0]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    votes = [mine + others for mine, others in zip(listening.votes(), StopSignals().votes())]
    assert agreed_signal(votes) == signal.SIGUSR1
    assert agreed_signal(StopSignals().votes()) == 0


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as listening:
            os.kill(os.getpid(), signal.SIGHUP)
            assert listening.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)
