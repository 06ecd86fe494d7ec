"""Damage bytes as transport, disks and attackers do; the same seed gives the same damage."""

import random
from collections.abc import Callable, Sequence

# What length and size fields are wrong with: nothing, off by one, the largest of every width.
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutate(samples: Sequence[bytes], seed: str, index: int) -> bytes:
    """Return the damaged input of that number; every hundredth is a sample as it is."""
    generator = random.Random(f"{seed}/{index}")
    data = bytearray(generator.choice(samples))
    if index % 100 == 0:
        return bytes(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 5, 12))):
        generator.choice(DAMAGE)(data, generator, samples)
    return bytes(data)


Damage = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _place(data: bytearray, generator: random.Random) -> int:
    """Headers are where readers decide, so half of the damage is done in the first bytes."""
    limit = len(data) if generator.random() < 0.5 else min(len(data), 128)
    return generator.randrange(max(1, limit))


def _flip(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    if data:
        data[_place(data, generator)] ^= 1 << generator.randrange(8)


def _replace(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    if data:
        data[_place(data, generator)] = generator.randrange(256)


def _number(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    width, order = generator.choice((1, 2, 4, 8)), generator.choice(("little", "big"))
    value = generator.choice(INTERESTING) & ((1 << 8 * width) - 1)
    place = _place(data, generator)
    data[place : place + width] = value.to_bytes(width, order)


def _insert(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    place = _place(data, generator)
    data[place:place] = generator.randbytes(generator.choice((1, 2, 4, 30)))


def _remove(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    place = _place(data, generator)
    del data[place : place + generator.choice((1, 2, 4, 30))]


def _repeat(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    place, length = _place(data, generator), generator.choice((2, 8, 64))
    data[place:place] = data[place : place + length] * generator.choice((1, 3, 50))


def _cut(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    del data[generator.randrange(len(data) + 1) :]


def _splice(data: bytearray, generator: random.Random, samples: Sequence[bytes]) -> None:
    other = generator.choice(samples)
    data[_place(data, generator) :] = other[generator.randrange(len(other) + 1) :]


DAMAGE: Sequence[Damage] = (_flip, _flip, _replace, _number, _number, _insert, _remove, _repeat, _cut, _splice)
