"""Seeds of random numbers for many purposes, from the one of a run."""

import hashlib


def mix(seed: int, purpose: str, number: int) -> int:
    """A 63-bit seed that differs wherever any part does.

    In its lower 32 bits too, which are all that torch's generators on a CPU take: seeds that differ only above give the
    same numbers.
    """
    text = f"{seed}/{purpose}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
