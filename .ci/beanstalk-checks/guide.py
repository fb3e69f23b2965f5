"""Runs the commands of docs/deployment.md, "First deployment", in a copy of the files, with stand-ins for `aws` and `eb` that write
down their arguments.

guide.py COPY
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import configuration
from proxy import check

ACCOUNT, BUCKET, REGION = "222233334444", "another-bucket", "us-east-2"
STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=calls)
if "--query" in sys.argv:
    print("{ACCOUNT}")
if sys.argv[1] == "init":
    os.mkdir(".elasticbeanstalk")
    with open(".elasticbeanstalk/config.yml", "w") as file:
        file.write("global: {{}}\\n")
"""


def commands():
    section = (configuration.ROOT / "docs/deployment.md").read_text().split("\n## First deployment\n")[1].split("\n## ")[0]
    text = "\n".join(re.findall(r"^   ```sh\n(.*?)^   ```$", section, flags=re.M | re.S))
    return text.replace("BUCKET=my-telemetry", f"BUCKET={BUCKET}").replace("AWS_REGION=eu-central-1", f"AWS_REGION={REGION}")


def run(copy):
    """The arguments of each call."""
    tools, calls = copy / "stand-ins", copy / "calls"
    tools.mkdir()
    for name in ["aws", "eb"]:
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run(["bash", "-euc", commands()], cwd=copy, env=environment, stdin=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in calls.read_text().splitlines()]


def main(copy):
    calls = run(copy)

    def arguments_of(option):
        return [call[call.index(option) + 1] for call in calls if option in call]

    policies = [json.loads(document) for document in arguments_of("--policy-document")]
    text = json.dumps(policies)
    check("the policies are for this account", [], [old for old in ["my-telemetry", "eu-central-1", "111122223333"] if old in text])
    check("and for the prefix of the objects", (True, [f"S3_BUCKET={BUCKET},S3_PREFIX=fleet"]),
          (f"arn:aws:s3:::{BUCKET}/fleet/*" in text, arguments_of("--envvars")))
    (create,) = [call for call in calls if call[:2] == ["eb", "create"]]
    check("scale-in is allowed for this environment", True, f'environment-name": "{create[2]}"' in text)
    check("the environment has the profile with the role", arguments_of("--instance-profile-name"), arguments_of("--instance_profile") * 2)
    artifact = configuration.load(copy / ".elasticbeanstalk/config.yml")["deploy"]["artifact"]
    image = json.load(zipfile.ZipFile(copy / artifact).open("Dockerrun.aws.json"))["Image"]["Name"]
    check("the EB CLI deploys the bundle with the image", f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/millpond:", image.rstrip("0123456789."))
    content = configuration.merged()
    (update,) = [call for call in calls if "--options-to-remove" in call]
    removed = [part.removeprefix("Namespace=").split(",OptionName=") for part in update[update.index("--options-to-remove") + 1:]]
    check("the options to remove are those of the files", (2, True),
          (len(removed), all(name in content["option_settings"][namespace] for namespace, name in removed)))
    check("the topic of the alarms exists", True, all(name in content["Resources"] for name in arguments_of("--logical-resource-id")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
