"""Lints deploy/iam with parliament (unknown actions, resources and conditions that do not fit them), and checks what it does not
know: no wildcards in actions, and the calls that are documented.

policies.py
"""

import json
import sys

import parliament

import configuration

FOLDER = configuration.ROOT / "deploy/iam"


def statements(policy):
    for statement in policy["Statement"]:
        actions = statement["Action"]
        yield statement, [actions] if isinstance(actions, str) else actions


problems = []
for path in sorted(FOLDER.glob("*.json")):
    text = path.read_text()
    findings = parliament.analyze_policy_string(text, path.name).findings
    problems += [f"{path.name}: {finding.issue} {finding.detail}" for finding in findings]
    for statement, actions in statements(json.loads(text)):
        problems += [f"{path.name}: {action} is a wildcard" for action in actions if "*" in action]
        # Calls that list have no resource. A condition can limit others.
        needs_none = all(action.split(":")[1].startswith("Describe") for action in actions) or "Condition" in statement
        if statement["Effect"] != "Allow" or (statement["Resource"] == "*" and not needs_none):
            problems.append(f"{path.name}: {statement['Sid']} is not limited to a resource")
    print(f"{path.name}: {', '.join(action for _, actions in statements(json.loads(text)) for action in actions)}")
# The linter itself works: it finds an action that does not exist.
broken = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:PutObjects", "Resource": "arn:aws:s3:::a/*"}]}'
assert parliament.analyze_policy_string(broken).findings, "parliament finds nothing"
sys.exit("\n".join(problems) if problems else 0)
