"""Feeds a server for each compression, and has every reader read what it stored. Run by `check`."""

import contextlib
import faulthandler
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import readers
from batches import batches
from readers import Case, Skipped, Spark, Wrong
from server import Server

FEED_SECONDS = 180
READER_SECONDS = 180
ALL_SECONDS = 1200
MIN_FRAMES = 10


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Whatever hangs is a failure, not a hang."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def feed(program: Path, compression: str, folder: Path) -> Case:
    """A store with objects of many frames, from a server that has come to its end."""
    sent = list(batches())
    with limited(FEED_SECONDS), Server(program, compression, folder) as server:
        server.post(iter(sent))
        server.stop()
    case = Case(compression, server.store, [payload for batch in sent for payload in batch.payloads])
    frames = [stored.frames for stored in case.objects]
    sizes = [stored.path.stat().st_size for stored in case.objects]
    print(f"{compression}: {len(case.payloads)} payloads in {len(frames)} objects of {sizes} bytes, {frames} frames")
    if compression != "none" and max(frames, default=0) <= MIN_FRAMES:
        raise Wrong(f"no object has more than {MIN_FRAMES} frames, so nothing would be shown")
    return case


def reads(case: Case, spark: Spark) -> dict[str, Callable[[], None]]:
    """Who is to read it, by name."""
    tool = {"gzip": "zcat", "zstd": "zstdcat", "none": "cat"}[case.compression]
    return {
        tool: lambda: readers.command(case, tool),
        "Python": lambda: readers.python(case),
        "DuckDB": lambda: readers.duck(case),
        "Spark": lambda: spark.read(case),
    }


def attempt(name: str, read: Callable[[], None]) -> str:
    """Runs one reader and prints its line. Whatever it raises is its failure, and the others still have their turn."""
    outcome, reason = "OK", ""
    try:
        with limited(READER_SECONDS):
            read()
    except Skipped as skipped:
        outcome, reason = "SKIPPED", f": {skipped}"
    except Exception as error:  # noqa: BLE001
        outcome, reason = "failed", f": {type(error).__name__}: {essence(str(error))}"
    print(f"{outcome:7} {name}{reason}")
    return outcome


def essence(message: str) -> str:
    """An error of Spark's holds the stacks of every thread it went through: the beginning, and the causes."""
    lines = message.strip().split("\n")
    return "\n        ".join(lines[:2] + [line for line in lines[2:] if line.startswith("Caused by:")])


def check(program: Path, temporary: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with contextlib.closing(Spark(temporary)) as spark:
        for compression in ("gzip", "zstd", "none"):
            folder = temporary / compression
            folder.mkdir()
            try:
                case = feed(program, compression, folder)
            # As with a reader: the other compressions still have their turn.
            except Exception as error:  # noqa: BLE001
                print(f"failed  {compression} server: {type(error).__name__}: {error}")
                outcomes["failed"] += 1
                continue
            for reader, read in reads(case, spark).items():
                outcomes[attempt(f"{compression} {reader}", read)] += 1
    return outcomes


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)
    # So that the server and the temporary folder go when this is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # An alarm waits for native code to return; this does not.
    faulthandler.dump_traceback_later(ALL_SECONDS, exit=True)
    with tempfile.TemporaryDirectory(prefix="millpond-readers-") as temporary:
        outcomes = check(Path(sys.argv[1]), Path(temporary))
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in ("OK", "SKIPPED", "failed")))
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
