"""Downloads from a web server on the loopback interface that has every fault."""

import hashlib
import multiprocessing
import os
import socket
import threading
import time

import numpy as np
import pytest

from segjax.zoo import download, transfer
from segjax.zoo.download import DownloadError, cached_path, fetch
from tests.support import web

CONTENT = np.random.default_rng(0).bytes(12_345)
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "_WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(transfer, "_TIMEOUT", 20)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def running():
    with web.serving(CONTENT) as server:
        yield server


@pytest.fixture
def server(running):
    running.requests.clear()
    running.ranges.clear()
    running.left.clear()
    return running


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(transfer, "_TIMEOUT", 0.3)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(server, tmp_path):
    url = server.url("good/model.pth")
    path = fetch(url, sha256=SHA, size=len(CONTENT), folder=tmp_path)
    assert path == cached_path(url, tmp_path) and path.read_bytes() == CONTENT
    assert names(tmp_path) == [path.name]
    assert fetch(url, sha256=SHA[:8], md5=MD5[:6], folder=tmp_path) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "way, parts",
    [
        ("breaks-off", 13),
        ("breaks-off-without-range", 3),
        ("changes", 2),
        ("changes-unasked", 3),
        ("wrong-part", 3),
        ("not-satisfiable", 3),
        ("dated", 2),
        ("chunks", 2),
        ("busy", 3),
        ("moved", 13),
        ("moved-to/x?//HOST/good/x", 1),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_faults_of_servers_are_got_over(server, tmp_path, way, parts, known):
    way = way.replace("HOST", server.url("").split("/")[2])
    facts = {"sha256": SHA, "size": len(CONTENT)} if known else {}
    path = fetch(server.url(way), folder=tmp_path, **facts)
    assert path.read_bytes() == CONTENT
    assert len([asked for asked in server.requests if "moved" not in asked]) == parts
    assert names(tmp_path) == [path.name]


def test_a_server_that_stalls_is_asked_again(server, tmp_path, impatient):
    path = fetch(server.url("stalls/x"), folder=tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges[:2] == [None, "bytes=1000-"]


def test_what_came_is_not_asked_for_again(server, tmp_path):
    fetch(server.url("breaks-off/x"), folder=tmp_path)
    assert server.ranges == [None, *(f"bytes={at}-" for at in range(1000, 12_001, 1000))]


def test_an_interrupted_download_goes_on_in_another_process(server, tmp_path):
    url = server.url("good/x")
    part = cached_path(url, tmp_path)
    part = part.with_name(f"{part.name}.part")
    part.write_bytes(CONTENT[:7000])
    tag = part.with_name(f"{part.name}.tag")
    tag.write_text(server.etag)
    assert fetch(url, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=7000-"]
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("facts, ranges", [({}, [None]), ({"sha256": SHA}, ["bytes=7000-"])])
def test_bytes_of_an_unnamed_version_are_kept_only_if_all_is_checked(
    server, tmp_path, facts, ranges
):
    url = server.url("good/x")
    part = cached_path(url, tmp_path)
    part.with_name(f"{part.name}.part").write_bytes(CONTENT[:7000])
    assert fetch(url, folder=tmp_path, **facts).read_bytes() == CONTENT
    assert server.ranges == ranges


def test_parts_of_two_versions_are_fetched_anew(server, tmp_path):
    url = server.url("changes-unnamed/x")
    assert fetch(url, sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_part_as_long_as_the_file_is_checked(server, tmp_path):
    url = server.url("good/x")
    part = cached_path(url, tmp_path)
    part = part.with_name(f"{part.name}.part")
    part.write_bytes(CONTENT)
    assert fetch(url, sha256=SHA, size=len(CONTENT), folder=tmp_path).read_bytes() == CONTENT
    assert server.requests == []
    cached_path(url, tmp_path).unlink()
    part.write_bytes(bytes(len(CONTENT)))
    assert fetch(url, sha256=SHA, size=len(CONTENT), folder=tmp_path).read_bytes() == CONTENT
    part.write_bytes(CONTENT + b"more")
    cached_path(url, tmp_path).unlink()
    assert fetch(url, sha256=SHA, folder=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA}, wanted was {'0' * 64}"),
        ({"sha256": "0123abcd"}, f"its sha256 is {SHA}, wanted was 0123abcd..."),
        ({"md5": "0123ab"}, f"its md5 is {MD5}, wanted was 0123ab..."),
        ({"size": 99}, "offers 12345 bytes, 99 were wanted"),
        ({"size": 99_999}, "offers 12345 bytes, 99999 were wanted"),
    ],
)
def test_wrong_bytes_are_deleted(server, tmp_path, facts, message):
    with pytest.raises(DownloadError) as error:
        fetch(server.url("good/x"), folder=tmp_path, **facts)
    assert message in str(error.value)
    assert names(tmp_path) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"size": len(CONTENT)}, "offers 100 bytes, 12345 were wanted"),
        ({"sha256": SHA[:8]}, f"wanted was {SHA[:8]}..."),
    ],
)
def test_a_length_that_is_too_short_is_seen_if_anything_is_known(server, tmp_path, facts, message):
    with pytest.raises(DownloadError) as error:
        fetch(server.url("claims-less"), folder=tmp_path, **facts)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "way, message, tries",
    [
        ("missing", "answers 404", 1),
        ("page", "web page", 1),
        ("zipped", "sends it as gzip", 1),
        ("circle", "infinite loop", None),
        ("claims-more", "broke off after 12345 of 12355 bytes", 5),
        ("nonsense", "BadStatusLine", 4),
        ("moved-to/x?file:///etc/passwd", "not allowed", 1),
        ("moved-to/x?ftp://127.0.0.1/x", "not safe", 1),
        ("moved-to/x?data:text/plain,x", "not allowed", 1),
    ],
)
def test_what_cannot_be_got_over_says_what_to_do(server, tmp_path, way, message, tries):
    url = server.url(way)
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256=SHA[:8], size=None, folder=tmp_path)
    for part in (url, message, f"put at {cached_path(url, tmp_path)} (sha256 {SHA[:8]})"):
        assert part in str(error.value)
    assert isinstance(error.value, ConnectionError)
    assert tries is None or len(server.requests) == tries
    assert not cached_path(url, tmp_path).exists()


def test_a_server_that_says_nothing_is_given_up(server, tmp_path, impatient):
    with pytest.raises(DownloadError, match="timed out"):
        fetch(server.url("silent/x"), folder=tmp_path)
    assert len(server.requests) == 4


def test_an_encrypted_connection_redirects_to_no_open_one():
    from urllib.request import Request

    request = Request("https://host/x")
    with pytest.raises(DownloadError, match="not safe"):
        transfer._Redirects().redirect_request(request, None, 302, "", {}, "http://host/x")
    found = transfer._Redirects().redirect_request(request, None, 302, "", {}, "https://other/x")
    assert found is not None and found.full_url == "https://other/x"


@pytest.mark.parametrize("facts", [{"size": 1000}, {}])
def test_more_than_was_wanted_is_not_taken(server, tmp_path, monkeypatch, facts):
    monkeypatch.setattr(transfer, "_MAX_BYTES", 300_000)
    with pytest.raises(DownloadError, match="sends more than the"):
        fetch(server.url("endless/x"), folder=tmp_path, **facts)
    assert names(tmp_path) == []


def test_without_network_a_file_put_there_by_hand_is_checked_and_used(tmp_path):
    url = "http://weights.invalid/a/model_final.pkl"
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256=SHA, size=len(CONTENT), folder=tmp_path)
    path = cached_path(url, tmp_path)
    for part in (url, f"put at {path} ({len(CONTENT)} bytes, sha256 {SHA})", "checked and used"):
        assert part in str(error.value)
    path.write_bytes(CONTENT)
    assert fetch(url, sha256=SHA, size=len(CONTENT), folder=tmp_path) == path
    assert fetch(url, folder=tmp_path) == path
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256=SHA, folder=tmp_path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"there now is of no use: its sha256 is {found}" in str(error.value)


def test_a_refused_connection_is_tried_again_and_told(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(DownloadError, match=r"Connection refused \(4 tries\)"):
        fetch(url, folder=tmp_path)


def test_a_wrong_file_of_the_cache_is_fetched_anew(server, tmp_path, caplog):
    url = server.url("good/x")
    cached_path(url, tmp_path).write_bytes(b"old")
    assert fetch(url, sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert "fetched anew: its sha256 is" in caplog.text


def test_a_complete_cache_may_lie_where_nobody_writes(tmp_path, monkeypatch):
    url = "http://weights.invalid/x.pth"
    path = cached_path(url, tmp_path)
    path.write_bytes(CONTENT)
    monkeypatch.setattr(download, "locked", None)  # using a lock file would fail
    assert fetch(url, sha256=SHA, folder=tmp_path) == path
    assert names(tmp_path) == [path.name]


def test_proxies_of_the_environment_are_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    url = "http://weights.invalid/breaks-off/x.pth"
    assert fetch(url, sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert set(server.requests) == {url}
    monkeypatch.setenv("no_proxy", "weights.invalid")
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch(f"{url}?again", folder=tmp_path)


def _fetch_in_process(url, folder, start, results):
    transfer._WAITS = (0.01,) * 3
    start.wait()
    results.put(fetch(url, sha256=SHA, folder=folder).read_bytes() == CONTENT)


def test_two_processes_and_threads_at_once_fetch_it_once(server, tmp_path):
    url = server.url("breaks-off/x")
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    jobs = [
        kind(target=_fetch_in_process, args=(url, tmp_path, start, results))
        for kind in (context.Process, context.Process, threading.Thread, threading.Thread)
    ]
    for job in jobs:
        job.start()
    start.set()
    assert all(results.get(timeout=60) for _ in jobs)
    for job in jobs:
        job.join()
    assert len(server.requests) == 13
    assert len(names(tmp_path)) == 1


def test_a_killed_process_leaves_a_part_that_the_next_goes_on_with(server, tmp_path):
    url = server.url("stalls/x")
    victim = multiprocessing.get_context("spawn").Process(target=_hang, args=(url, tmp_path))
    victim.start()
    part = cached_path(url, tmp_path)
    part = part.with_name(f"{part.name}.part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 1000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.join()
    assert fetch(url, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


def _hang(url, folder):
    transfer._TIMEOUT = 60
    fetch(url, folder=folder)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/home/me/model.pth",
        "model.pth",
        "ftp://host/x",
        "data:text/plain,x",
        "C:\\model.pth",
    ],
)
def test_files_of_this_machine_are_not_downloaded(url, tmp_path):
    with pytest.raises(ValueError, match="give its path"):
        fetch(url, folder=tmp_path)


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x", "http://me:secret@host/x", "http://host/a b", "http://host/\r\nX: y"],
)
def test_what_is_no_plain_url(url, tmp_path):
    with pytest.raises(ValueError, match="no plain URL"):
        fetch(url, folder=tmp_path)


@pytest.mark.parametrize(
    "facts", [{"sha256": "abc"}, {"sha256": "x" * 64}, {"sha256": "0" * 65}, {"md5": "0" * 33}]
)
def test_hashes_that_are_none(facts, tmp_path):
    with pytest.raises(ValueError, match="hexadecimal digits"):
        fetch("http://host/x", folder=tmp_path, **facts)


@pytest.mark.parametrize(
    "path, name",
    [
        ("models/resnet50-0676ba61.pth", "resnet50-0676ba61.{}.pth"),
        ("model_final.pkl?download=1", "model_final.{}.pkl"),
        ("", "weights.{}"),
        ("..", "weights.{}"),
        ("a/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "etc_passwd.{}"),
        ("%00%0a.pth", "pth.{}"),
        (".bashrc", "bashrc.{}"),
        ("x/%5c%5chost%5cx.pth", "host_x.{}.pth"),
        ("y" * 500 + ".pth", "y" * 96 + ".{}.pth"),
    ],
)
def test_names_stay_in_the_folder(tmp_path, path, name):
    found = cached_path(f"https://host/{path}", tmp_path)
    assert found.parent == tmp_path
    start, _, end = name.partition("{}")
    assert found.name.startswith(start) and found.name.endswith(end)
    assert len(found.name) == len(start) + 8 + len(end)


def test_two_urls_of_one_name_have_two_files(tmp_path):
    both = {cached_path(f"https://host/{i}/model_final.pkl", tmp_path) for i in (1, 2)}
    assert len(both) == 2


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = cached_path("https://host/x.pth")
    assert found.parent == tmp_path / ".cache/segjax/weights"


def test_a_bar_is_shown_on_terminals_only(server, tmp_path, monkeypatch, capsys):
    fetch(server.url("good/one"), folder=tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(server.url("good/quiet"), folder=tmp_path, progress=False)
    assert capsys.readouterr().err == ""
    fetch(server.url("breaks-off/two"), folder=tmp_path)
    shown = capsys.readouterr().err
    assert "two" in shown and "12.3k" in shown


def test_a_full_disk_is_told_as_such(server, tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.Transfer, "_receive", full)
    with pytest.raises(OSError, match="No space left") as error:
        fetch(server.url("good/x"), folder=tmp_path)
    assert not isinstance(error.value, DownloadError)
    assert str(cached_path(server.url("good/x"), tmp_path)) in str(error.value)
    assert len(server.requests) == 1
    assert os.listdir(tmp_path)
