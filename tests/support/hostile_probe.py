"""Reads every file of a folder and tells what happened.

    python -m tests.support.hostile_probe FOLDER

A process of its own: audit hooks stay for good, memory is that of reading alone, and functions
run at their own speed, without the type checks of the tests.
"""

import json
import sys
import time
from pathlib import Path

from segjax.zoo.reading import read_checkpoint

WATCHED: list[tuple[str, str]] = []


def watch(event, arguments):
    WATCHED.append((event, str(arguments[0])[:200] if arguments else ""))


def memory(which):
    """Bytes that this process takes (VmRSS), or took at most since `forget` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024


def forget():
    Path("/proc/self/clear_refs").write_text("5")


def probe(path, base=0):
    """Reads one file: its error, seconds, bytes of memory, and what Python was asked to do.

    Seconds are the processor's, since machines of tests are busy, and memory counts from `base`,
    so that nothing hides in what an earlier file left behind.
    """
    forget()
    error, start = None, time.process_time()
    WATCHED.clear()
    try:
        read_checkpoint(path)
    except Exception as caught:
        error = caught
    events, seconds = list(WATCHED), time.process_time() - start
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "seconds": seconds,
        "growth": memory("VmHWM") - base,
        "events": [event for event in events if event != ("open", str(path))],
    }


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).iterdir())
    for file in files:
        if file.stat().st_size < 5000:  # what is imported late is imported now
            probe(file)
    sys.addaudithook(watch)
    base = memory("VmRSS")
    print(json.dumps({file.name: probe(file, base) for file in files}))
