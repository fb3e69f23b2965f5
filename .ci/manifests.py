"""What no schema says about the manifests of deploy/. Loaded by .ci/manifests, with the program as its argument."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import boto3
import kubernetes_validate
import yaml

PROGRAM = sys.argv[1]
# Those of the AWS SDK, which are no settings of millpond.
SDK = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REQUEST_CHECKSUM_CALCULATION"}
UNITS = {"s": 1, "m": 60, "h": 3600}
BUCKET = "telemetry"
PODS = []


def seconds(time):
    number, unit = re.fullmatch(r"(\d+)([smh]?)", str(time)).groups()
    return int(number) * UNITS.get(unit, 1)


def settings():
    """Every setting with its default, as `millpond --help` prints them."""
    text = subprocess.run([PROGRAM, "--help"], check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^  ([A-Z][A-Z0-9_]+) +(\S+)", text, re.MULTILINE))


def shutdown(environment):
    both = {**settings(), **environment}
    return seconds(both["DRAIN_DELAY"]) + seconds(both["SHUTDOWN_GRACE"])


def interpolated(text):
    """As Compose does; each variable gets a value of the length of a token."""
    return re.sub(r"\$\{(\w+)(:\?|:?-)([^}]*)\}", lambda m: m[3] if m[3] else "token-of-16-bytes", text)


def only_loopback(name, ports):
    """Requests need no token in these examples, and rules of Docker pass by a firewall such as ufw."""
    assert all(str(port).startswith("127.0.0.1:") for port in ports), f"{name} is reachable from other machines: {ports}"


def from_readme():
    """The environment of `docker run`. The variables without a value are those of the shell."""
    command = re.search(r"^docker run (?:.*\\\n)*.*", Path("README.md").read_text(), re.MULTILINE)[0]
    words = shlex.split(command.replace("\\\n", " "))
    options = [(option, value) for option, value in zip(words, words[1:]) if option.startswith("-")]
    only_loopback("README.md", [value for option, value in options if option == "-p"])
    variables = [value.partition("=") for option, value in options if option == "-e"]
    environment = {name: value or "token-of-16-bytes" for name, _, value in variables}
    assert seconds(dict(options)["--stop-timeout"]) >= shutdown(environment) + 5, "README.md: the container is killed early"
    yield "README.md", environment


def from_compose(path):
    """The environments of the services that are millpond."""
    document = yaml.safe_load(interpolated(path.read_text()))
    for name, service in document["services"].items():
        only_loopback(f"{path}: {name}", service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (path.parent / source).is_file(), f"{path}: there is no {source}"
        if not service["image"].startswith("millpond"):
            assert ":" in service["image"], f"{path}: {name} has no version"
            continue
        environment = service["environment"]
        assert seconds(service["stop_grace_period"]) >= shutdown(environment) + 5, f"{path}: {name} is killed early"
        yield f"{path}: {name}", environment
    if rules := document.get("configs", {}).get("prometheus"):
        check_prometheus(rules["content"])


def check_prometheus(text):
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(text.replace("/etc/prometheus/", f"{os.getcwd()}/deploy/prometheus/"))
        file.flush()
        subprocess.run(["promtool", "check", "config", file.name], check=True)


def from_kubernetes(path):
    documents = {document["kind"]: document for document in yaml.safe_load_all(path.read_text())}
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {variable["name"]: variable.get("value", "token-of-16-bytes") for variable in container["env"]}
    *_, wait = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= seconds(wait) + shutdown(environment) + 5, f"{path}: killed early"
    (claim,) = documents["StatefulSet"]["spec"]["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")
    assert int(size) > int(environment["SPOOL_MAX_BYTES"].removesuffix("GiB")), f"{path}: the volume is too small"
    labels = documents["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"] == labels, f"{path}: the Service selects other pods"
    assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels, f"{path}: other pods"
    # The metrics need a token, which a job for all pods with these annotations does not have.
    annotations = documents["StatefulSet"]["spec"]["template"]["metadata"].get("annotations", {})
    assert not any(name.startswith("prometheus.io/") for name in annotations), f"{path}: scrapes get 401"
    check_autoscaler(documents["HorizontalPodAutoscaler"])
    yield str(path), environment
    PODS.append((container, environment))


def check_autoscaler(autoscaler):
    """It is valid after each change of the runbook, and the manifest has the members, so that applying it again resets them."""
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "millpond"
    patches = re.findall(r"kubectl patch hpa millpond --patch '(.*)'", Path("docs/operations.md").read_text())
    assert len(patches) == 2, patches
    for patch in map(json.loads, patches):
        changed = json.loads(json.dumps(autoscaler))
        merge(changed, patch)
        kubernetes_validate.validate(changed, "1.34", strict=True)
        assert changed["spec"]["minReplicas"] <= changed["spec"]["maxReplicas"]


def merge(document, patch):
    for name, value in patch.items():
        assert name in document, f"the manifest has no {name}"
        if isinstance(value, dict):
            merge(document[name], value)
        else:
            document[name] = value


def s3(folder):
    """A server on a port that the kernel chooses, with the bucket."""
    log = open(f"{folder}/log", "w+")
    server = subprocess.Popen(["moto_server", "--port", "0"], stdout=log, stderr=log)
    for _ in range(300):
        log.seek(0)
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read()):
            urllib.request.urlopen(urllib.request.Request(f"{found[0]}/{BUCKET}", method="PUT")).close()
            return server, found[0]
        time.sleep(0.1)
    server.kill()
    sys.exit("moto does not start")


def in_place(environment, endpoint, folder):
    """The environment with the store and the folders of this machine."""
    here = {"AWS_ENDPOINT_URL_S3": endpoint, "SPOOL_DIR": f"{folder}/spool", "S3_BUCKET": BUCKET}
    return environment | here | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def check(name, environment, endpoint, folder):
    unknown = environment.keys() - settings().keys() - SDK
    assert not unknown, f"{name}: no settings: {unknown}"
    environment = in_place(environment, endpoint, folder)
    result = subprocess.run([PROGRAM, "--check"], env=environment, capture_output=True, text=True, timeout=60)
    # The servers of the broker that the environment names do not run here.
    is_valid = result.returncode == 0 or (
        "BROKER_URL" in environment and "the settings are valid, but the broker" in result.stderr
    )
    assert is_valid, f"{name}: {result.stdout}{result.stderr}"
    print("accepted:", name)


def run(container, environment, endpoint, folder):
    """Starts the container's program as a pod, sends a batch, and ends it as the kubelet does: preStop, then SIGTERM."""
    ports = {}
    for port in container["ports"]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports[port["name"]] = free.getsockname()[1]
    here = in_place(environment, endpoint, folder)
    here |= {"LISTEN_ADDR": f"127.0.0.1:{ports['http']}", "ADMIN_ADDR": f"127.0.0.1:{ports['admin']}"}
    server = subprocess.Popen([PROGRAM], env=here, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for probe in ("readinessProbe", "livenessProbe"):
            get = container[probe]["httpGet"]
            wait_for(f"http://127.0.0.1:{ports[get['port']]}{get['path']}")
        batch = urllib.request.Request(f"http://127.0.0.1:{ports['http']}/v1/payloads", data=b'{"sensor":"a"}')
        batch.add_header("Content-Type", "application/json")
        key = json.load(urllib.request.urlopen(batch))["object"]
        _, *drain = container["lifecycle"]["preStop"]["exec"]["command"]
        subprocess.run([PROGRAM, *drain], env=here, check=True, timeout=60, stdout=subprocess.DEVNULL)
        # Stored before SIGTERM.
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **keys).head_object(Bucket=BUCKET, Key=key)
        server.terminate()
        assert server.wait(timeout=40) == 0, "the pod ends with an error"
        print("ran, drained and stored: the pod")
    finally:
        server.kill()
        server.wait()


def wait_for(url):
    for _ in range(300):
        try:
            return urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"no response: {url}")


with tempfile.TemporaryDirectory() as folder:
    server, endpoint = s3(folder)
    try:
        manifests = list(from_readme())
        for path in sorted(Path("deploy").glob("*/compose.yml")):
            manifests += from_compose(path)
        for path in sorted(Path("deploy/kubernetes").glob("*.yml")):
            manifests += from_kubernetes(path)
        assert len(manifests) >= 6, "manifests are not found"
        for name, environment in manifests:
            check(name, environment, endpoint, folder)
        for container, environment in PODS:
            run(container, environment, endpoint, folder)
    finally:
        server.kill()
        server.wait()
