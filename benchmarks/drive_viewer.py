"""The viewer in a process of its own, as `viewing.py` asks for it: what it serves is taken by a client elsewhere."""

import time
from typing import Any

from alternation import serve


def prepare(order: dict[str, Any]) -> dict[str, Any]:
    """Answers ``wake`` when it is ready; asked to ``open``, it serves ``order["path"]`` and says where and how soon."""
    import voxfield.api.viewing  # with torch: the program's start is not the viewer's

    shown: list[Any] = []

    def wake(_count: int) -> None:
        """Answer once all is imported."""

    def begin(_count: int) -> dict[str, Any]:
        began = time.perf_counter()
        shown.append(voxfield.api.viewing.view(order["path"], port=0, quiet=True))
        return {"url": shown[-1].url, "seconds": time.perf_counter() - began}

    return {"wake": wake, "open": begin}


if __name__ == "__main__":
    serve(prepare)
