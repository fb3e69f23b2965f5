"""Sends batches to millpond servers, and compares the counters and gauges that a StatsD daemon has received from them with
their /metrics.

Arguments: the management port of the daemon, and for each server its prefix, its tags (off, dogstatsd), its public address and
its admin address.
"""

import http.client
import re
import socket
import sys
import threading
import time

CLIENTS = 4
BATCHES_PER_CLIENT = 250
TIMEOUT_SECONDS = 30
# Labels in the order in which millpond sends them.
LEADING_LABELS = ("route", "tenant")
# The daemon and /metrics are read at different times, so only gauges that do not change while the server is idle are compared.
GAUGES = ("upload_limit", "busy_workers", "jobs_waiting", "payloads_waiting", "connections", "requests_in_flight")
PERCENTILES = ("request_ms", "commit_ms", "frame_jobs")


def send_batches(address):
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    for number in range(BATCHES_PER_CLIENT):
        body = '{"n": %d}' % number if number % 10 else "no JSON"
        connection.request("POST", "/v1/payloads", body)
        response = connection.getresponse()
        response.read()
        assert response.status == (202 if number % 10 else 400), response.status
    connection.close()


def load(address):
    clients = [threading.Thread(target=send_batches, args=(address,)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def managed(port, command):
    """What the daemon has received, by name: {'a.b': 1}."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(command.encode() + b"\n")
        text = b""
        while not text.endswith(b"END\n\n"):
            part = connection.recv(65536)
            assert part, "the daemon closed the connection"
            text += part
    found = re.findall(r"(?:'([^']*)'|(\w+)): (-?[\d.]+(?:e[+-]?\d+)?)", text.decode())
    return {quoted or bare: float(value) for quoted, bare, value in found}


def series(name, labels, tags):
    """The name under which the daemon keeps a series."""
    labels = re.findall(r'(\w+)="([^"]*)"', labels or "")
    labels.sort(key=lambda label: label[0] not in LEADING_LABELS)
    if tags == "off":
        return ".".join([name] + [re.sub(r"[^A-Za-z0-9_-]", "_", value) for _, value in labels])
    return ";".join([name] + [f"{label}={value}" for label, value in labels])


def metrics(address, prefix, tags):
    """The counters and the gauges of a server, as the daemon should name them."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    counters, gauges = {}, {}
    for name, labels, value in re.findall(r"^(millpond_\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        short = name.removeprefix("millpond_").removesuffix("_total")
        of_histogram = name.removesuffix("_count")
        if kinds.get(name) == "counter" and "_seconds" not in name:
            counters[series(f"{prefix}.{short}", labels, tags)] = float(value)
        elif kinds.get(of_histogram) == "histogram" and name.endswith("_count"):
            short = short.removesuffix("_count").replace("_seconds", "_ms")
            key = series(f"{prefix}.{short}", labels, tags)
            # The last part of a name precedes the tags.
            key = f"{key}.count" if tags == "off" else key.replace(f"{prefix}.{short}", f"{prefix}.{short}.count", 1)
            counters[key] = float(value)
        elif short in GAUGES:
            gauges[f"{prefix}.{short}"] = float(value)
    return {name: value for name, value in counters.items() if value}, gauges


def differences(port, prefix, tags, address):
    expected_counters, expected_gauges = metrics(address, prefix, tags)
    counters, gauges = managed(port, "counters"), managed(port, "gauges")
    received = {name: value for name, value in counters.items() if name.startswith(prefix) and "_seconds" not in name}
    differing = {
        name: (received.get(name), expected_counters.get(name))
        for name in received.keys() | expected_counters.keys()
        if received.get(name) != expected_counters.get(name)
    }
    differing |= {
        name: (gauges.get(name), value) for name, value in expected_gauges.items() if gauges.get(name) != value
    }
    for name in PERCENTILES:
        values = [value for key, value in gauges.items() if key.startswith(f"{prefix}.{name}") and ".p99" in key]
        if not values or not all(value > 0 for value in values):
            differing[f"{prefix}.{name}.p99"] = (values, "above 0")
    assert len(expected_counters) > 5 and len(expected_gauges) == len(GAUGES), (expected_counters, expected_gauges)
    return differing, len(expected_counters), len(expected_gauges)


def main():
    port, servers = int(sys.argv[1]), sys.argv[2:]
    for prefix, tags, public, admin in zip(*[iter(servers)] * 4, strict=True):
        load(public)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            differing, counters, gauges = differences(port, prefix, tags, admin)
            if not differing:
                break
            if time.monotonic() > deadline:
                sys.exit(f"STATSD_TAGS={tags}: the daemon and /metrics differ: {differing}")
            time.sleep(0.2)
        print(f"STATSD_TAGS={tags}: {counters} counters and {gauges} gauges of the daemon equal those of /metrics")
    totals = managed(port, "counters")
    assert totals["statsd.bad_lines_seen"] == 0 and totals["statsd.packets_received"] > 0, totals
    print(f"{totals['statsd.metrics_received']:.0f} lines in {totals['statsd.packets_received']:.0f} datagrams, none of them bad")


main()
