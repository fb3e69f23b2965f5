"""The readers. Each reads a whole store its own way and says what is wrong with what it saw."""

import functools
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import duckdb
import zstandard
from pyspark.sql import SparkSession

from batches import Payload
from objects import EXTENSIONS, Partition, lines_by_partition, stored_in

TOOL_SECONDS = 60
CHILD_SECONDS = 10


class Wrong(Exception):
    """A reader saw something else than what was sent."""


class Skipped(Exception):
    """A reader is not on this machine."""


class Case:
    """A store, and what was sent into it."""

    def __init__(self, compression: str, store: Path, payloads: list[Payload]) -> None:
        self.compression = compression
        self.store = store
        self.payloads = payloads
        self.objects = stored_in(store, compression)
        self.paths = [stored_object.path for stored_object in self.objects]

    def check_lines(self, lines: Iterable[bytes]) -> None:
        """Every payload in one line, byte for byte."""
        seen: Counter[int] = Counter()
        altered = 0
        for line in lines:
            seq = json.loads(line)["payload"]["seq"]
            seen[seq] += 1
            altered += not line.endswith(b'"payload":' + self.payloads[seq].stored + b"}\n")
        self._verdict(seen, altered)

    def check_rows(self, rows: Iterable[tuple], total: float, partitions: Counter[Partition]) -> None:
        """Every payload in one row with its values; `total` is the sum of `amount` as the engine makes it."""
        seen: Counter[int] = Counter()
        altered = []
        for row in rows:
            seq = row[0]
            seen[seq] += 1
            if row != astuple(self.payloads[seq].seen):
                altered.append(row)
        self._verdict(seen, len(altered), f", such as {altered[0]}" if altered else "")
        expected = sum(payload.seen.amount for payload in self.payloads)
        if total != expected:
            raise Wrong(f"the sum of the amounts is {total}, not {expected}")
        if partitions != lines_by_partition(self.objects):
            raise Wrong(f"rows by dt and hr are {partitions}, not {lines_by_partition(self.objects)}")

    def _verdict(self, seen: Counter[int], altered: int, such_as: str = "") -> None:
        lost = len(self.payloads) - len(seen)
        repeated = seen.total() - len(seen)
        if lost or repeated or altered:
            raise Wrong(f"{lost} payloads lost, {repeated} repeated, {altered} altered{such_as}")


def command(case: Case, program: str) -> None:
    """zcat, zstdcat and cat: all objects one after the other on standard output."""
    if not shutil.which(program):
        raise Skipped(f"{program} is not installed")
    done = subprocess.run([program, *case.paths], capture_output=True, check=False, timeout=TOOL_SECONDS)
    if done.returncode != 0:
        raise Wrong(f"{program} exited with {done.returncode}: {done.stderr.decode()}")
    case.check_lines(_lines(done.stdout))


def python(case: Case) -> None:
    """gzip of the standard library, and zstandard."""
    case.check_lines(line for path in case.paths for line in _python_lines(path, case.compression))


def _python_lines(path: Path, compression: str) -> Iterable[bytes]:
    if compression == "gzip":
        with gzip.open(path) as lines:
            yield from lines
    elif compression == "zstd":
        # decompress() and read_to_iter() would return the first frame alone, and raise nothing.
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as data:
            yield from _lines(data.read())
    else:
        with path.open("rb") as lines:
            yield from lines


def _lines(data: bytes) -> list[bytes]:
    """Lines with their line feeds. (`splitlines` would break at a carriage return, too.)"""
    return io.BytesIO(data).readlines()


# Of both engines, save that one counts the places of a list from 1 and the other from 0.
FIELDS = [
    "payload.seq",
    "payload.amount",
    "payload.big",
    "payload.flag",
    "payload.text",
    "payload.place.name",
    "payload.place.points[{last}].x",
    "token",
    "version",
]


def duck(case: Case) -> None:
    """All objects by one pattern, with the folders' names as columns."""
    pattern = f"{case.store}/**/*.{EXTENSIONS[case.compression]}"
    # What is not in the package is not fetched: a reader elsewhere may not have a network either.
    with duckdb.connect(config={"autoinstall_known_extensions": "false", "threads": "2"}) as engine:
        # Left to itself DuckDB takes hr for a number when every folder is 10 to 23, and for text when one is 00 to 09.
        engine.execute(
            "CREATE VIEW records AS FROM"
            f" read_ndjson('{pattern}', hive_partitioning = true, hive_types = {{'dt': DATE, 'hr': INTEGER}})"
        )
        fields = ", ".join(FIELDS).format(last=2)
        rows = engine.execute(f"SELECT {fields} FROM records").fetchall()
        [(total,)] = engine.execute("SELECT sum(payload.amount) FROM records").fetchall()
        partitions = engine.execute("SELECT dt, hr, count(*) FROM records GROUP BY ALL").fetchall()
        case.check_rows(rows, total, Counter({(str(dt), hr): count for dt, hr, count in partitions}))
        # The other name, which finds out by itself that there is one record a line.
        [(count,)] = engine.execute(f"SELECT count(*) FROM read_json('{pattern}')").fetchall()
        if count != len(case.payloads):
            raise Wrong(f"read_json sees {count} records, not {len(case.payloads)}")


class Spark:
    """One session for all stores, begun with the first: its start takes longer than its reading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cached_property
    def _session(self) -> SparkSession:
        if not shutil.which("java") and "JAVA_HOME" not in os.environ:
            raise Wrong("Spark needs Java 17 or later, and there is none")
        settings = {
            "spark.driver.bindAddress": "127.0.0.1",
            # What it leaves behind goes with the folder.
            "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={self._folder}",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.local.dir": str(self._folder),
            "spark.log.level": "ERROR",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(self._folder / "warehouse"),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            # A task for every so many bytes where a file may be split: plain objects are cut in the midst of lines, and
            # compressed ones must not be cut.
            "spark.sql.files.maxPartitionBytes": "64k",
            "spark.sql.files.openCostInBytes": "0",
        }
        builder = SparkSession.builder.master("local[2]").appName("readers")
        for name, value in settings.items():
            builder = builder.config(name, value)
        return builder.getOrCreate()

    def close(self) -> None:
        """Ends the session with its Java, also where that was interrupted and would not answer."""
        _end_children()

    def read(self, case: Case) -> None:
        """Reads the folder, as a job would that is given the prefix of a bucket."""
        records = self._session.read.json(str(case.store))
        fields = [field.format(last=1) for field in FIELDS]
        rows = [tuple(row) for row in records.selectExpr(*fields).collect()]
        [(total,)] = records.selectExpr("sum(payload.amount)").collect()
        partitions = records.groupBy("dt", "hr").count().collect()
        case.check_rows(rows, total, Counter({(str(dt), hr): count for dt, hr, count in partitions}))


def _end_children() -> None:
    """pyspark leaves its Java to end by itself a while later, and one that was interrupted at its start never does."""
    if not shutil.which("pgrep"):
        return
    done = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, check=False, timeout=TOOL_SECONDS)
    for child in map(int, done.stdout.split()):
        os.kill(child, signal.SIGTERM)
        deadline = time.monotonic() + CHILD_SECONDS
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.05)
