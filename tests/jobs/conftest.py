"""What jobs work on: servers to fetch from, on this machine, and photographs of a room for structure from motion."""

import importlib.util
import threading
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from voxfield.jobs import fetch

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
TEXELS = 600


class Room(NamedTuple):
    """Photographs of the room and where they were taken."""

    poses: np.ndarray
    """(N, 4, 4) camera to world, OpenGL axes."""
    pictures: list[np.ndarray]
    """(HEIGHT, WIDTH, 3) uint8 each."""

    def write(self, folder: Path, suffix: str = ".jpg") -> Path:
        """Save them as 1.jpg, 2.jpg, ..."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(self.pictures, start=1):
            Image.fromarray(picture).save(folder / f"{index}{suffix}", quality=95)
        return folder


@pytest.fixture(scope="session")
def needs_colmap() -> None:
    # Not imported here: loaded before Pillow it makes Pillow crash, see voxfield.jobs.colmap_worker.
    if importlib.util.find_spec("pycolmap") is None:
        pytest.skip("pycolmap has no wheel for this platform")


@pytest.fixture(scope="session")
def room() -> Room:
    """Eight photographs along an arc of 80 degrees around a box in a larger box."""
    poses = np.stack([_looking_at_the_middle(angle) for angle in np.linspace(-0.7, 0.7, 8)])
    textures = [_texture(np.random.default_rng(seed)) for seed in range(12)]
    return Room(poses, [_photograph(pose, textures) for pose in poses])


def _looking_at_the_middle(angle: float) -> np.ndarray:
    position = np.array([1.7 * np.sin(angle), -1.7 * np.cos(angle), 0.5 + 0.3 * np.cos(3 * angle)])
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return pose


def _texture(random: np.random.Generator) -> np.ndarray:
    """(TEXELS, TEXELS, 3) uint8: noise of several scales, so smooth that the nearest texel is as good as any."""
    noises = [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for size in (12, 48, 112)]
    layers = [np.asarray(noise.resize((TEXELS, TEXELS)), dtype=np.uint16) for noise in noises]
    return (sum(layers) // len(layers)).astype(np.uint8)


def _photograph(pose: np.ndarray, textures: list[np.ndarray]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    local = np.stack([(x - WIDTH / 2) / FOCAL, -(y - HEIGHT / 2) / FOCAL, -np.ones_like(x)], axis=-1)
    rays, origin = local @ pose[:3, :3].T, pose[:3, 3]
    distance, colour = _cast(origin, rays, 2.2, far=True, textures=np.stack(textures[:6]))
    nearer, front = _cast(origin, rays, 0.5, far=False, textures=np.stack(textures[6:]))
    return np.where((nearer < distance)[..., None], front, colour)


def _cast(
    origin: np.ndarray, rays: np.ndarray, half: float, *, far: bool, textures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(distance, colour) where rays meet the far or near sides of the cube [-half, half]^3; infinity for a miss."""
    both = np.stack([(-half - origin) / rays, (half - origin) / rays])
    enter, leave = both.min(axis=0).max(axis=-1), both.max(axis=0).min(axis=-1)
    distance = leave if far else np.where((enter < leave) & (enter > 0), enter, np.inf)
    points = origin + rays * np.where(np.isfinite(distance), distance, 0.0)[..., None]
    axis = np.abs(points).argmax(axis=-1)
    positive = np.take_along_axis(points, axis[..., None], axis=-1)[..., 0] > 0
    u, v = (np.take_along_axis(points, ((axis + step) % 3)[..., None], axis=-1)[..., 0] for step in (1, 2))
    i, j = (((value / half + 1) / 2 * TEXELS).astype(int).clip(0, TEXELS - 1) for value in (u, v))
    return distance, textures[2 * axis + positive, i, j]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)


class Bucket:
    """An S3 bucket that anybody may read."""

    def __init__(self, endpoint_url, backend, name):
        self.endpoint_url = endpoint_url
        self.url = f"s3://{name}/EyefulTower"
        self._backend = backend
        self._name = name

    def put(self, key, content, *, public=True):
        """Store an object under any key, also one that clients would not send."""
        from moto.s3.models import get_canned_acl

        stored = self._backend.put_object(self._name, f"EyefulTower/{key}", content)
        if public:
            stored.set_acl(get_canned_acl("public-read"))
        return stored

    def put_folder(self, folder, under=""):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(under + path.relative_to(folder).as_posix(), path.read_bytes())

    def delete(self, key):
        self._backend.delete_object(self._name, f"EyefulTower/{key}")


@pytest.fixture(scope="session")
def s3_server():
    """(address, backend) of an S3 server; started once, as that takes seconds."""
    with warnings.catch_warnings():
        # Of the server's own dependencies.
        warnings.simplefilter("ignore")
        moto_server = pytest.importorskip("moto.server")
        from moto.s3.models import s3_backends

        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}", s3_backends["123456789012"]["aws"]
    server.stop()


@pytest.fixture
def bucket(s3_server, request) -> Bucket:
    endpoint_url, backend = s3_server
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"[:40]
    backend.create_bucket(name, "us-east-1")
    return Bucket(endpoint_url, backend, name)


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


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
