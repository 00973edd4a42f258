"""Locks between processes, and files that are there whole or not at all."""

import errno
import threading
import time

import filelock
import pytest

from segjax._files import locked, written_whole


def test_one_works_while_the_others_wait(tmp_path):
    inside, most = [], []

    def work():
        with locked(tmp_path / "x.lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "x.lock"):
        raise KeyError
    with locked(tmp_path / "x.lock"):
        pass


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOLCK, "has no file locks .*: choose a cache folder on another one"),
        (errno.EACCES, "as it was"),
    ],
)
def test_file_systems_without_locks_are_named(tmp_path, monkeypatch, number, words):
    def acquire(self, *_, **__):
        raise OSError(number, "as it was")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(OSError, match=words) as caught, locked(tmp_path / "x.lock"):
        pass
    assert caught.value.errno == number


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    with written_whole(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyError), written_whole(path) as partial:
        partial.write_text("half of the sec")
        raise KeyError
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
