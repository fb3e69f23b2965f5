#!/bin/bash
# A change of the configuration, such as `eb setenv TOKENS_SECRET=…`, runs these hooks instead of those in hooks/.
exec "$(dirname "$0")/../../hooks/prebuild/10_tokens.sh"
