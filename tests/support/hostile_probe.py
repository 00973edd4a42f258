"""Reads every file of a folder and reports the outcome.

    python -m tests.support.hostile_probe FOLDER

Runs as a separate process, because audit hooks cannot be removed, memory has to be that of reading
alone, and functions have to run at normal speed, without the type checks of the tests.
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
    """Returns this process's bytes of memory: current (VmRSS) or peak since `forget` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024


def forget():
    Path("/proc/self/clear_refs").write_text("5")


def probe(path, base=0):
    """Reads one file; returns its error, seconds, bytes of memory and audited events.

    Time is processor time, because test machines are busy. Memory is relative to `base`, so that a
    file's usage cannot hide in memory left over from an earlier file.
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
        if file.stat().st_size < 5000:  # triggers late imports before auditing starts
            probe(file)
    sys.addaudithook(watch)
    base = memory("VmRSS")
    print(json.dumps({file.name: probe(file, base) for file in files}))
