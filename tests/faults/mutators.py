"""Ways to spoil a file: blind blows at its bytes, and blows that know the format, so that they get past its checksums.

Every mutation follows from the generator it is given: the same seed spoils the same file in the same way.
"""

import copy
import io
import json
import random
import struct
import zipfile
import zlib

SECRET = "/etc/passwd"
"""What no file may lead to."""
WORDS = [
    *(struct.pack("<I", word) for word in (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00010000)),
    *(struct.pack(">I", word) for word in (1, 0x7FFFFFFF, 0x80000001, 0x10000)),
    *(struct.pack("<Q", word) for word in (0, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    struct.pack("<f", float("nan")),
    struct.pack("<f", float("inf")),
    struct.pack("<d", float("-inf")),
]
"""Counts, sizes and numbers that no file means."""
VALUES = [
    None, True, False, 0, 1, -1, 2, 255, 2**31, -(2**31), 2**63, 10**30, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), "", "0", "nan", "\0", "x" * 5000, "../outside/secret.png", SECRET, "../../outside", ".", "..",
    "~", f"file://{SECRET}", "\ud800", [], [[]], {}, {"a": 1}, [0, 1, 2], [None], [1e400] * 3,
]  # fmt: skip
"""What may stand where something else is expected."""


def blind(raw: bytes, draw: random.Random) -> bytes:
    """One to four blows at bytes, whatever they mean."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _strike(changed, draw)
    return bytes(changed)


def _strike(changed: bytearray, draw: random.Random) -> None:
    # Half of the blows hit the beginning, where descriptors stand.
    reach = min(len(changed), draw.choice((128, 1024, len(changed), len(changed)))) or 1
    at = draw.randrange(reach)
    span = min(draw.choice((1, 2, 8, 64, 1024)), len(changed) - at)
    blow = draw.randrange(10)
    if blow < 3:
        for _ in range(draw.choice((1, 1, 2, 8))):
            if changed:
                changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    elif blow < 5:
        word = draw.choice(WORDS)
        at -= at % draw.choice((1, 4))
        changed[at : at + len(word)] = word
    elif blow == 5:
        del changed[draw.randrange(len(changed) + 1) :]
    elif blow == 6:
        del changed[at : at + span]
    elif blow == 7:
        changed[at:at] = changed[at : at + span] * draw.choice((1, 1, 3, 64))
    elif blow == 8:
        changed[at : at + span] = draw.randbytes(span)
    else:
        changed[at:at] = draw.randbytes(span)


def as_json(raw: bytes, draw: random.Random) -> bytes:
    """One to three values of a JSON document, anywhere in it, replaced, removed or repeated."""
    try:
        document = json.loads(raw)
    except ValueError:
        return blind(raw, draw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        document = _changed(document, draw)
    if draw.random() < 0.02:
        document = [document] * draw.choice((1, 2))
    text = json.dumps(document)
    if draw.random() < 0.02:
        text = text.replace("{", "[" * 5000, 1)
    return text.encode("utf-8", "surrogatepass" if draw.random() < 0.3 else "replace")


def _changed(node, draw: random.Random):
    """``node`` with something below it changed; the deeper the likelier."""
    children = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not children or draw.random() < 0.08:
        return _instead(node, draw)
    key = draw.choice(children)
    blow = draw.random()
    if blow < 0.06:
        del node[key]
    elif blow < 0.10 and isinstance(node, list):
        node.extend(copy.deepcopy(node[key]) for _ in range(draw.choice((1, 3, 50))))
    elif blow < 0.14 and isinstance(node, dict):
        node[draw.choice((*children, "extra", ""))] = node.pop(key)
    elif blow < 0.3:
        node[key] = _instead(node[key], draw)
    else:
        node[key] = _changed(node[key], draw)
    return node


def _instead(value, draw: random.Random):
    """Another value: of the same kind, or any."""
    if isinstance(value, bool) or draw.random() < 0.5:
        return copy.deepcopy(draw.choice(VALUES))
    if isinstance(value, int):
        return value + draw.choice((-1, 1, 2, 1000, -1000, 2**31))
    if isinstance(value, float):
        return value * draw.choice((0.0, -1.0, 1e-30, 1e30)) + draw.choice((0.0, 1e-3))
    if isinstance(value, str):
        return draw.choice((value[1:], value + value, value.upper(), f"../{value}", f"/{value}", f"{value}\0"))
    return copy.deepcopy(draw.choice(VALUES))


def as_zip(raw: bytes, draw: random.Random) -> bytes:
    """A member of an archive spoiled, and the archive's checksums made good; sometimes a member is lost or renamed."""
    if draw.random() < 0.25:
        return blind(raw, draw)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = [(entry.filename, entry.compress_type, archive.read(entry)) for entry in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
        return blind(raw, draw)
    at = draw.randrange(len(members))
    name, kind, content = members[at]
    blow = draw.random()
    if blow < 0.05:
        del members[at]
    elif blow < 0.1:
        members[at] = draw.choice(("../../outside/new.npy", f"{name}x", members[0][0])), kind, content
    elif name.endswith(".npy") and blow < 0.6:
        members[at] = name, kind, as_npy(content, draw)
    else:
        members[at] = name, kind, blind(content, draw)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, kind, content in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = kind
            archive.writestr(entry, content)
    return stream.getvalue()


def as_npy(raw: bytes, draw: random.Random) -> bytes:
    """A ``.npy`` whose header says something else and is as long as it says."""
    if draw.random() < 0.4 or raw[:6] != b"\x93NUMPY":
        return blind(raw, draw)
    (length,) = struct.unpack_from("<H", raw, 8)
    header = raw[10 : 10 + length].decode("latin-1").rstrip()
    header = draw.choice(
        (
            header.replace("<f4", draw.choice(("|O", "<f8", "<f2", ">f4", "|V4", "<U9999999", "<M8[s]", "<c8", "<i4"))),
            header.replace("(", f"({draw.choice((0, -1, 2, 2**31, 2**62, 10**30))}, "),
            header.replace("False", draw.choice(("True", "None", "__import__('os').system('touch outside/ran')"))),
            header.replace("'shape'", draw.choice(("'shap'", "shape", "'shape': (1,), 'shape'"))),
            header[: draw.randrange(len(header))],
            "(" * 3000 + header,
        )
    )
    coded = header.encode("latin-1") + b"\n"
    return raw[:8] + struct.pack("<H", len(coded) & 0xFFFF) + coded + raw[10 + length :]


def as_png(raw: bytes, draw: random.Random) -> bytes:
    """A chunk of a PNG spoiled, with the checksum it then must have."""
    if draw.random() < 0.4:
        return blind(raw, draw)
    chunks, at = [], 8
    while at + 12 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        chunks.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return blind(raw, draw)
    at = draw.randrange(len(chunks))
    kind, body = chunks[at]
    if kind == b"IDAT" and draw.random() < 0.5:
        try:
            body = zlib.compress(blind(zlib.decompress(body), draw))
        except zlib.error:
            body = blind(body, draw)
    else:
        body = blind(body, draw) if body else draw.randbytes(4)
    chunks[at] = draw.choice((kind, kind, kind, b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"acTL")), body
    if draw.random() < 0.1:
        chunks.insert(at, draw.choice(chunks))
    parts = [raw[:8]]
    for kind, body in chunks:
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def as_safetensors(raw: bytes, draw: random.Random) -> bytes:
    """The JSON header of a safetensors file spoiled, and its length made good."""
    if draw.random() < 0.3:
        return blind(raw, draw)
    (length,) = struct.unpack_from("<Q", raw)
    if length > len(raw) - 8:
        return blind(raw, draw)
    header = as_json(raw[8 : 8 + length], draw)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def as_vxv(raw: bytes, draw: random.Random) -> bytes:
    """The directory of a compressed volume spoiled, with the length and the checksum it then must have."""
    if draw.random() < 0.3:
        return blind(raw, draw)
    magic, version, length, _ = struct.unpack_from("<8sIII", raw)
    directory = as_json(raw[20 : 20 + length], draw)
    sections = raw[20 + length :]
    return struct.pack("<8sIII", magic, version, len(directory), zlib.crc32(directory)) + directory + sections


def as_text(raw: bytes, draw: random.Random) -> bytes:
    """Words of a text, or of the text before the bytes, replaced."""
    if draw.random() < 0.4:
        return blind(raw, draw)
    words = raw.split(b" ")
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(min(len(words), draw.choice((12, 60, len(words)))))
        odd = (b"-1", b"nan", b"inf", b"1e400", b"99999999999", b"2147483648", b"", b"x", b"\n", b"0", b"1" * 400)
        words[at] = draw.choice((*odd, b"\xff\xfe", b"list uchar int", words[at] * 3, b"../outside/secret.png"))
    return b" ".join(words)


def as_xml(raw: bytes, draw: random.Random) -> bytes:
    """A text, sometimes with entities that would grow or lead out of the file."""
    if draw.random() < 0.1:
        bomb = b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + b"".join(
            f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">'.encode() for i in range(9)
        )
        leak = f'<!DOCTYPE d [<!ENTITY j SYSTEM "file://{SECRET}">'.encode()
        start = raw.find(b"<", raw.find(b"?>") + 1)
        middle = raw.find(b">", len(raw) // 2) + 1
        return raw[:start] + draw.choice((bomb, leak)) + b"]>" + raw[start:middle] + b"&j;" + raw[middle:]
    return as_text(raw, draw)
