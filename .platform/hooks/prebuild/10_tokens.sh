#!/bin/bash
# Writes TOKENS_FILE from TOKENS_SECRET: the name or ARN of a secret of Secrets Manager, or, if it starts with `/` or is an
# ARN of SSM, of a parameter of the Parameter Store (SecureString). Does nothing without TOKENS_SECRET.
#
# Runs as root on the host in each deployment, before the container is replaced. If the secret cannot be read or is not JSON,
# the deployment ends here: the old container and the old file stay. After a rotation run it again on all instances
# (docs/deployment.md, "Tokens"): millpond reads a changed file within seconds, without a restart.
set -euo pipefail
PATH=$PATH:/opt/elasticbeanstalk/bin

# All at once: `get-config` fails in the same way for a setting that does not exist and when it cannot read them.
settings=$(get-config environment)

setting() {
    python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1" <<<"$settings"
}

secret=$(setting TOKENS_SECRET)
[[ -n $secret ]] || exit 0
file=$(setting TOKENS_FILE)
region=$(setting AWS_REGION)
[[ -n $file && -n $region ]] || { echo "TOKENS_SECRET needs TOKENS_FILE and AWS_REGION" >&2; exit 1; }

# In the same directory, so that the rename is atomic and millpond never reads half a file.
new=$(umask 077 && mktemp "$file.XXXXXX")
trap 'rm -f "$new"' EXIT
case $secret in
    /* | arn:*:ssm:*)
        aws ssm get-parameter --region "$region" --with-decryption --name "$secret" --query Parameter.Value --output text ;;
    *)
        aws secretsmanager get-secret-value --region "$region" --secret-id "$secret" --query SecretString --output text ;;
esac >"$new"
python3 -m json.tool "$new" >/dev/null || { echo "TOKENS_SECRET $secret is not JSON" >&2; exit 1; }
# The user of the image. The container sees the same path (Dockerrun.aws.json).
chown 10001:10001 "$new"
chmod 0400 "$new"
mv "$new" "$file"
