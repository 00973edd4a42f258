"""Download of one file over HTTP into a partial file, with retries, resumption and checks."""

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
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before a retry, by the number of tries without progress
_MAX_TRIES = 50
_MAX_BYTES = 16 << 30  # limit for files of unknown size
_BLOCK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_OFFLINE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


class DownloadError(ConnectionError):
    """Raised if a file cannot be fetched or is not the expected one."""


class _BrokenOffError(Exception):
    """Raised by a try that failed but may be repeated."""


@dataclasses.dataclass
class Transfer:
    """A download that resumes where an earlier one stopped.

    Attributes:
      url: http or https address.
      part: path of the partial file; a file next to it stores the server's version of the content.
      size: exact size of the file in bytes; None if unknown.
      checked: True if the caller checks the content afterwards. Then a download is resumed even if
        the server sends no version (ETag or Last-Modified).
      progress: show a progress bar if there is a terminal.
      resumed: True if some bytes come from an earlier response.
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
        """Fetches the file, with retries as long as bytes keep arriving (`_MAX_TRIES` at most).

        Raises:
          DownloadError: if the file cannot be fetched; received bytes may be kept for the next run.
          OSError: if the file cannot be written.
        """
        failures, farthest = 0, self._have
        for _ in range(_MAX_TRIES):
            # Asking for the rest of a complete file would be an error, 416.
            if farthest and self._have == self.size:
                self.resumed = True
                return
            try:
                return self._try()
            except _BrokenOffError as error:
                # Only tries without progress count, so a flaky connection still completes.
                failures = 0 if self._have > farthest else failures + 1
                farthest = max(farthest, self._have)
                if failures > len(_WAITS):
                    raise DownloadError(f"{error} ({failures} tries)") from None
                time.sleep(_WAITS[max(failures - 1, 0)])
        raise DownloadError(f"the connection broke off {_MAX_TRIES} times")

    def forget(self) -> None:
        """Deletes the bytes received so far."""
        self.part.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)
        self.resumed = False

    def _try(self) -> None:
        have, version = self._have, self._tag.read_text() if self._tag.exists() else ""
        # Without a version or a later check, two versions of the file could be mixed unnoticed.
        if have and not version and not self.checked:
            have = 0
        # Compressed responses would make sizes and ranges those of the compressed bytes.
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
        """Drops the partial file and asks for another try; fails if there is nothing to drop."""
        if not self._have:
            raise DownloadError(why)
        self.forget()
        raise _BrokenOffError(why)

    def _start(self, response: Any, have: int, version: str) -> int:
        """Returns the offset of the response's first byte in the file, and prepares for it."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"the server sends it as {response.headers['Content-Encoding']}")
        if response.headers.get_content_type() == "text/html":
            raise DownloadError("the server sends a web page in its place (a login, maybe)")
        if response.status == 200:  # the whole file, even if only the rest was requested
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
                file.flush()  # Flushed so that a killed process loses nothing.
                advance(len(block))
        if at > limit:
            self.forget()
            raise DownloadError(f"the server sends more than the {limit} bytes that were wanted")
        # `read1` does not report that a connection ended early.
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
    """Follows redirects to http(s) only, and never from https to http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Returns the redirected request."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url} redirects to {newurl[:200]}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Builds an opener for http(s) through the environment's proxies, and for no other scheme."""
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
    """Turns network errors into `_BrokenOffError`, if another try may help, or `DownloadError`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answers {error.code} {error.reason}"
        if error.code == 416:  # The partial file is as long as the server's file, or longer.
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
            raise  # an error of the disk
        raise _BrokenOffError(str(error)) from None


def _version(headers: Any) -> str:
    """Returns the ETag or Last-Modified; weak ETags do not guarantee equal bytes."""
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
