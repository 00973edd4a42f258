"""One file over HTTP into a partial file: resumed, retried, and never believed blindly."""

import contextlib
import dataclasses
import errno
import http.client
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before tries that follow one without progress
_MAX_TRIES = 50
_MAX_BYTES = 16 << 30
_BLOCK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_OFFLINE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


class DownloadError(ConnectionError):
    """A file that could not be fetched, or is not the one that was wanted."""


class _BrokenOffError(Exception):
    """A try that another may follow."""


@dataclasses.dataclass
class Transfer:
    """A download in progress, which continues where an earlier one stopped.

    Attributes:
      url: where from; http or https.
      part: the partial file; a file next to it keeps what the server calls this version.
      size: bytes that the file must have; None where nobody knows.
      checked: whether the content is checked afterwards, so that a server without versions (ETag
        or Last-Modified) may be trusted to send the rest of the same file.
      progress: whether to show a bar, on a terminal.
      resumed: whether the bytes are of more than one answer.
    """

    url: str
    part: Path
    size: int | None = None
    checked: bool = False
    progress: bool = True
    resumed: bool = False

    @property
    def _tag(self) -> Path:
        return self.part.with_name(f"{self.part.name}.tag")

    @property
    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> None:
        """Fetches the file, in as many tries as it takes while bytes keep coming.

        Raises:
          DownloadError: if it cannot be had; what came stays for the next time.
          OSError: if it cannot be written.
        """
        failures, farthest = 0, self._have
        for _ in range(_MAX_TRIES):
            if farthest and self._have == self.size:
                self.resumed = True
                return
            try:
                return self._try()
            except _BrokenOffError as error:
                failures = 0 if self._have > farthest else failures + 1
                farthest = max(farthest, self._have)
                if failures > len(_WAITS):
                    raise DownloadError(f"{error} ({failures} tries)") from None
                time.sleep(_WAITS[max(failures - 1, 0)])
        raise DownloadError(f"the connection broke off {_MAX_TRIES} times")

    def forget(self) -> None:
        """Removes what came so far."""
        self.part.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)
        self.resumed = False

    def _try(self) -> None:
        have, version = self._have, self._tag.read_text() if self._tag.exists() else ""
        if have and not version and not self.checked:
            have = 0
        headers = {"User-Agent": "segjax", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if version:
                headers["If-Range"] = version
        request = urllib.request.Request(self.url, headers=headers)
        with _told_apart(self._restart), _opener().open(request, timeout=_TIMEOUT) as response:
            start = self._start(response, have, version)
            self._receive(response, start)

    def _restart(self, why: str) -> None:
        """Gives up what came so far, once: without it there is nothing to give up."""
        if not self._have:
            raise DownloadError(why)
        self.forget()
        raise _BrokenOffError(why)

    def _start(self, response: Any, have: int, version: str) -> int:
        """Finds where in the file the answer's first byte belongs, and makes ready for it."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"the server sends it as {response.headers['Content-Encoding']}")
        if response.headers.get_content_type() == "text/html":
            raise DownloadError("the server sends a web page in its place (a login, maybe)")
        if response.status == 200:
            self.forget()
            self._tag.write_text(_version(response.headers))
            return 0
        answer = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        same = not version or _version(response.headers) in ("", version)
        if response.status != 206 or not have or not same or not answer or int(answer[1]) != have:
            self._restart(f"the server answers {response.status} with a part not asked for")
        self.resumed = True
        return have

    def _receive(self, response: Any, start: int) -> None:
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        limit = _MAX_BYTES if self.size is None else self.size
        if total is not None and (total > limit or self.size not in (None, total)):
            self.forget()
            raise DownloadError(f"the server offers {total} bytes, {limit} were wanted")
        at = start
        with self.part.open("ab") as file, self._bar(start, total) as advance:
            while block := response.read1(_BLOCK):
                at += len(block)
                if at > limit:
                    break
                file.write(block)
                file.flush()  # so that a killed process loses nothing
                advance(len(block))
        if at > limit:
            self.forget()
            raise DownloadError(f"the server sends more than the {limit} bytes that were wanted")
        if total is not None and at < total:
            raise _BrokenOffError(f"the connection broke off after {at} of {total} bytes")

    @contextlib.contextmanager
    def _bar(self, start: int, total: int | None) -> Iterator[Callable[[int], Any]]:
        if not self.progress or not sys.stderr.isatty():
            yield lambda count: None
            return
        from tqdm import tqdm

        name = urlsplit(self.url).path.rsplit("/", 1)[-1]
        with tqdm(
            total=total, initial=start, desc=name, unit="B", unit_scale=True, leave=False
        ) as bar:
            yield bar.update


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to web servers only, and from an encrypted connection to no other."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Returns the request that follows."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url} redirects to {newurl[:200]}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Builds what speaks HTTP, through the proxies of the environment, and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@contextlib.contextmanager
def _told_apart(restart: Callable[[str], None]) -> Iterator[None]:
    """Turns what goes wrong into what may be tried again and what may not."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answers {error.code} {error.reason}"
        if error.code == 416:
            restart(said)
        raise (_BrokenOffError if error.code in _BUSY else DownloadError)(said) from None
    except urllib.error.URLError as error:
        reason = error.reason
        certificate = isinstance(reason, ssl.SSLCertVerificationError)
        offline = isinstance(reason, socket.gaierror) or (
            isinstance(reason, OSError) and reason.errno in _OFFLINE
        )
        final = certificate or offline or isinstance(reason, str)
        raise (DownloadError if final else _BrokenOffError)(str(reason)) from None
    except DownloadError:
        raise
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _BrokenOffError(f"{type(error).__name__}: {error}") from None
    except OSError as error:
        if error.errno not in _OFFLINE:
            raise  # of the disk
        raise _BrokenOffError(str(error)) from None


def _version(headers: Any) -> str:
    """Reads what tells versions of a file apart; weak ETags do not, byte for byte."""
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
