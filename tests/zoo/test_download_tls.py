"""Encrypted downloads through a proxy that only connects both sides."""

import base64
import hashlib
import shutil

import numpy as np
import pytest

from segjax.zoo import transfer
from segjax.zoo.download import DownloadError, fetch
from tests.support import web

CONTENT = np.random.default_rng(0).bytes(12_345)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    with web.encrypted(CONTENT, folder, "weights.invalid") as server:
        yield server


@pytest.fixture
def proxy(encrypted, monkeypatch):
    monkeypatch.setattr(transfer, "_WAITS", (0.01, 0.01, 0.01))
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    encrypted.requests.clear()
    encrypted.left.clear()
    proxy = web.Proxy(encrypted.server_address)
    with web.running(proxy):
        yield proxy


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_a_proxy_joins_and_sees_the_host_alone(encrypted, proxy, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, proxy.url().replace("//", "//me:secret@"))
    monkeypatch.setenv("SSL_CERT_FILE", str(encrypted.certificate))
    url = "https://weights.invalid/breaks-off/x.pth"
    assert fetch(url, sha256=SHA, folder=tmp_path).read_bytes() == CONTENT
    assert len(encrypted.requests) == len(proxy.requests) == 13
    login = "Basic " + base64.b64encode(b"me:secret").decode()
    assert set(proxy.requests) == {("weights.invalid:443", login)}
    assert set(encrypted.requests) == {"/breaks-off/x.pth"}


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    encrypted, proxy, tmp_path, monkeypatch
):
    monkeypatch.setenv("https_proxy", proxy.url())
    with pytest.raises(DownloadError, match="certificate verify failed"):
        fetch("https://weights.invalid/x.pth", folder=tmp_path)
    assert (len(proxy.requests), encrypted.requests) == (1, [])


def test_a_redirect_to_an_open_connection_is_refused(encrypted, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", proxy.url())
    monkeypatch.setenv("SSL_CERT_FILE", str(encrypted.certificate))
    with pytest.raises(DownloadError, match="not safe"):
        fetch("https://weights.invalid/moved-to/x?http://127.0.0.1:9/x", folder=tmp_path)
    assert len(encrypted.requests) == 1


def test_a_proxy_that_refuses_is_told(encrypted, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", proxy.url())
    proxy.answer = 407
    with pytest.raises(DownloadError, match="407"):
        fetch("https://weights.invalid/x.pth", folder=tmp_path)
    assert encrypted.requests == []
