"""The hook that fetches TOKENS_FILE, with the AWS CLI against moto, and a server that reads its file.

tokens.py MILLPOND OUTPUT
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

import configuration
from proxy import SERVER, Host, check, once, wait

HOOK = configuration.ROOT / ".platform/confighooks/prebuild/10_tokens.sh"
REGION = "eu-central-1"


def tokens(token):
    return json.dumps({"tenants": [{"name": "shop", "tokens_sha256": [hashlib.sha256(token.encode()).hexdigest()]}]})


def hook(host, endpoint, settings):
    """As the platform runs it: as root, with `get-config` for the settings of the environment, or a `get-config` that fails."""
    tools = host.folder / "hook"
    tools.mkdir(exist_ok=True)
    get_config = tools / "get-config"
    get_config.write_text(f"#!/bin/sh\n[ \"$*\" = environment ] && echo '{json.dumps(settings)}'\n" if settings else "#!/bin/sh\nexit 1\n")
    get_config.chmod(0o755)
    environment = {"PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}", "AWS_ENDPOINT_URL": endpoint,
                   "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    script = HOOK
    if os.getuid() != 0:
        script = host.folder / "hook.sh"
        script.write_text((configuration.ROOT / ".platform/hooks/prebuild/10_tokens.sh").read_text().replace("10001", str(os.getuid())))
        script.chmod(0o755)
    return subprocess.run([script], env=environment, capture_output=True, text=True, cwd=configuration.ROOT)


def main(program, output):
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    secrets = boto3.client("secretsmanager", REGION, endpoint_url=endpoint)
    parameters = boto3.client("ssm", REGION, endpoint_url=endpoint)
    host = Host(program, output)
    try:
        file = host.secrets / "tokens.json"
        arn = secrets.create_secret(Name="millpond/tokens", SecretString=tokens("first-token-of-shop"))["ARN"]
        settings = {"AWS_REGION": REGION, "TOKENS_FILE": str(file)}

        check("without TOKENS_SECRET the hook does nothing", (0, False), (hook(host, endpoint, settings).returncode, file.exists()))
        settings["TOKENS_SECRET"] = arn
        check("if the settings cannot be read, the deployment ends", 1, hook(host, endpoint, None).returncode)
        ended = hook(host, endpoint, {name: value for name, value in settings.items() if name != "TOKENS_FILE"})
        check("without TOKENS_FILE too, and the message names it", (1, True), (ended.returncode, "TOKENS_FILE" in ended.stderr))
        ended = hook(host, endpoint, settings)
        check("the hook writes the secret", (0, ""), (ended.returncode, ended.stderr))
        status = file.stat()
        check("for the user of the image alone", (0o400, host.user), (status.st_mode & 0o777, status.st_uid))

        # The container gets all settings of the environment, also the ones of the hook.
        host.environment |= {"TOKENS_FILE": str(file).replace(str(host.data), SERVER), "TOKENS_SECRET": arn}
        host.start_server()
        send = lambda token: once(host.public, "POST", "/v1/payloads", b'{"a":1}', Authorization=f"Bearer {token}").status
        check("the server knows its tokens", (202, 403), (send("first-token-of-shop"), send("another-token-of-shop")))

        secrets.put_secret_value(SecretId=arn, SecretString=tokens("another-token-of-shop"))
        check("the hook runs again after a rotation", 0, hook(host, endpoint, settings).returncode)
        wait("the new token", lambda: send("another-token-of-shop") == 202)
        check("the server has the new token without a restart, and no longer the old one", 403, send("first-token-of-shop"))

        before = file.read_bytes()
        secrets.put_secret_value(SecretId=arn, SecretString="no JSON")
        ended = hook(host, endpoint, settings)
        check("a secret that is not JSON ends the deployment, and the file stays", (1, before), (ended.returncode, file.read_bytes()))
        check("and is not printed", False, "no JSON" in ended.stdout + ended.stderr)
        settings["TOKENS_SECRET"] = "millpond/none"
        ended = hook(host, endpoint, settings)
        check("so does one that is missing", (True, before), (ended.returncode != 0, file.read_bytes()))
        check("no temporary file is left", ["admin-token", "tokens.json"], sorted(path.name for path in file.parent.iterdir()))

        parameters.put_parameter(Name="/millpond/tokens", Value=tokens("token-of-the-parameter-store"), Type="SecureString")
        settings["TOKENS_SECRET"] = "/millpond/tokens"
        check("a parameter of SSM", 0, hook(host, endpoint, settings).returncode)
        wait("its token", lambda: send("token-of-the-parameter-store") == 202)
        print("ok: the server has its token")
    finally:
        host.stop()
        moto.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
