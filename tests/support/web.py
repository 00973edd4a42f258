"""A web server on the loopback interface with every fault of real servers, and a proxy."""

import contextlib
import http.server
import select
import socket
import ssl
import subprocess
import threading
import urllib.parse
from email.utils import formatdate


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path; the first part of the path selects the behaviour."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"one"'
        self.requests = []
        self.ranges = []
        self.left = {}
        self.go_on = threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def first_times(self, path, count):
        """Returns True for the first `count` requests of `path`."""
        self.left[path] = self.left.get(path, count) - 1
        return self.left[path] >= 0

    def handle_error(self, request, client_address):
        """Ignores broken connections, which are the subject of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        server.ranges.append(self.headers.get("Range"))
        path = urllib.parse.urlsplit(self.path).path
        way = path.strip("/").split("/")[0].replace("-", "_")
        getattr(self, f"way_{way}", self.way_good)()

    def reply(self, body, *, length=None, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def break_off(self):
        self.close_connection = True
        self.connection.close()

    def start(self):
        """Returns the offset at which the client resumes, if it has the served version."""
        wanted = self.headers.get("Range")
        version = self.headers.get("If-Range", self.server.etag)
        return int(wanted[6:-1]) if wanted and version == self.server.etag else 0

    def way_good(self, stop=None, **headers):
        content, at = self.server.content, self.start()
        headers = {"ETag": self.server.etag, **headers}
        if at >= len(content) and at:
            return self.reply(b"", status=416, Content_Range=f"bytes */{len(content)}")
        if at:
            headers["Content_Range"] = f"bytes {at}-{len(content) - 1}/{len(content)}"
        body, size = content[at:stop], len(content) - at
        self.reply(body, length=size, status=206 if at else 200, **headers)
        return self.break_off() if stop else None

    def way_breaks_off(self):
        at = self.start()
        self.way_good(stop=at + 1000 if at + 1000 < len(self.server.content) else None)

    def way_breaks_off_without_range(self):
        body = self.server.content
        if self.server.first_times(self.path, 2):
            self.reply(body[:1500], length=len(body))
            return self.break_off()
        self.reply(body, ETag='"one"')

    def way_changes(self):
        """Breaks off, then serves another version of the file."""
        if self.server.first_times(self.path, 1):
            self.reply(b"x" * 1000, length=len(self.server.content), ETag='"old"')
            return self.break_off()
        self.way_good()

    def way_changes_unasked(self):
        """Same as above, but ignores If-Range: the rest is from another version."""
        if self.server.first_times(self.path, 1):
            self.reply(b"x" * 1000, length=len(self.server.content), ETag='"old"')
            return self.break_off()
        at = int(self.headers.get("Range", "bytes=0-")[6:-1])
        content = self.server.content
        place = {"Content_Range": f"bytes {at}-{len(content) - 1}/{len(content)}"} if at else {}
        self.reply(content[at:], status=206 if at else 200, ETag=self.server.etag, **place)

    def way_changes_unnamed(self):
        """Same as above, without any version identifiers."""
        if self.server.first_times(self.path, 1):
            self.reply(b"x" * 1000, length=len(self.server.content))
            return self.break_off()
        at = int(self.headers.get("Range", "bytes=0-")[6:-1])
        content = self.server.content
        place = {"Content_Range": f"bytes {at}-{len(content) - 1}/{len(content)}"} if at else {}
        self.reply(content[at:], status=206 if at else 200, **place)

    def way_wrong_part(self):
        if self.headers.get("Range"):
            return self.reply(b"zzz", status=206, Content_Range="bytes 7-9/10", ETag='"one"')
        self.way_good(stop=1000 if self.server.first_times(self.path, 1) else None)

    def way_not_satisfiable(self):
        if self.headers.get("Range"):
            return self.reply(b"", status=416)
        self.way_good(stop=1000 if self.server.first_times(self.path, 1) else None)

    def way_dated(self):
        """Identifies versions by their dates."""
        date = formatdate(1e9, usegmt=True)
        asked = self.headers.get("If-Range") in (None, date)
        at = int(self.headers.get("Range", "bytes=0-")[6:-1]) if asked else 0
        content = self.server.content
        if not at:
            stop = 1000 if self.server.first_times(self.path, 1) else None
            self.reply(content[:stop], length=len(content), Last_Modified=date)
            return self.break_off() if stop else None
        place = f"bytes {at}-{len(content) - 1}/{len(content)}"
        self.reply(content[at:], status=206, Content_Range=place, Last_Modified=date)

    def way_stalls(self):
        if self.server.first_times(self.path, 1):
            self.reply(self.server.content[:1000], length=len(self.server.content), ETag='"one"')
            self.server.go_on.wait(10)
            return self.break_off()
        self.way_good()

    def way_silent(self):
        self.server.go_on.wait(10)
        self.break_off()

    def way_claims_more(self):
        self.reply(self.server.content, length=len(self.server.content) + 10)
        self.break_off()

    def way_claims_less(self):
        self.reply(self.server.content, length=100)
        self.break_off()

    def way_chunks(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        content = self.server.content
        for at in range(0, len(content), 700):
            piece = content[at : at + 700]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if self.server.first_times(self.path, 1):
                return self.break_off()
        self.wfile.write(b"0\r\n\r\n")

    def way_endless(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def way_busy(self):
        if self.server.first_times(self.path, 2):
            return self.reply(b"later", status=503)
        self.way_good()

    def way_nonsense(self):
        self.wfile.write(b"220 mail.example.com ESMTP\r\n")
        self.break_off()

    def way_missing(self):
        self.reply(b"none", status=404)

    def way_page(self):
        self.reply(b"<html>Sign in</html>", Content_Type="text/html; charset=utf-8")

    def way_zipped(self):
        self.reply(b"...", Content_Encoding="gzip")

    def way_moved(self):
        self.reply(b"", status=302, Location="/moved-again/x")

    def way_moved_again(self):
        self.reply(b"", status=308, Location=self.server.url("breaks-off/y"))

    def way_moved_to(self):
        self.reply(b"", status=302, Location=urllib.parse.urlsplit(self.path).query)

    def way_circle(self):
        self.reply(b"", status=302, Location=self.path)


class Proxy(http.server.ThreadingHTTPServer):
    """Connects every CONNECT request to the one server, whatever host it names."""

    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.target = target
        self.answer = 200
        self.requests = []

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_CONNECT(self):
        self.server.requests.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(self.server.answer)
        self.end_headers()
        if self.server.answer != 200:
            return
        with socket.create_connection(self.server.target) as there:
            sides = {there: self.connection, self.connection: there}
            while ready := select.select(list(sides), [], [], 20)[0]:
                for side in ready:
                    data = side.recv(1 << 16)
                    if not data:
                        return
                    sides[side].sendall(data)


@contextlib.contextmanager
def encrypted(content, folder, host):
    """Runs a TLS server with a certificate for `host`, made with `openssl`."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(content)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.certificate = certificate
    with running(server):
        yield server


@contextlib.contextmanager
def serving(content):
    """Runs a server."""
    server = Server(content)
    with running(server):
        yield server


@contextlib.contextmanager
def running(server):
    """Runs a server in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        getattr(server, "go_on", threading.Event()).set()
        server.shutdown()
        server.server_close()
        thread.join()
