"""Bodies that no client of ours sends: valid ones with bytes changed, and bytes at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# What decoders are tripped by: ends of UTF-8 and msgpack's ranges, NUL, JSON's own characters.
ODD = (b"\0", b"\x7f", b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xed\xa0\x80", b"\xff", b"\xd9\xff",
       b"\xdf\xff\xff\xff\xff", b'"', b"\\u0000", b"\\ud800", b"{", b"[", b"[" * 3000, b"}", b"]",
       b",", b":", b"-", b"1e999", b"9" * 5000, b"NaN", b"null", b"true", b" ")  # fmt: skip


def bodies(valid: Sequence[bytes], count: int, *, seed: int = 0) -> Iterator[bytes]:
    """So many bodies, the same at every run: three of four are mutations of the valid ones."""
    rng = random.Random(seed)
    for index in range(count):
        if index % 4 == 3:
            yield rng.randbytes(rng.randrange(64))
        else:
            yield mutation(rng, rng.choice(valid), rng.choice(valid))


def mutation(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """The body with one to four changes; some splice in a piece of the other."""
    for _ in range(rng.randint(1, 4)):
        first, last = sorted(rng.randrange(len(body) + 1) for _ in range(2))
        piece = sorted(rng.randrange(len(other) + 1) for _ in range(2))
        body = rng.choice(
            (
                body[:first] + rng.choice(ODD) + body[first:],
                body[:first] + rng.choice(ODD) + body[first + 1 :],
                body[:first] + rng.randbytes(1) + body[first + 1 :],
                body[:first] + rng.randbytes(rng.randrange(9)) + body[last:],
                body[:first] + other[piece[0] : piece[1]] + body[first:],
                body[:first],
            )
        )
    return body
