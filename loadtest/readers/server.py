"""The server under check: started, fed and stopped."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from batches import Batch

START_SECONDS = 30
REQUEST_SECONDS = 30
PACK_SECONDS = 30
STOP_SECONDS = 60


class ServerError(Exception):
    """The server did not do its part, so there is nothing to read."""


class Server:
    """Writes its objects into `store` in its folder. Use as a context, which never leaves the process behind."""

    def __init__(self, program: Path, compression: str, folder: Path) -> None:
        self.store = folder / "store"
        self._log = folder / "server.log"
        # Nothing of the caller's environment: its S3_BUCKET and credentials are not for this.
        settings = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LISTEN_ADDR": "127.0.0.1:0",
            "ADMIN_ADDR": "127.0.0.1:0",
            "STORE_DIR": str(self.store),
            "COMPRESSION": compression,
            # Of what is sent this makes more than one object, each with a large frame between many small ones.
            "OBJECT_MAX_BYTES": "1MiB",
            "OBJECT_MAX_AGE": "10m",
            "LOG_FORMAT": "json",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program], cwd=folder, env=settings, stdin=subprocess.DEVNULL, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def post(self, batches: Iterator[Batch]) -> None:
        """Sends each batch when the one before is packed: so each is a frame of its own."""
        closing = contextlib.closing
        with closing(self._connect("listening")) as public, closing(self._connect("admin listening")) as admin:
            for batch in batches:
                public.request("POST", "/v1/payloads", batch.body, {"Content-Type": "application/json"})
                answer = public.getresponse()
                said = answer.read()
                if answer.status != http.client.ACCEPTED:
                    raise ServerError(f"a batch was answered {answer.status}: {said!r}")
                wait_until(lambda: _jobs_waiting(admin) == 0, PACK_SECONDS, "the queue to be packed")

    def stop(self) -> None:
        """Ends it as an operator would; it then must have stored everything."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        if code != 0:
            raise ServerError(f"the server exited with {code}: {self._log.read_text()}")

    def _connect(self, message: str) -> http.client.HTTPConnection:
        wait_until(lambda: message in self._addresses(), START_SECONDS, "the server to listen")
        return http.client.HTTPConnection(self._addresses()[message], timeout=REQUEST_SECONDS)

    def _addresses(self) -> dict[str, str]:
        """What it listens on, by the message that says so: port 0 leaves the choice of a free one to the system."""
        log = self._log.read_text()
        if self._process.poll() is not None:
            raise ServerError(f"the server ended by itself: {log}")
        # The last line may be half written.
        events = [json.loads(line)["fields"] for line in log.split("\n")[:-1]]
        return {event["message"]: event["addr"] for event in events if "addr" in event}


def wait_until(is_met: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > deadline:
            raise ServerError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.002)


def _jobs_waiting(admin: http.client.HTTPConnection) -> int:
    admin.request("GET", "/metrics")
    for line in admin.getresponse().read().decode().split("\n"):
        if line.startswith("millpond_queue_jobs "):
            return int(line.split()[1])
    raise ServerError("/metrics has no millpond_queue_jobs")
