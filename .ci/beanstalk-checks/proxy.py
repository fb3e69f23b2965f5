"""Requests through a real nginx, with the platform's configuration and ours, to a real millpond with the environment of
.ebextensions. The client of these tests is in the place of the load balancer.

proxy.py MILLPOND OUTPUT: OUTPUT has what configuration.py has written.
"""

import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import configuration

SERVER = "/var/lib/millpond"
# A client in the VPC, and what it claims to be.
CLIENT, FORGED, NGINX = "172.31.9.9", "203.0.113.7", "127.0.0.2"


def free_port(address="127.0.0.1"):
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def wait(what, condition, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what}: not within {seconds} s")


def check(name, expected, found):
    if expected != found:
        raise SystemExit(f"FAILED: {name}: expected {expected!r}, found {found!r}")
    print(f"ok: {name}")


class Response:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)


def request(connection, method, path, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    return Response(connection.getresponse())


def once(port, *arguments, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        return request(connection, *arguments, **headers)
    finally:
        connection.close()


class Host:
    """A directory in the place of an instance: its commands have run, and its server and nginx run."""

    def __init__(self, program, output):
        self.folder = Path(tempfile.mkdtemp(prefix="millpond-beanstalk-"))
        self.folder.chmod(0o755)
        self.processes = []
        self.output = output
        # Without root, the files belong to the user of this test.
        self.user = 10001 if os.getuid() == 0 else os.getuid()
        self.data, self.secrets = self.folder / "millpond", self.folder / "millpond-secrets"
        self.program = self.folder / "program"
        shutil.copy(program, self.program)
        content = configuration.merged()
        self.commands(content["commands"])
        self.environment = content["option_settings"][configuration.ENVIRONMENT]

    def commands(self, commands, **environment):
        for name in sorted(commands):
            command = commands[name]["command"]
            if "systemctl" in command:
                continue  # There is no systemd here: see proxy_of_the_admin_listener.
            command = command.replace(SERVER, str(self.data)).replace("10001", str(self.user))
            command = command if os.getuid() == 0 else command.replace("-o root", "")
            subprocess.run(["bash", "-euc", command], check=True, env={**os.environ, **environment})

    def start_server(self):
        """On an address of its own, because the port of the admin listener is fixed."""
        number = os.getpid()
        self.address = f"127.{1 + number % 200}.{number // 200 % 250}.9"
        self.public, log = free_port(), self.folder / "millpond.log"
        environment = {name: value.replace(SERVER, str(self.data)) for name, value in self.environment.items()}
        del environment["S3_BUCKET"], environment["AWS_REGION"]
        environment |= {
            "STORE_DIR": str(self.data / "objects"), "SPOOL_DIR": str(self.data / "spool"),
            "LISTEN_ADDR": f"127.0.0.1:{self.public}", "ADMIN_ADDR": f"{self.address}:9090",
            # In the place of Docker's bridge. The load balancer, this test, has another address.
            "TRUSTED_PROXIES": NGINX, "OBJECT_MAX_AGE": "1s",
        }
        user = {"user": self.user, "group": self.user} if os.getuid() == 0 else {}
        with log.open("wb") as file:
            server = subprocess.Popen([self.program], env=environment, cwd=self.data, stdin=subprocess.DEVNULL,
                                      stdout=file, stderr=file, **user)
        self.processes.append(server)
        try:
            wait("the server starts", lambda: server.poll() is None and once(self.public, "GET", "/health").status == 200)
        except SystemExit:
            raise SystemExit(log.read_text())
        return server

    def start_nginx(self):
        folder = self.folder / "nginx"
        shutil.copytree(configuration.ROOT / ".platform/nginx", folder)
        (folder / "log/healthd").mkdir(parents=True)
        if not (folder / "nginx.conf").exists():
            shutil.copy(configuration.HERE / "nginx.conf", folder)
        shutil.copy("/etc/nginx/mime.types", folder)
        subprocess.run([configuration.ROOT / ".platform/hooks/predeploy/50-nginx-connections.sh", folder / "nginx.conf"], check=True)
        (folder / "conf.d/elasticbeanstalk-nginx-docker-upstream.conf").write_text(
            f"upstream docker {{ server 127.0.0.1:{self.public}; keepalive 256; }}\nproxy_bind {NGINX};\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]))
        self.port, self.http2 = free_port(), free_port()
        # Clients speak HTTP/2 with the load balancer, and this listener is for the same requests in HTTP/2.
        text = (folder / "nginx.conf").read_text()
        text = text.replace("listen 80 default_server;",
                            f"listen 127.0.0.1:{self.port} default_server; listen 127.0.0.1:{self.http2} http2;")
        text = re.sub(r"^\s*user\s+nginx;", "user www-data;" if os.getuid() == 0 else "", text, flags=re.M)
        text = text.replace("/var/log/nginx", f"{folder}/log").replace("/var/run/", f"{folder}/").replace("/etc/nginx/", "")
        (folder / "nginx.conf").write_text(text)
        nginx = ["nginx", "-p", folder, "-c", "nginx.conf"]
        tested = subprocess.run([*nginx, "-t"], capture_output=True, text=True)
        if tested.returncode or "[warn]" in tested.stderr:
            raise SystemExit(tested.stderr)
        print("ok: nginx -t")
        self.processes.append(subprocess.Popen([*nginx, "-g", "daemon off;"], stdin=subprocess.DEVNULL))
        wait("nginx starts", lambda: once(self.port, "GET", "/health").status == 200)

    def token(self):
        return (self.secrets / "admin-token").read_text().strip()

    def admin(self, method, path, port=9090, address=None):
        connection = http.client.HTTPConnection(address or self.address, port, timeout=10)
        return request(connection, method, path, Authorization=f"Bearer {self.token()}")

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)
        shutil.rmtree(self.folder)


def lines(size):
    """NDJSON of exactly so many bytes."""
    line = b'{"event":"' + b"x" * 988 + b'"}\n'
    count, rest = divmod(size, len(line))
    return line * (count - 1) + b'{"event":"' + b"y" * (988 + rest) + b'"}\n'


def bodies(host):
    ndjson = {"Content_Type": "application/x-ndjson"}
    largest = lines(2**20)
    check("a body of 1 MiB is accepted", (202, 2**20), (once(host.port, "POST", "/v1/payloads", largest, **ndjson).status, len(largest)))
    over = once(host.port, "POST", "/v1/payloads", lines(2**20 + 2**19), **ndjson)
    check("1.5 MiB is rejected by millpond, with its limit", (413, True), (over.status, "1048576" in over.body.decode() or "1 MiB" in over.body.decode()))
    far = once(host.port, "POST", "/v1/payloads", lines(2**21 + 2**19), **ndjson)
    check("2.5 MiB is rejected by nginx, with a problem document", (413, "application/problem+json", True),
          (far.status, far.headers["Content-Type"], "2 MiB" in far.json()["detail"]))
    packed = gzip.compress(b'{"event":"packed"}\n')
    accepted = once(host.port, "POST", "/v1/payloads", packed, Content_Encoding="gzip", Accept_Encoding="gzip", **ndjson)
    check("a gzip body is passed on, and its receipt is not compressed", (202, None), (accepted.status, accepted.headers["Content-Encoding"]))
    stored = lambda: [path for path in (host.data / "objects").rglob("*.gz") if b'"packed"' in gzip.decompress(path.read_bytes())]
    received = once(host.port, "POST", "/v1/payloads?ack=stored", b'{"a":1}', Accept_Encoding="gzip", Content_Type="application/json")
    check("nor is a receipt with 200, for which nginx compresses", (200, None), (received.status, received.headers["Content-Encoding"]))
    check("the payload of the gzip body is stored", 1, len(wait("the object", stored)))
    raw = socket.create_connection(("127.0.0.1", host.port), timeout=10)
    raw.sendall(b"POST /v1/payloads HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"a\": 1}\n\r\n0\r\n\r\n")
    check("a chunked body is accepted", b"HTTP/1.1 202", raw.makefile("rb").read()[:12])


def connections(host):
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=20)
    connection.connect()
    first = connection.sock.getsockname()
    statuses = {request(connection, "POST", "/v1/payloads", b'{"a":1}').status for _ in range(1500)}
    check("one connection is kept for 1,500 requests (nginx's default is 1,000)", ({202}, first), (statuses, connection.sock.getsockname()))
    # Open ones, and those in TIME_WAIT.
    port = f":{host.public:04X} "
    used = sum(port in line for line in Path("/proc/net/tcp").read_text().splitlines())
    check("nginx keeps its connections to millpond", True, used < 100)
    version = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
         "-H", "Content-Type: application/json", "-d", '{"a":1}',
         f"http://127.0.0.1:{host.http2}/v1/payloads"], capture_output=True, text=True, check=True).stdout
    check("HTTP/2", "2 202", version)


def clients(host):
    rejected = once(host.port, "POST", "/v1/payloads", b"no JSON", X_Forwarded_For=f"{FORGED}, {CLIENT}").headers["X-Request-Id"]

    def addresses():
        rejections = host.admin("GET", "/v1/status").json()["recent_rejections"]
        return [rejection["address"] for rejection in rejections if rejection["request_id"] == rejected]

    # The status is of the last full second.
    check("a rejection names the client, and not what it claims to be", [CLIENT], wait("the rejection in the status", addresses))
    access = (host.folder / "nginx/log/access.log").read_text()
    check("so does nginx's access log", True, f"{CLIENT} - - " in access)


def interruption(host):
    """A stop before the token has its owner, the user of the container."""
    token, tools = host.secrets / "admin-token", host.folder / "interruption"
    command = {"token": configuration.merged()["commands"]["30_admin_token"]}
    token.unlink()
    tools.mkdir()
    (tools / "chown").symlink_to("/bin/false")
    with contextlib.suppress(subprocess.CalledProcessError):
        host.commands(command, PATH=f"{tools}:{os.environ['PATH']}")
    check("there is no token without its owner", False, token.exists())
    host.commands(command)
    check("the next deployment writes it", (host.user, True), (token.stat().st_uid, token.stat().st_size > 0))


def secrets(host):
    """The container runs as another user than the commands of the next deployment, which must not follow its links."""
    if os.getuid() == 0:
        move = subprocess.run(["mv", host.secrets, f"{host.secrets}-moved"], user=host.user, group=host.user, stderr=subprocess.DEVNULL)
        write = subprocess.run(["touch", host.secrets / "file"], user=host.user, group=host.user, stderr=subprocess.DEVNULL)
        check("the container cannot replace its secrets", (True, True), (move.returncode != 0, write.returncode != 0))
    volumes = json.loads((configuration.ROOT / "Dockerrun.aws.json").read_text())["Volumes"]
    paths = [value for value in host.environment.values() if value.startswith("/var/lib/")]
    mounted = [path for path in paths for volume in volumes
               if volume["HostDirectory"] == volume["ContainerDirectory"] and path.startswith(volume["HostDirectory"] + "/")]
    check("the container has the folders of its settings", (True, paths), (len(paths) > 0, mounted))


def outages(host, server):
    check("POST /v1/drain with the token of the host", 2, host.admin("POST", "/v1/drain").status // 100)
    drained = once(host.port, "POST", "/v1/payloads", b'{"a":1}')
    check("a 503 of millpond is passed on, with its Retry-After and document", (503, True, "application/problem+json", True),
          (drained.status, int(drained.headers["Retry-After"]) > 0, drained.headers["Content-Type"], "no response" not in drained.body.decode()))
    server.terminate()
    check("the server exits with 0", 0, server.wait(20))
    host.processes.remove(server)
    gone = once(host.port, "POST", "/v1/payloads", b'{"a":1}')
    check("without a container the response is 503 with Retry-After", (503, "5", "application/problem+json"),
          (gone.status, gone.headers["Retry-After"], gone.headers["Content-Type"]))


def proxy_of_the_admin_listener(host):
    """The script of 45-admin.config, with systemd's own tool in the place of the socket unit, and a `docker` that names the server's address.
    The container starts after the first connection. Docker 29 removed the address outside of `Networks`, so the template must be the one
    that all versions know."""
    tools, port = host.folder / "tools", free_port()
    tools.mkdir()
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    (tools / "docker").write_text(
        f"#!/bin/sh\n[ $1 = ps ] && {{ [ ! -e {tools}/ps ] || echo container; touch {tools}/ps; exit; }}\n"
        f"[ \"$*\" = 'inspect --format {template} container' ] && echo {host.address}\n")
    (tools / "docker").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    script = host.output / "host/usr/local/libexec/millpond-admin"
    activate = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", f"PATH={path}", script],
                                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": path})
    try:
        metrics = wait("the proxy of the admin listener", lambda: host.admin("GET", "/metrics", port, "127.0.0.1"))
        check("the admin listener is on the host's loopback", 200, metrics.status)
        anonymous = once(port, "GET", "/metrics")
        check("it asks for the token", 401, anonymous.status)
    finally:
        activate.terminate()
        activate.wait(10)
    return metrics.body.decode()


def agent(host, metrics):
    """The configuration of the CloudWatch agent selects metrics that exist, at the address and with the token that exist."""
    folder = host.output / "host/opt/aws/amazon-cloudwatch-agent/etc"
    prometheus = json.loads((folder / "millpond.json").read_text())["logs"]["metrics_collected"]["prometheus"]
    check("the agent reads the scrape configuration that is there", folder.name + "/millpond-prometheus.yml",
          "/".join(prometheus["prometheus_config_path"].split("/")[-2:]))
    declarations = prometheus["emf_processor"]["metric_declaration"]
    names = set(re.findall(r"^(millpond_\w+)", metrics, flags=re.M))
    absent = [selector for declared in declarations for selector in declared["metric_selectors"]
              if not any(re.search(selector, name) for name in names)]
    check("the agent selects metrics that exist", [], absent)
    resources = json.loads((host.output / "template.json").read_text())["Resources"].values()
    metrics_of_alarms = (resource.get("Properties", {}).get("MetricName", "") for resource in resources)
    alarms = {metric for metric in metrics_of_alarms if metric.startswith("millpond_")}
    selected = {selector.strip("^$") for declared in declarations for selector in declared["metric_selectors"]}
    check("the alarms are on metrics that the agent sends", (4, set()), (len(alarms), alarms - selected))
    scrape = configuration.load(folder / "millpond-prometheus.yml")["scrape_configs"][0]
    token = scrape["authorization"]["credentials_file"].replace(SERVER, str(host.data))
    check("the agent has the token", host.token(), Path(token).read_text().strip())
    check("the agent scrapes the host's loopback", ["127.0.0.1:9090"], scrape["static_configs"][0]["targets"])


def main(program, output):
    host = Host(program, output)
    try:
        interruption(host)
        server = host.start_server()
        host.start_nginx()
        bodies(host)
        connections(host)
        clients(host)
        secrets(host)
        agent(host, proxy_of_the_admin_listener(host))
        outages(host, server)
    finally:
        host.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
