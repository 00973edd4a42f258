"""Locks between processes, and atomically written files."""

import errno
import socket
import threading
import time

import filelock
import pytest

from segjax._files import check_room, locked, written_whole


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


def test_file_systems_without_locks_get_a_file_in_their_place(tmp_path, monkeypatch, caplog):
    def acquire(self, *_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with locked(tmp_path / "x.lock"):
        assert "has no file locks (No locks available): x.lock.pid takes their place" in caplog.text
        with (
            pytest.raises(TimeoutError, match="another process has locked"),
            locked(tmp_path / "x.lock", wait=False),
        ):
            pass
    assert not (tmp_path / "x.lock.pid").exists()
    (tmp_path / "x.lock.pid").write_text(
        f"999999999\n{socket.gethostname()}\n"
    )  # held by a dead process
    with locked(tmp_path / "x.lock", wait=False):
        pass


def test_other_errors_of_locks_are_passed_on(tmp_path, monkeypatch):
    def acquire(self, *_, **__):
        raise OSError(errno.EACCES, "as it was")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(OSError, match="as it was"), locked(tmp_path / "x.lock"):
        pass


def test_a_lock_that_is_held_is_refused_if_nobody_wants_to_wait(tmp_path):
    with (
        locked(tmp_path / "x.lock"),
        pytest.raises(TimeoutError, match="another process has locked"),
        locked(tmp_path / "x.lock", wait=False),
    ):
        pass


def test_missing_room_is_said_with_both_numbers(tmp_path):
    check_room(tmp_path / "not/there/yet", 1, "a file")
    with pytest.raises(
        OSError, match=r"a file needs 95367\d+ MiB, the file system of .* has \d+ MiB left"
    ):
        check_room(tmp_path, 10**18, "a file")


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
