"""Signals during training."""

import os
import signal
import threading

import pytest

from segjax.train.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_is_the_process_s_own(number):
    said, own = [], []
    before = signal.signal(number, lambda *_: own.append(number))
    try:
        with Interrupts(said.append) as interrupts:
            assert interrupts.number is None
            os.kill(os.getpid(), number)
            assert interrupts.number == number and own == []
            os.kill(os.getpid(), number)
            assert own == [number]
        assert "stops after this step and saves it" in said[0] and len(said) == 1
        os.kill(os.getpid(), number)
        assert own == [number, number]
    finally:
        signal.signal(number, before)


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work():
        with Interrupts(found.append):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
