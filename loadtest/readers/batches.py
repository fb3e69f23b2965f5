"""What is sent, and what a reader must therefore see."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

BATCHES = 300
PAYLOADS_A_BATCH = 10
# These are larger than the buffers that readers fill, so that a frame begins in one and ends in another.
LARGE_BATCHES = {50, 150, 250}
LARGE_PAYLOAD_BYTES = 60_000

TOKEN = "reader-check"
VERSION = "1.50"

# As they are written in JSON: escapes that are needed and escapes that are not, text beyond the basic plane both ways,
# and the characters at which careless readers break lines or end strings.
TEXTS = [
    "plain",
    r"quote \" backslash \\ slash \/ tab \t",
    r"line feed \n carriage return \r\n",
    r"escaped caf\u00e9 and a duck \ud83e\udd86",
    "raw café, 水車, a duck \N{DUCK}",
    "raw separators \N{LINE SEPARATOR} \N{PARAGRAPH SEPARATOR} \N{NEXT LINE}",
    r"looks like the end \"}} {\"payload\":{",
    r"a null \u0000 in the midst",
    "",
]

# Beyond 2^53: a reader that takes every number for a double would alter it.
BIG = 9_007_199_254_740_993


@dataclass(frozen=True)
class Seen:
    """A payload as a query engine sees it, with the batch's fields."""

    seq: int
    amount: float
    big: int
    flag: bool | None
    text: str
    place: str
    last_x: float
    token: str | None
    version: str | None


@dataclass(frozen=True)
class Payload:
    """One payload: as JSON in the batch, as bytes in its line, as values in a row."""

    sent: str
    stored: bytes
    seen: Seen


@dataclass(frozen=True)
class Batch:
    """One request's body, and what is in it."""

    body: bytes
    payloads: list[Payload]


def batches() -> Iterator[Batch]:
    """Numbers its payloads from 0 without a gap, and is the same in every run."""
    noise = random.Random(1)
    seq = 0
    for number in range(BATCHES):
        # The others are bare arrays, whose lines have no token and no version.
        has_envelope = number % 3 != 0
        payloads = []
        for _ in range(PAYLOADS_A_BATCH):
            filler = noise.randbytes(LARGE_PAYLOAD_BYTES // 2).hex() if number in LARGE_BATCHES else ""
            payloads.append(_payload(seq, filler, has_envelope))
            seq += 1
        data = "[" + ",".join(payload.sent for payload in payloads) + "]"
        body = f'{{"version":"{VERSION}","token":"{TOKEN}","data":{data}}}' if has_envelope else data
        yield Batch(body.encode(), payloads)


def _payload(seq: int, filler: str, has_envelope: bool) -> Payload:
    text = TEXTS[seq % len(TEXTS)] + filler
    # Halves, since their sum is exact in any order; written in the ways that JSON has.
    amount = f"{seq}.50" if seq % 2 else f"{seq}5e-1" if seq else "0.5"
    flag = ["true", "false", "null"][seq % 3]
    points = f'[{{"x":{seq}.25,"y":[1,2]}},{{"x":-{seq}.50,"y":[]}}]'
    sent = (
        f'{{"seq":{seq},"amount":{amount},"big":{BIG + seq},"flag":{flag},"text":"{text}",'
        f'"place":{{"name":"mill \\u0023{seq} «ä»","points":{points},"none":{{}}}}}}'
    )
    if seq % 5 == 0:
        # Line breaks between tokens, which the server stores as spaces.
        sent = sent.replace(',"', ',\r\n\t"')
    seen = Seen(
        seq=seq,
        amount=seq + 0.5,
        big=BIG + seq,
        flag=json.loads(flag),
        text=json.loads(f'"{text}"'),
        place=f"mill #{seq} «ä»",
        last_x=-seq - 0.5,
        token=TOKEN if has_envelope else None,
        version=VERSION if has_envelope else None,
    )
    return Payload(sent, sent.replace("\r", " ").replace("\n", " ").encode(), seen)
