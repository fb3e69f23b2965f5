"""The service of .platform/scale-in while what is around it fails. All of that is in this process, so hours pass at once.

Fake are the clock, the metadata service, the admin listener and the AWS CLI. As in AWS, the group ends an instance whose
hook gets no heartbeat for HeartbeatTimeout. scale_in.py has the scenarios with a server.
"""

import contextlib
import io
import json
import sys
import tempfile
import types
import urllib.error
from datetime import datetime, timezone
from importlib.machinery import SourceFileLoader
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).parents[2]
HOOK = (ROOT / ".ebextensions/50-scale-in.config").read_text()
HEARTBEAT_TIMEOUT = int(HOOK.split("HeartbeatTimeout: ")[1].split()[0])
SECRET = "line-1-of-a-secret\nline-2-of-a-secret\n"


class Host:
    def __init__(self, folder):
        self.folder = folder
        self.boot, self.wall = 40.0, 1_800_000_000.0  # 2027-01-15T08:00:00Z
        # An item that is an exception fails.
        self.items = {"instance-id": "i-1", "placement/region": "eu-central-1"}
        self.server, self.jobs = "ready", 0
        self.state = "InService"
        self.failing = set()
        self.ended = None
        self.active_until = None
        self.calls = []
        self.token = folder / "token"
        self.token.write_text("a-token\n")
        self.output = io.StringIO()
        self.start_service()

    def start_service(self):
        service = SourceFileLoader("service", str(ROOT / ".platform/scale-in/millpond-scale-in")).load_module()
        service.time = types.SimpleNamespace(time=lambda: self.wall, monotonic=lambda: self.boot)
        host = self

        class Datetime(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromtimestamp(host.wall, tz or timezone.utc)

        service.datetime = Datetime
        service.call = self.call
        service.subprocess = types.SimpleNamespace(run=self.run, SubprocessError=service.subprocess.SubprocessError)
        service.TOKEN_FILE, service.SPOOL_DIR = str(self.token), str(self.folder / "spool")
        service.SINCE_FILE = self.folder / "since"
        self.service, self.watch = service, service.Watch()

    def call(self, url, method="GET", timeout=5, **headers):
        path = url.split("/", 3)[3]
        if path == "latest/api/token":
            return "session"
        if path.startswith("latest/meta-data/"):
            found = self.items.get(path.removeprefix("latest/meta-data/"))
            if isinstance(found, Exception):
                raise found
            return found
        if method == "POST":
            self.server = "draining"
        return json.dumps({"state": self.server, "ledger": {"waiting": {"jobs": self.jobs}}})

    def run(self, command, **_):
        """The AWS CLI, and a systemd without the unit of a worker environment."""
        if command[0] == "systemctl":
            return types.SimpleNamespace(returncode=5)
        action = command[command.index("--cli-read-timeout") + 3]
        self.calls.append(action)
        try:
            return types.SimpleNamespace(returncode=0, stdout=self.aws(action), stderr="")
        except OSError as error:
            return types.SimpleNamespace(returncode=254, stdout="", stderr=str(error))

    def aws(self, action):
        if action in self.failing:
            raise OSError("Throttling: Rate exceeded")
        if action == "describe-auto-scaling-instances":
            return json.dumps({"AutoScalingInstances": [{"AutoScalingGroupName": "g", "LifecycleState": self.state}]})
        if action == "put-metric-data":
            return ""
        if self.state != "Terminating:Wait":
            raise OSError("ValidationError: No active Lifecycle Action found")
        if action == "complete-lifecycle-action":
            self.end("completed")
            if "its response" in self.failing:
                raise OSError("Read timeout")
        self.active_until = self.boot + HEARTBEAT_TIMEOUT
        return ""

    def end(self, why):
        self.ended, self.state = why, "Terminating:Proceed"

    def scale_in(self):
        self.items["autoscaling/target-lifecycle-state"] = "Terminated"
        self.state, self.active_until = "Terminating:Wait", self.boot + HEARTBEAT_TIMEOUT

    def pass_time(self, seconds, step=5):
        for _ in range(seconds // step):
            self.boot += step
            self.wall += step
            if self.active_until and self.boot > self.active_until and not self.ended:
                self.end("no heartbeat came")
            with contextlib.redirect_stdout(self.output):
                try:
                    self.watch.poll()
                except self.service.ERRORS as error:  # As in `main`.
                    self.service.log("ERROR", error)

    def count(self, action):
        return self.calls.count(action)

    def log(self):
        return self.output.getvalue()


SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


@scenario
def a_missed_heartbeat_is_sent_again_before_the_hook_ends(host):
    host.jobs = 7
    host.scale_in()
    host.failing = {"record-lifecycle-action-heartbeat"}
    host.pass_time(HEARTBEAT_TIMEOUT - 30)
    host.failing = set()
    host.pass_time(2 * HEARTBEAT_TIMEOUT)
    expect(host.ended is None, host.ended)


@scenario
def heartbeats_do_not_follow_the_wall_clock(host):
    host.jobs = 7
    host.scale_in()
    host.pass_time(100)
    host.wall -= 7200
    host.pass_time(3600)
    expect(host.ended is None and host.count("put-metric-data") > 0, (host.ended, host.calls))


@scenario
def a_completion_that_fails_is_made_again(host):
    host.scale_in()
    host.server = "drained"
    host.failing = {"complete-lifecycle-action"}
    host.pass_time(60)
    expect(host.ended is None, host.ended)
    host.failing = set()
    host.pass_time(10)
    expect(host.ended == "completed", host.ended)


@scenario
def a_hook_is_completed_once_even_if_the_response_is_lost(host):
    host.scale_in()
    host.server = "drained"
    host.failing = {"its response"}
    host.pass_time(300)
    expect((host.ended, host.count("complete-lifecycle-action")) == ("completed", 1), host.calls)
    # If the state is unknown, the second completion is rejected, and the service goes on.
    host.failing = {"describe-auto-scaling-instances"}
    host.pass_time(10)
    expect("No active Lifecycle Action" in host.log() and host.count("complete-lifecycle-action") == 3, host.calls)


@scenario
def heartbeats_alarm_and_completion_need_no_description_of_the_instance(host):
    host.pass_time(10)
    host.jobs = 7
    host.failing = {"describe-auto-scaling-instances"}
    host.scale_in()
    host.pass_time(2 * HEARTBEAT_TIMEOUT)
    expect(host.ended is None and host.count("put-metric-data") > 0, (host.ended, host.calls))
    host.server = "drained"
    host.pass_time(10)
    expect(host.ended == "completed", host.ended)


@scenario
def a_group_that_is_unknown_is_looked_up_again_and_a_drain_does_not_end_the_service(host):
    host.failing = {"describe-auto-scaling-instances"}
    host.pass_time(60)
    expect(host.count("describe-auto-scaling-instances") == 1, host.calls)
    host.items["instance-id"] = urllib.error.HTTPError("", 500, "failure", None, None)
    host.start_service()
    host.jobs = 7
    host.scale_in()
    host.pass_time(60)
    expect(host.server == "draining", host.server)
    host.items["instance-id"] = "i-1"
    host.failing = set()
    host.pass_time(HEARTBEAT_TIMEOUT)
    expect(host.ended is None and host.count("put-metric-data") > 0, (host.ended, host.calls))


@scenario
def restarts_of_the_service_do_not_defer_the_alarm(host):
    host.jobs = 7
    host.scale_in()
    for _ in range(15):
        host.pass_time(60)
        host.start_service()
    expect(host.count("put-metric-data") > 0, host.calls)


def spot(host, notice):
    host.jobs = 7
    host.items["spot/instance-action"] = notice
    host.pass_time(5)
    expect(host.server == "draining", (host.server, host.log()))
    expect(host.count("put-metric-data") == 0, host.calls)
    host.pass_time(110)
    expect(host.count("put-metric-data") > 0, "jobs at risk are not reported")


@scenario
def a_spot_notice_counts_if_other_items_fail(host):
    failure = urllib.error.HTTPError("", 500, "failure", None, None)
    for item in ("autoscaling/target-lifecycle-state", "events/recommendations/rebalance"):
        host.items[item] = failure
    spot(host, '{"action": "terminate", "time": "2027-01-15T08:02:00Z"}')


@scenario
def a_scale_in_counts_if_the_item_of_the_spot_notice_hangs(host):
    host.items["spot/instance-action"] = TimeoutError("timed out")
    host.server = "drained"
    host.scale_in()
    host.pass_time(10)
    expect(host.ended == "completed", host.log())


@scenario
def a_drain_goes_on_if_the_metadata_fail_later(host):
    host.jobs = 7
    host.scale_in()
    host.pass_time(10)
    host.items = dict.fromkeys([*host.items, "spot/instance-action"], OSError("no metadata"))
    host.pass_time(2 * HEARTBEAT_TIMEOUT)
    expect(host.ended is None, host.ended)


@scenario
def the_drain_of_a_spot_instance_waits_for_no_call_to_aws(host):
    host.items["spot/instance-action"] = '{"action": "terminate", "time": "2027-01-15T08:02:00Z"}'
    host.scale_in()
    seen = []
    called = host.aws
    host.aws = lambda action: seen.append(host.server) or called(action)
    host.pass_time(5)
    expect(seen and set(seen) == {"draining"}, seen)


@scenario
def a_notice_without_a_known_time_counts(host):
    spot(host, '{"action": "terminate", "time": "soon"}')


@scenario
def a_notice_of_another_form_counts(host):
    spot(host, "[]")


@scenario
def a_token_of_two_lines_is_not_logged(host):
    host.token.write_text(SECRET)
    host.scale_in()
    host.pass_time(10)
    expect("visible ASCII" in host.log() and "secret" not in host.log(), host.log())


@scenario
def a_link_in_place_of_the_token_is_not_followed(host):
    (host.folder / "other").write_text("a-file-of-root")
    host.token.unlink()
    host.token.symlink_to(host.folder / "other")
    sent = []
    host.service.call = lambda url, *_, **headers: sent.append(headers) or host.call(url)
    host.scale_in()
    host.pass_time(10)
    expect("a-file-of-root" not in str(sent) and host.server == "ready", sent)


failures = 0
for run in SCENARIOS:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        try:
            run(host)
            print(f"ok      {run.__name__}")
        except Exception as error:  # noqa: BLE001 every scenario runs
            failures += 1
            print(f"FAILED  {run.__name__}: {error!r:.300}\n{host.log()[-1500:]}")
sys.exit(failures > 0)
