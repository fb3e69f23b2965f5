#!/bin/sh
# A change of the environment's configuration writes nginx.conf anew, too.
exec "$(dirname "$0")/../../hooks/predeploy/50-nginx-connections.sh"
