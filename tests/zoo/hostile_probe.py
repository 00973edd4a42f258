"""Reads every file of a folder and tells what happened: `python -m tests.zoo.hostile_probe DIR`.

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


def probe(path):
    """Reads one file: its error, seconds, bytes of memory, and what Python was asked to do."""
    forget()
    error, before, start = None, memory("VmRSS"), time.perf_counter()
    WATCHED.clear()
    try:
        read_checkpoint(path)
    except Exception as caught:
        error = caught
    events, seconds = list(WATCHED), time.perf_counter() - start
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "seconds": seconds,
        "growth": memory("VmHWM") - before,
        "events": [event for event in events if event != ("open", str(path))],
    }


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).iterdir())
    for file in files:  # what is imported late is imported now
        probe(file)
    sys.addaudithook(watch)
    print(json.dumps({file.name: probe(file) for file in files}))
