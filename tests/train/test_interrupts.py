"""Signals during training."""

import os
import signal
import subprocess
import sys
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


# A call of C that runs for a long time and releases Python's lock, as XLA's compiler does.
PROGRAM = """
import hashlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background of a shell ignores
from segjax.train.interrupts import Interrupts
with Interrupts(lambda text: print(text, flush=True)) as interrupts:
    print("begins", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", int(sys.argv[1]))
    print("ends", interrupts.number, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_answered_while_c_code_runs(number):
    command = [sys.executable, "-c", PROGRAM, "2000000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begins\n"
            process.send_signal(number)
            assert "stops after this step" in process.stdout.readline()
            process.send_signal(number)
            assert process.wait(10) in (128 + number, -number)
            assert process.stdout.read() == ""
        finally:
            process.kill()  # it would run for an hour


def test_one_signal_lets_the_call_end():
    command = [sys.executable, "-c", PROGRAM, "2000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout.read().splitlines()[-1] == f"ends {signal.SIGTERM:d}"


def test_what_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(print) as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupts.came()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_watching_thread_ends():
    before = threading.active_count()
    for _ in range(3):
        with Interrupts(print) as interrupts:
            assert not interrupts.came()
            assert threading.active_count() == before + 1
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == before
