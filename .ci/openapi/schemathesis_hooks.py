"""Sends generated NDJSON: schemathesis has no serializer for it. Loaded by .ci/schemathesis."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def ndjson(_context, value):
    # A string is valid data, so it becomes a valid line. Anything else is invalid data, so it becomes an invalid line.
    return json.dumps({"text": value} if isinstance(value, str) else [value]).encode()
