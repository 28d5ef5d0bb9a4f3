"""``viewer``: how soon the viewer shows something, how many pictures follow a moving camera, and when one is whole.

The viewer runs in a process of its own and is looked at by a client that speaks as viser's page does: it connects, says
where its camera is, and takes the pictures that come. It draws nothing, which leaves the viewer the processor that a
browser on the same machine would share; ``--browser`` times the first picture of Chromium too.
"""

import argparse
import io
import itertools
import math
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from alternation import Driver
from chromium import chromium, screenshot
from measuring import measured_row

HELP = "the viewer's first picture, pictures while the camera moves, and the whole picture after it rests"
WIDTH, HEIGHT = 800, 600
CAMERAS_PER_SECOND = 30
"""How often the client says where its camera is while it moves, as a page does."""
PAGES_BEGIN_AT = (3.0, 3.0, 3.0)
"""Where viser's page has its camera before it is told."""
FIRST, MOVING, RESTED, VOLUME = 1.5, 10.0, 5.0, 2.0
"""What is aimed at, on 2 cores: seconds, pictures a second, seconds, seconds."""
PATIENCE = 300.0
OPENINGS = 5
"""Of the page in Chromium, the first of which is the browser's own first."""


@dataclass(frozen=True)
class Seen:
    """A picture that came."""

    at: float
    """When, by `time.perf_counter`."""
    width: int
    height: int
    bytes: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``viewer``."""
    parser.add_argument("--run", type=Path, help="a run to look at; left out: only a volume is")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the camera moves")
    parser.add_argument("--radius", type=int, default=141, help="of the volume: a shell 4 voxels thick")
    parser.add_argument("--browser", action="store_true", help="also a page in Chromium")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a run, where one is named, and of a volume of about a million active voxels."""
    rows = [] if options.run is None else of_run(options.run, options.seconds, browser=options.browser)
    with tempfile.TemporaryDirectory(prefix="voxfield-viewer-") as folder:
        file = Path(folder) / "shell.vdb"
        active = write_shell(file, options.radius)
        return rows + of_volume(file, active)


# --------------------------------------------------------------------------------------------------------- what is seen
def of_run(path: Path, seconds: float, *, browser: bool) -> list[dict[str, Any]]:
    """A run: opened, looked at, walked around, looked at in peace."""
    rows = []
    with serving(path) as (url, opening, _started, _asked):
        began = time.perf_counter()
        page = len(fetch(url))
        with Client(url) as client:
            client.look()
            first = client.wait()
            rows.append(measured_row("the page opens: seconds to the first picture", first.at - began, "s", bar=FIRST))
            client.wait(lambda seen: seen.height >= HEIGHT)  # all kernels are loaded, and rays were timed
            pictures, rested = client.turn(seconds)
            whole = client.wait(lambda seen: seen.at > rested and seen.height >= HEIGHT)
            rate = len(pictures) / seconds
            rows.append(measured_row("pictures a second while the camera moves", rate, "1/s", bar=MOVING))
            waits = [after.at - before.at for before, after in itertools.pairwise(pictures)]
            rows.append(measured_row("longest wait for one of them", max(waits, default=None), "s"))
            tall = statistics.median(seen.height for seen in pictures) if pictures else None
            rows.append(measured_row("their rows, of 600", tall, "rows"))
            rows.append(measured_row("rest to the whole 800 x 600 picture", whole.at - rested, "s", bar=RESTED))
        if browser:
            opened = in_chromium(url)
            middle = statistics.median(opened)
            what = "the page opens in Chromium, WebGL in software: seconds to the first picture"
            rows.append(measured_row(what, middle, "s", best=min(opened), bar=FIRST))
    rows.append(measured_row("opening the run, before its page can be asked for", opening, "s"))
    rows.append(measured_row("the page itself", page, "B"))
    return rows


def of_volume(file: Path, active: int) -> list[dict[str, Any]]:
    """A volume: from asking for it to be opened to the first picture of it, and to the whole one."""
    with serving(file) as (url, opening, started, began):
        fetch(url)
        with Client(url) as client:
            client.look()
            first = client.wait()
            whole = client.wait(lambda seen: seen.height >= HEIGHT)
    what = f"`.vdb` of {active:,} active voxels"
    return [
        measured_row(f"{what}: opening it to the first picture", first.at - began, "s", bar=VOLUME),
        measured_row(f"{what}: reading and laying it out, of that", opening, "s"),
        measured_row(f"{what}: opening it to the whole 800 x 600 picture", whole.at - began, "s"),
        measured_row(f"{what}: start of the program to the first picture", first.at - started, "s"),
    ]


def write_shell(file: Path, radius: int) -> int:
    """A shell of density, 4 voxels thick: 4 x 4 pi radius^2 active voxels, a million for 141; returns how many."""
    from voxfield.storage.vdb import VdbGrid, write_vdb
    from voxfield.voxels.sparse import SparseVolume

    side = 2 * radius + 8
    across = (np.arange(side, dtype=np.float32) - side / 2) ** 2
    near = np.abs(np.sqrt(across[:, None, None] + across[:, None] + across) - radius)
    density = np.where(near < 2.0, 1.0 - near / 4.0, 0.0).astype(np.float32)
    volume = SparseVolume.from_dense(density)
    write_vdb(file, [VdbGrid(name="density", volume=volume, grid_class="fog volume")])
    return volume.active_count


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, float, float, float]]:
    """The viewer of ``path``: its URL, the seconds its opening took, when it was started, and when asked to open it."""
    with tempfile.TemporaryDirectory(prefix="voxfield-viewer-") as folder:
        started = time.perf_counter()
        driver = Driver(sys.executable, "drive_viewer.py", {"path": str(path.resolve())}, Path(folder) / "log.txt")
        try:
            driver.ask("wake")
            began = time.perf_counter()
            opened = driver.ask("open")
            yield opened["url"], opened["seconds"], started, began
        finally:
            driver.close()


def in_chromium(url: str) -> list[float]:
    """Seconds from opening the page in Chromium, which runs already, until its canvas is no longer of one colour."""
    seconds = []
    with chromium(WIDTH, HEIGHT) as window:
        for _ in range(OPENINGS):
            window.get("about:blank")
            began = time.perf_counter()
            window.get(url)
            # The panel covers the right of the page.
            while screenshot(window)[: HEIGHT * 3 // 4, : WIDTH // 2].std() < 2.0:
                if time.perf_counter() - began > PATIENCE:
                    raise SystemExit(f"viewer: Chromium showed no picture in {PATIENCE:.0f} s.")
            seconds.append(time.perf_counter() - began)
    return seconds


def fetch(url: str) -> bytes:
    """The page, as a browser asks for it."""
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


# ----------------------------------------------------------------------------------------------------------- the client
class Client:
    """What viser's page says and is told; pictures are noted as they come, and not drawn."""

    def __init__(self, url: str, *, width: int = WIDTH, height: int = HEIGHT) -> None:
        """Connect; nothing is seen before `look`."""
        import viser
        from websockets.sync.client import connect

        self._size, self._seen, self._came = (width, height), list[Seen](), threading.Condition()
        self.position, self.look_at = np.array(PAGES_BEGIN_AT), np.zeros(3)
        self._socket = connect(
            url.replace("http:", "ws:"),
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            proxy=None,
            max_size=None,
            compression=None,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        self._socket.close()

    def look(self, position: np.ndarray | None = None) -> None:
        """Say that the camera is here, looking where it was told to; None: where it is."""
        import msgspec
        from viser._messages import ViewerCameraMessage

        eye = self.position if position is None else position
        message = ViewerCameraMessage(
            wxyz=quaternion_towards(self.look_at - eye),
            position=tuple(eye.tolist()),
            fov=math.radians(50.0),
            near=0.01,
            far=1000.0,
            image_height=self._size[1],
            image_width=self._size[0],
            look_at=tuple(self.look_at.tolist()),
            up_direction=(0.0, 0.0, 1.0),
        )
        self._socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def wait(self, wanted: Callable[[Seen], bool] = lambda _: True) -> Seen:
        """The first picture that is wanted, of those that came and that will."""
        end = time.perf_counter() + PATIENCE
        with self._came:
            while (found := next((seen for seen in self._seen if wanted(seen)), None)) is None:
                if not self._came.wait(timeout=max(0.0, end - time.perf_counter())):
                    raise SystemExit(f"viewer: no picture came in {PATIENCE:.0f} s.")
        return found

    def turn(self, seconds: float) -> tuple[list[Seen], float]:
        """Walk a third of the way around; the pictures that came meanwhile, and when the camera came to rest."""
        start, around = self.position.copy(), self.look_at
        began = time.perf_counter()
        for step in range(1, int(seconds * CAMERAS_PER_SECOND) + 1):
            angle = step / (seconds * CAMERAS_PER_SECOND) * 2 * math.pi / 3
            turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            away = start - around
            self.position = around + np.array([*(turned @ away[:2]), away[2]])
            time.sleep(max(0.0, began + step / CAMERAS_PER_SECOND - time.perf_counter()))
            self.look()
        rested = time.perf_counter()
        with self._came:
            return [seen for seen in self._seen if began < seen.at <= rested], rested

    def _listen(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                self._take(messages_of(self._socket.recv()))
        except ConnectionClosed:
            return

    def _take(self, messages: list[dict[str, Any]]) -> None:
        from PIL import Image

        for message in messages:
            if message.get("initial"):
                continue  # Where it would come back to.
            if message["type"] == "SetCameraPositionMessage":
                self.position = np.array(message["position"])
            elif message["type"] == "SetCameraLookAtMessage":
                self.look_at = np.array(message["look_at"])
            elif message["type"] == "BackgroundImageMessage" and message["rgb_data"]:
                at = time.perf_counter()
                width, height = Image.open(io.BytesIO(message["rgb_data"])).size
                with self._came:
                    self._seen.append(Seen(at, width, height, len(message["rgb_data"])))
                    self._came.notify_all()


def messages_of(packet: bytes) -> list[dict[str, Any]]:
    """What viser packed: sizes before and after compression, 8 bytes each, then the messages, then arrays."""
    import msgspec
    import zstandard

    size = int.from_bytes(packet[:8], "little")
    packed = packet[16 : 16 + int.from_bytes(packet[8:16], "little")]
    content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed, max_output_size=size))
    return list(content["messages"])


def quaternion_towards(ahead: np.ndarray) -> tuple[float, float, float, float]:
    """(w, x, y, z) of a camera that looks ahead with +Z up: its axes are x right, y down, z ahead."""
    import viser.transforms

    z = ahead / np.linalg.norm(ahead)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x = x / np.linalg.norm(x) if np.linalg.norm(x) > 1e-9 else np.array([1.0, 0.0, 0.0])
    w, *rest = viser.transforms.SO3.from_matrix(np.stack([x, np.cross(z, x), z], axis=1)).wxyz.tolist()
    return w, rest[0], rest[1], rest[2]
