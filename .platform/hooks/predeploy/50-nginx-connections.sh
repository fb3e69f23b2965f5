#!/bin/sh
# No file in conf.d can set worker_connections, so this changes the nginx.conf that the platform is about to install. A request in
# progress uses two connections: with the platform's 1,024 and two processes of nginx, about 1,000 requests could be in progress,
# which a second in which the disk stalls exceeds. The platform's limit on open files is above 30,000.
set -eu
conf=${1:-/var/proxy/staging/nginx/nginx.conf}
sed -i -E 's/^( *worker_connections +)[0-9]+;/\18192;/' "$conf"
grep -q 'worker_connections *8192;' "$conf"
