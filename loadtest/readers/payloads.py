"""Prints the table of docs/readers.md: which payloads make which reader fail on a whole object. README.md says how to run it.

Each payload is in a record, as the server stores it by default, between ordinary lines. "fails" means that the reader returns
no line of the object.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import duckdb
import pandas
import pyarrow.json
from pyspark.sql import SparkSession

LINES = 4
TOOL_SECONDS = 60


def nested(levels: int) -> str:
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


# What it is, the payload, and whether READERS=strict rejects it.
PAYLOADS: list[tuple[str, str, bool]] = [
    ('`{"a":1,"a":2}`', '{"a":1,"a":2}', True),
    (r'`{"a":1,"\u0061":2}`', r'{"a":1,"\u0061":2}', True),
    ('`{"a":1,"A":2}`', '{"a":1,"A":2}', True),
    ('the same, nested: `{"o":{"a":1,"A":2}}`', '{"o":{"a":1,"A":2}}', True),
    ('the same, in a list: `{"l":[{"a":1,"A":2}]}`', '{"l":[{"a":1,"A":2}]}', True),
    ('`{"É":1,"é":2}`', '{"É":1,"é":2}', True),
    ("an integer of 64 bits, 18446744073709551615", '{"a":18446744073709551615}', False),
    ("an integer of 65 bits, 18446744073709551616", '{"a":18446744073709551616}', True),
    ("an integer of 1,001 digits", '{"a":' + "1" * 1001 + "}", True),
    ("an integer of 4,301 digits", '{"a":' + "1" * 4301 + "}", True),
    ("a fraction of 5,000 digits", '{"a":0.' + "1" * 5000 + "}", True),
    ("`1e400`", '{"a":1e400}', True),
    ("`1e-400`", '{"a":1e-400}', False),
    ("`-0` and `-0.0`", '{"a":-0,"b":-0.0}', False),
    ('the texts `"NaN"` and `"Infinity"`', '{"a":"NaN","b":"Infinity"}', False),
    ('an empty name, `{"":1}`', '{"":1}', False),
    (r"`\u0000` in a name", r'{"a\u0000b":1}', False),
    (r"`\u0000` in a text", r'{"a":"\u0000"}', False),
    ('a dot in a name, `{"a.b":1,"a":{"b":2}}`', '{"a.b":1,"a":{"b":2}}', False),
    (r"noncharacters, `\uffff`", r'{"a\uffff":"\uffff\ufdd0"}', False),
    ("a name of 100,000 bytes", '{"' + "k" * 100_000 + '":1}', True),
    ("a text of a million bytes", '{"a":"' + "v" * 1_000_000 + '"}', False),
    ("5,000 members", "{" + ",".join(f'"k{n}":{n}' for n in range(5000)) + "}", False),
    ("nested 127 deep", nested(127), False),
    ("nested 128 deep", nested(128), True),
    ("half of a surrogate pair (always rejected)", r'{"a":"\ud800"}', True),
    ("a number where others have an object", '{"o":7}', False),
]


def lines(payload: str) -> str:
    ordinary = [json.dumps({"seq": seq, "o": {"b": seq}}) for seq in range(LINES - 1)]
    payloads = [ordinary[0], payload, *ordinary[1:]]
    before = '{"received_at":"2026-11-20T22:11:39.930Z","request_id":"r","payload":'
    return "".join(f"{before}{payload}}}\n" for payload in payloads)


def duck(path: Path) -> int:
    with duckdb.connect() as engine:
        return len(engine.execute(f"SELECT payload, request_id FROM read_ndjson('{path}')").fetchall())


def python(path: Path) -> int:
    return sum(1 for line in path.read_text().split("\n")[:-1] if json.loads(line))


def jq(path: Path) -> int:
    done = subprocess.run(["jq", "-c", ".", path], capture_output=True, check=True, timeout=TOOL_SECONDS)
    return done.stdout.count(b"\n")


class Spark:
    def __init__(self) -> None:
        builder = SparkSession.builder.master("local[1]")
        for name, value in {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.log.level": "OFF",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()

    def read(self, path: Path) -> int:
        records = self.session.read.json(str(path))
        rows = records.collect()
        if "_corrupt_record" in records.columns:
            raise LookupError("_corrupt_record")
        return len(rows)


def outcome(read: Callable[[Path], int], path: Path) -> str:
    try:
        rows = read(path)
    except LookupError:
        return "loses the line"
    # Whatever it raises, the object is not read.
    except Exception:  # noqa: BLE001
        return "**fails**"
    return "reads" if rows == LINES else f"**reads {rows} of {LINES} lines**"


def main() -> None:
    warnings.filterwarnings("ignore")
    jq_version = subprocess.run(["jq", "--version"], capture_output=True, check=True, text=True).stdout.strip()
    readers: dict[str, Callable[[Path], int]] = {
        f"DuckDB {version('duckdb')}": duck,
        f"Spark {version('pyspark')}": Spark().read,
        f"pandas {version('pandas')}": lambda path: len(pandas.read_json(path, lines=True)),
        f"Arrow {version('pyarrow')}": lambda path: pyarrow.json.read_json(path).num_rows,
        f"Python {sys.version.split()[0]}": python,
        jq_version.replace("-", " "): jq,
    }
    print("| payload | `READERS=strict` | " + " | ".join(readers) + " |")
    print("| --- " * (len(readers) + 2) + "|")
    with tempfile.TemporaryDirectory(prefix="millpond-payloads-") as folder:
        path = Path(folder) / "object.ndjson"
        for what, payload, is_rejected in PAYLOADS:
            path.write_text(lines(payload))
            outcomes = [outcome(read, path) for read in readers.values()]
            print(f"| {what} | {'rejected' if is_rejected else 'accepted'} | " + " | ".join(outcomes) + " |")


if __name__ == "__main__":
    main()
