"""Checks the configuration files of Elastic Beanstalk, as a deployment would read them: each file, and all merged in the order
of their names. Writes the resources as a template for cfn-lint, and the files that they create on the host.

configuration.py OUTPUT [EXAMPLE...]: the examples are files that operators copy to .ebextensions/.
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SECTIONS = {"option_settings", "Resources", "files", "commands", "container_commands"}
ENVIRONMENT = "aws:elasticbeanstalk:application:environment"


class UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a message."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        if len(keys) != len(set(keys)):
            raise SystemExit(f"{node.start_mark}: a key occurs twice: {keys}")
        return super().construct_mapping(node, deep)


def load(path):
    return yaml.load(path.read_text(), UniqueKeys)


def merge(into, other):
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def merged(examples=()):
    """All files, as if the examples had been copied to .ebextensions/."""
    everything = {section: {} for section in SECTIONS}
    for path in sorted([*(ROOT / ".ebextensions").glob("*.config"), *examples], key=lambda path: path.name):
        content = load(path)
        assert set(content) <= SECTIONS, f"{path}: unknown sections {set(content) - SECTIONS}"
        merge(everything, content)
    return everything


def is_valid(value, rule):
    if not isinstance(value, str):
        return False  # YAML's own types, such as a boolean, become texts that the service does not know.
    if isinstance(rule, list):
        return value in rule
    if isinstance(rule, dict):
        return value.isdigit() and rule["from"] <= int(value) <= rule["to"]
    if rule == "json":
        return bool(json.loads(value))
    return re.fullmatch(rule, value) is not None


def problems_of_options(options):
    table = load(HERE / "options.yml")
    for namespace, values in options.items():
        rules = table.get(namespace)
        if rules is None:
            yield f"unknown namespace {namespace}"
            continue
        for name, value in values.items():
            if rules == "any":
                if not isinstance(value, str):
                    yield f"{namespace} {name}: {value!r} is not a text: quote it"
            elif name not in rules:
                yield f"{namespace} has no option {name}, or .ci/beanstalk-checks/options.yml does not list it"
            elif not is_valid(value, rules[name]):
                yield f"{namespace} {name}: {value!r} is not one of {rules[name]}"


def problems_between_options(options):
    group, trigger = options["aws:autoscaling:asg"], options["aws:autoscaling:trigger"]
    if int(trigger["Period"]) * int(trigger["EvaluationPeriods"]) != int(trigger["BreachDuration"]):
        yield "BreachDuration is not Period * EvaluationPeriods, so the service changes one of them"
    if int(group["MinSize"]) > int(group["MaxSize"]):
        yield "MinSize is above MaxSize"
    if float(trigger["LowerThreshold"]) >= float(trigger["UpperThreshold"]):
        yield "LowerThreshold is not below UpperThreshold"
    health = options["aws:elasticbeanstalk:environment:process:default"]
    if int(health["HealthCheckTimeout"]) >= int(health["HealthCheckInterval"]):
        yield "HealthCheckTimeout is not below HealthCheckInterval"
    public = options["aws:ec2:vpc"]["ELBScheme"] != "internal"
    if public and ("TOKENS_FILE" not in options[ENVIRONMENT] or "aws:elbv2:listener:443" not in options):
        yield "a public load balancer needs HTTPS and TOKENS_FILE"


def agreement(content):
    """The simulated policy is the deployed one."""
    import tomllib

    model = tomllib.loads((ROOT / "loadtest/simulate/model.toml").read_text())
    trigger, requests = model["policy"]["beanstalk"]["policies"]
    options = content["option_settings"]
    deployed = options["aws:autoscaling:trigger"]
    target = content["Resources"]["MillpondRequests"]["Properties"]["TargetTrackingConfiguration"]["TargetValue"]
    pairs = {
        "UpperThreshold": (trigger["above"], int(deployed["UpperThreshold"])),
        "LowerThreshold": (trigger["below"], int(deployed["LowerThreshold"])),
        "EvaluationPeriods": (trigger["periods"], int(deployed["EvaluationPeriods"])),
        "Cooldown": (trigger["cooldown"], options["aws:autoscaling:asg"]["Cooldown"] + "s"),
        "TargetValue": (requests["target"] * 60, target),
        "MinSize": (model["group"]["min"], int(options["aws:autoscaling:asg"]["MinSize"])),
        "InstanceTypes": (model["machine"]["name"], options["aws:ec2:instances"]["InstanceTypes"]),
    }
    for name, (simulated, written) in pairs.items():
        if simulated != written:
            yield f"{name} is {written}, and loadtest/simulate/model.toml has {simulated}"


def main(output, examples):
    content = merged(examples)
    options = content["option_settings"]
    # The others read options, which must be there.
    problems = [*problems_of_options(options)] or [*problems_between_options(options), *agreement(content)]
    output.mkdir(parents=True, exist_ok=True)
    template = load(HERE / "template.yml")
    merge(template, {"Resources": content["Resources"]})
    (output / "template.json").write_text(json.dumps(template, indent=2))
    for name, file in content["files"].items():
        target = output / "host" / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file["content"])
        target.chmod(int(file["mode"][-4:], 8))
    print(f"{sum(map(len, options.values()))} options, {len(content['Resources'])} resources, {len(content['files'])} files")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(example) for example in sys.argv[2:]])
