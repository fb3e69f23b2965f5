"""The service of .platform/scale-in on an instance whose AWS is fake: scale_in.py BIN OUTAGE SCENARIO...

BIN has millpond and loadtest. OUTAGE is the time in seconds for which S3 is away. Real are millpond, its load, and the
service with the AWS CLI. The group, the hook and the metrics are in moto. moto has neither states of terminating
instances nor heartbeats nor the completion of a hook: the class `Aws` adds these as the reference of the API describes
them. When an instance ends, millpond is killed and its spool deleted.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import yaml
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / ".platform/scale-in/millpond-scale-in"
RESOURCES = yaml.safe_load((ROOT / ".ebextensions/50-scale-in.config").read_text())["Resources"]
HOOK = RESOURCES["MillpondDrainHook"]["Properties"]
ALARM = RESOURCES["MillpondJobsAtRisk"]["Properties"]
GROUP = "group"
TOKEN = "an-admin-token-of-16-bytes-or-more"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
BIN, OUTAGE = Path(sys.argv[1]).resolve(), int(sys.argv[2])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, condition, seconds):
    """Waits until the condition holds, and returns the seconds that this took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def serve(respond):
    """An HTTP server on a free port: respond(method, path, headers, body) returns status, body and content type."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text, kind = respond(self.command, self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # The service was killed.
                self.wfile.write(text)

        do_GET = do_PUT = do_POST = respond

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Aws:
    """An Auto Scaling group with the hook of .ebextensions and one instance, and the instance's metadata."""

    def __init__(self):
        self.moto = f"http://127.0.0.1:{MOTO.get_host_and_port()[1]}"
        urllib.request.urlopen(urllib.request.Request(f"{self.moto}/moto-api/reset", method="POST")).close()
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = {
            name: boto3.client(name, "us-east-1", endpoint_url=self.moto, **keys)
            for name in ("autoscaling", "cloudwatch", "ec2")
        }
        self.cloudwatch = client["cloudwatch"]
        image = client["ec2"].describe_images()["Images"][0]["ImageId"]
        groups = client["autoscaling"]
        groups.create_launch_configuration(LaunchConfigurationName="c", ImageId=image, InstanceType="c6i.large")
        zones = {"AvailabilityZones": ["us-east-1a"], "MinSize": 1, "MaxSize": 1}
        groups.create_auto_scaling_group(AutoScalingGroupName=GROUP, LaunchConfigurationName="c", **zones)
        groups.put_lifecycle_hook(**{**HOOK, "AutoScalingGroupName": GROUP})
        self.instance = groups.describe_auto_scaling_instances()["AutoScalingInstances"][0]["InstanceId"]
        self.state = "InService"
        self.items = {"instance-id": self.instance, "placement/region": "us-east-1"}
        self.heartbeats = 0
        self.completed = None
        self.on_complete = lambda: None
        self.metadata = serve(self.respond_metadata)
        self.endpoint = serve(self.respond_api)

    def respond_metadata(self, method, path, headers, _):
        """IMDSv2: without a session token every request is rejected."""
        if method == "PUT" and path == "/latest/api/token" and headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return 200, b"session", "text/plain"
        if headers.get("X-aws-ec2-metadata-token") != "session":
            return 401, b"", "text/plain"
        item = self.items.get(path.removeprefix("/latest/meta-data/"))
        return (404, b"", "text/plain") if item is None else (200, item.encode(), "text/plain")

    def respond_api(self, method, path, headers, body):
        form = {name: values[0] for name, values in urllib.parse.parse_qs(body.decode(errors="replace")).items()}
        action = form.get("Action")
        if action in ("RecordLifecycleActionHeartbeat", "CompleteLifecycleAction"):
            names = (form["LifecycleHookName"], form["AutoScalingGroupName"], form["InstanceId"])
            if names != (HOOK["LifecycleHookName"], GROUP, self.instance) or self.state != "Terminating:Wait":
                error = "<ErrorResponse><Error><Code>ValidationError</Code><Message>No active Lifecycle Action found"
                return 400, f"{error}</Message></Error></ErrorResponse>".encode(), "text/xml"
            if action == "CompleteLifecycleAction":
                self.completed, self.state = form["LifecycleActionResult"], "Terminating:Proceed"
                self.on_complete()
            else:
                self.heartbeats += 1
            return 200, f"<{action}Response><{action}Result/></{action}Response>".encode(), "text/xml"
        request = urllib.request.Request(self.moto + path, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request) as response:
                status, body, kind = response.status, response.read(), response.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            status, body, kind = error.code, error.read(), error.headers["Content-Type"]
        if action == "DescribeAutoScalingInstances":
            body = body.replace(b">InService<", f">{self.state}<".encode())
        return status, body, kind

    def scale_in(self):
        """The load balancer lets requests end before the hook applies."""
        self.state, self.items["autoscaling/target-lifecycle-state"] = "Terminating", "Terminated"

    def interrupt(self, seconds):
        at = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        self.items["spot/instance-action"] = json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})

    def jobs_at_risk(self):
        """What the alarm of .ebextensions sees: the largest value, or None if the metric does not exist."""
        now = datetime.now(timezone.utc)
        found = self.cloudwatch.get_metric_statistics(
            Namespace=ALARM["Namespace"],
            MetricName=ALARM["MetricName"],
            Dimensions=[{"Name": ALARM["Dimensions"][0]["Name"], "Value": GROUP}],
            Statistics=[ALARM["Statistic"]],
            Period=ALARM["Period"],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(minutes=2),
        )["Datapoints"]
        return max((point["Maximum"] for point in found), default=None)


class Host:
    """The processes of an instance, and S3."""

    def __init__(self, aws, **service):
        self.aws = aws
        self.folder = Path(tempfile.mkdtemp(prefix="scale-in-"))
        self.running = {}
        self.s3, self.public, self.admin = free_port(), free_port(), free_port()
        (self.folder / "admin-token").write_text(TOKEN)
        (self.folder / "admin-token").chmod(0o600)
        # The stand-in for `systemctl` knows no unit, until a scenario has one.
        (self.folder / "bin").mkdir()
        self.systemctl("exit 5")
        self.service_env = {
            **KEYS,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": aws.metadata,
            "AWS_ENDPOINT_URL": aws.endpoint,
            "ADMIN_URL": f"http://127.0.0.1:{self.admin}",
            "ADMIN_TOKEN_FILE": f"{self.folder}/admin-token",
            "SPOOL_DIR": f"{self.folder}/spool",
            "RUNTIME_DIRECTORY": str(self.folder),
            "POLL": "0.5",
            "HEARTBEAT": "2",
            "ALARM_AFTER": "5",
            "ALARM_INTERVAL": "2",
            "DOWN_AFTER": "3",
            **service,
        }
        aws.on_complete = self.end

    def systemctl(self, script):
        path = self.folder / "bin/systemctl"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, name, command, env):
        log = (self.folder / f"{name}.log").open("ab")
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        self.running[name] = subprocess.Popen(list(map(str, command)), env=env, **options)

    def kill(self, name):
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def start_s3(self, *faults):
        command = [BIN / "loadtest", "s3", "--listen", f"127.0.0.1:{self.s3}", "--dir", self.folder / "objects"]
        self.start("s3", [*command, *faults], os.environ)
        until("S3 listens", lambda: not socket.socket().connect_ex(("127.0.0.1", self.s3)), 10)

    def start_millpond(self):
        """With the keys that `loadtest s3` prints, and the settings of .ebextensions that matter here."""
        exports = (self.folder / "s3.log").read_text().split("export ")[1:]
        env = dict(line.strip().split("=", 1) for line in exports)
        env |= {"ADMIN_TOKEN_FILE": f"{self.folder}/admin-token", "SPOOL_DIR": f"{self.folder}/spool"}
        env |= {"LISTEN_ADDR": f"127.0.0.1:{self.public}", "ADMIN_ADDR": f"127.0.0.1:{self.admin}"}
        env |= {"S3_PREFIX": "fleet", "ACK": "disk"}
        env |= {"OBJECT_MAX_AGE": "60s", "SHUTDOWN_GRACE": "5s", "S3_TIMEOUT": "4s", "OBJECT_MAX_BYTES": "64KiB"}
        self.start("millpond", [BIN / "millpond"], env)
        until("millpond is ready", lambda: self.status("state") == "ready", 20)

    def start_service(self):
        self.start("service", ["/usr/bin/env", "python3", SERVICE], self.service_env)

    def start_load(self, seconds, settle):
        command = [BIN / "loadtest", "run", "--url", f"http://127.0.0.1:{self.public}", "--rate", "200"]
        command += ["--store", f"dir:{self.folder}/objects/millpond/fleet"]
        self.start("load", [*command, "--duration", f"{seconds}s", "--settle", f"{settle}s"], os.environ)

    def start_under_load(self, seconds, settle, jobs, *s3_options):
        """Starts everything, and waits until more than `jobs` wait for the store."""
        self.start_s3(*s3_options)
        self.start_millpond()
        self.start_service()
        self.start_load(seconds, settle)
        until("batches are accepted", lambda: self.waiting() > jobs, 30)

    def status(self, member):
        url, headers = f"http://127.0.0.1:{self.admin}/v1/status", {"Authorization": f"Bearer {TOKEN}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
                return json.load(response)[member]
        except OSError:
            return None

    def waiting(self):
        return self.status("ledger")["waiting"]["jobs"]

    def says(self, text):
        return text in (self.folder / "service.log").read_text()

    def end(self):
        """The instance is terminated, and its disk is deleted with it."""
        self.state_at_end = self.status("state")
        if "millpond" in self.running:
            self.kill("millpond")
        shutil.rmtree(self.folder / "spool", ignore_errors=True)

    def verdict(self, seconds):
        """loadtest compares what was accepted with what is stored. Returns the accepted payloads."""
        code = self.running.pop("load").wait(seconds)
        report = (self.folder / "load.log").read_text()
        assert code == 0, f"loadtest exits with {code}:\n{report}"
        return re.search(r"^payloads\n.*\n  accepted +(\d+)", report, re.MULTILINE).group(1)

    def close(self):
        for name in list(self.running):
            self.kill(name)
        shutil.rmtree(self.folder)


def scale_in_with_s3_slow_and_then_away(aws, host):
    host.start_under_load(12, OUTAGE + 60, 100, "--faults", "delay:2s", "--fault-share", "1")
    aws.scale_in()
    host.kill("s3")
    time.sleep(3)
    assert host.status("state") != "draining", "drained while the load balancer still sends requests"
    aws.state = "Terminating:Wait"
    until("millpond drains", lambda: host.status("state") == "draining", 20)
    away_until = time.monotonic() + OUTAGE
    until("a heartbeat", lambda: aws.heartbeats > 0, 20)
    host.kill("service")
    host.start_service()
    until("the alarm", lambda: aws.jobs_at_risk(), 60)
    time.sleep(max(0.0, away_until - time.monotonic()))
    assert aws.completed is None, "completed while jobs wait"
    heartbeats = aws.heartbeats
    host.start_s3()
    took = until("the hook is completed", lambda: aws.completed, 60)
    assert (aws.completed, host.state_at_end) == ("CONTINUE", "drained"), (aws.completed, host.state_at_end)
    accepted = host.verdict(OUTAGE + 120)
    return f"{accepted} payloads accepted, 0 lost; {heartbeats} heartbeats; completed {took:.0f} s after S3 is back"


def s3_stays_away(aws, host):
    host.start_under_load(3, 0, 10)
    host.kill("s3")
    aws.scale_in()
    aws.state = "Terminating:Wait"
    until("the alarm", lambda: aws.jobs_at_risk(), 60)
    before = aws.heartbeats
    until("heartbeats go on", lambda: aws.heartbeats >= before + 3, 60)
    assert aws.completed is None and host.status("state") == "draining"
    return f"alarm with {aws.jobs_at_risk():.0f} jobs at risk; the hook is not completed"


def millpond_is_killed_while_it_drains(aws, host):
    host.start_under_load(5, 60, 10)
    host.kill("s3")
    aws.scale_in()
    aws.state = "Terminating:Wait"
    until("millpond drains", lambda: host.status("state") == "draining", 20)
    time.sleep(5)
    host.kill("millpond")
    until("the service sees segments", lambda: host.says("millpond does not respond"), 20)
    time.sleep(float(host.service_env["DOWN_AFTER"]) + 2)
    assert aws.completed is None, "completed while segments are on the disk"
    host.start_s3()
    host.start_millpond()
    until("the hook is completed", lambda: aws.completed, 60)
    assert host.state_at_end == "drained"
    return f"{host.verdict(120)} payloads accepted, 0 lost"


def millpond_never_ran(aws, host):
    host.start_service()
    aws.scale_in()
    aws.state = "Terminating:Wait"
    took = until("the hook is completed", lambda: aws.completed, 60)
    assert took >= float(host.service_env["DOWN_AFTER"])
    return f"completed after {took:.0f} s"


def worker_environment(aws, host):
    """A daemon like sqsd, whose unit is stopped when its last request has ended."""
    stop, ended, statuses = host.folder / "stop", host.folder / "ended", []
    host.systemctl(f'[ "$*" = "--no-block stop sqsd" ] || exit 1\ntouch {stop}\nuntil [ -e {ended} ]; do sleep 0.01; done')

    def deliver():
        while not stop.exists():
            headers = {"X-Aws-Sqsd-Msgid": f"message-{len(statuses)}", "Content-Type": "application/json"}
            message = urllib.request.Request(f"http://127.0.0.1:{host.public}/", b'{"a":1}', headers)
            with contextlib.suppress(urllib.error.HTTPError, urllib.error.URLError):
                statuses.append(0)
                statuses[-1] = urllib.request.urlopen(message, timeout=60).status
            time.sleep(0.05)
        ended.touch()

    host.start_s3()
    host.start_millpond()
    host.start_service()
    daemon = threading.Thread(target=deliver, daemon=True)
    daemon.start()
    until("messages are accepted", lambda: statuses.count(200) > 10, 20)
    aws.scale_in()
    aws.state = "Terminating:Wait"
    until("the hook is completed", lambda: aws.completed, 60)
    daemon.join(5)
    assert not daemon.is_alive() and host.state_at_end == "drained"
    assert set(statuses) == {200}, f"attempts that fail: {len(statuses) - statuses.count(200)}"
    return f"{len(statuses)} messages, none rejected"


def spot_notice(aws, host):
    host.start_s3("--faults", "delay:2s", "--fault-share", "1")
    host.start_millpond()
    host.start_service()
    aws.items["events/recommendations/rebalance"] = '{"noticeTime": "2026-11-27T20:00:00Z"}'
    host.start_load(10, 110)
    until("batches are accepted", lambda: host.waiting() > 100, 30)
    until("the recommendation is logged", lambda: host.says("recommends to replace"), 20)
    assert host.status("state") == "ready", "drained before it is terminated"
    aws.interrupt(120)
    took = until("everything is stored", lambda: host.says("everything is stored"), 120)
    assert aws.jobs_at_risk() is None and aws.completed is None
    host.end()
    return f"{host.verdict(200)} payloads accepted, 0 lost; drained {took:.0f} s after the notice"


def spot_notice_with_s3_away(aws, host):
    host.start_under_load(5, 0, 10)
    host.kill("s3")
    aws.interrupt(45)
    until("millpond drains", lambda: host.status("state") == "draining", 20)
    until("what is left is reported", lambda: aws.jobs_at_risk(), 44)
    left = host.waiting()
    assert aws.jobs_at_risk() == left and host.says(f"{left} jobs are not stored; EC2 ends"), (aws.jobs_at_risk(), left)
    return f"{left} jobs are reported before the instance ends"


SCENARIOS = [
    millpond_never_ran,
    millpond_is_killed_while_it_drains,
    s3_stays_away,
    worker_environment,
    spot_notice,
    spot_notice_with_s3_away,
    scale_in_with_s3_slow_and_then_away,
]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
# Ends the processes of the scenario, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
MOTO = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
MOTO.start()
wanted = sys.argv[3:] or [scenario.__name__ for scenario in SCENARIOS]
failures = 0
for scenario in SCENARIOS:
    if scenario.__name__ not in wanted:
        continue
    began, aws = time.monotonic(), Aws()
    host = Host(aws, **({"ALARM_AFTER": "600"} if "spot" in scenario.__name__ else {}))
    try:
        found = scenario(aws, host)
        print(f"ok      {scenario.__name__}: {found} ({time.monotonic() - began:.0f} s)", flush=True)
    except Exception as error:  # noqa: BLE001 every scenario runs
        failures += 1
        print(f"FAILED  {scenario.__name__}: {error!r}", flush=True)
        for log in sorted(host.folder.glob("*.log")):
            print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    finally:
        host.close()
MOTO.stop()
sys.exit(failures > 0)
