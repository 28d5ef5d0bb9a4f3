"""Servers of files on this machine, which tests fetch from and publish to: S3, and a web server that lists folders."""

import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Bucket:
    """An S3 bucket, whose objects anybody may read unless they are put there otherwise."""

    def __init__(self, endpoint_url, backend, name):
        self.endpoint_url = endpoint_url
        self.root = f"s3://{name}"
        self.url = f"s3://{name}/EyefulTower"
        self.backend = backend
        self.name = name

    @classmethod
    def made(cls, server, name):
        endpoint_url, backend = server
        backend.create_bucket(name, "us-east-1")
        return cls(endpoint_url, backend, name)

    def names(self):
        """Names of all objects."""
        return sorted(self.backend.buckets[self.name].keys)

    def read(self, key):
        return self.backend.get_object(self.name, key).value

    def write(self, key, content):
        """Put an object there that is not public."""
        return self.backend.put_object(self.name, key, content)

    def put(self, key, content, *, public=True):
        """Store an object under any key, also one that clients would not send."""
        from moto.s3.models import get_canned_acl

        stored = self.backend.put_object(self.name, f"EyefulTower/{key}", content)
        if public:
            stored.set_acl(get_canned_acl("public-read"))
        return stored

    def put_folder(self, folder, under=""):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(under + path.relative_to(folder).as_posix(), path.read_bytes())

    def delete(self, key):
        self.backend.delete_object(self.name, f"EyefulTower/{key}")


class Web(ThreadingHTTPServer):
    """A web server of ``files``, whose folders are pages that link to what is in them."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Pages)
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        """Further links: address of a folder -> HTML."""
        self.ranges = True
        self.cut: dict[str, int] = {}
        """Bytes after which the connection of a file's first transfer breaks."""
        self.stated: dict[str, int] = {}
        """Sizes that are stated but not true."""
        self.broken: set[str] = set()
        """Files that every request fails for."""
        self.sent: Counter[str] = Counter()
        """Bytes sent by file."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data"


class _Pages(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(self.path).removeprefix("/data/")
        if path in self.server.files:
            self._file(path, self.server.files[path])
        elif path == "" or any(name.startswith(path.rstrip("/") + "/") for name in self.server.files):
            self._page(path.rstrip("/"))
        else:
            self._answer(404, b"")

    def _page(self, folder):
        prefix = f"{folder}/" if folder else ""
        inside = {name.removeprefix(prefix) for name in self.server.files if name.startswith(prefix)}
        below = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in inside})
        links = "".join(f'<a href="{urllib.parse.quote(name)}">{name}</a>' for name in below)
        page = f'<html><a href="../">up</a>{links}{self.server.links.get(folder, "")}</html>'
        self._answer(200, page.encode(), {"Content-Type": "text/html"})

    def _file(self, path, content):
        if path in self.server.broken:
            self._answer(500, b"")
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and self.server.ranges else 0
        stated = self.server.stated.get(path, len(content))
        headers = {"ETag": f'"{hash(content)}"', "Content-Type": "image/jpeg"}
        if self.command == "HEAD":
            self._answer(200, b"", {**headers, "Content-Length": str(stated)})
            return
        body = content[start:]
        cut = self.server.cut.pop(path, None)
        self.server.sent[path] += len(body[:cut])
        self._answer(206 if start else 200, body[:cut], {**headers, "Content-Length": str(stated - start)})
        if cut is not None or stated > len(content):
            self.close_connection = True

    def _answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
