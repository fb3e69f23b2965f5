# Two stages: the final image has the binary, the CA certificates and a base system, but no toolchain.

FROM rust:1.95-bookworm AS builder
WORKDIR /build

# The dependencies, compiled for empty crates: this layer is rebuilt only when a manifest or Cargo.lock changes. `cargo
# clean` removes the empty crate, so that the next layer compiles the real one even if its files are older.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p src loadtest/src \
    && printf '//! Empty.\n' > src/lib.rs \
    && printf '//! Empty.\nfn main() {}\n' > src/main.rs \
    && cp src/lib.rs src/main.rs loadtest/src/ \
    && cargo build --release --locked -p millpond \
    && cargo clean --release -p millpond

COPY src src
RUN cargo build --release --locked -p millpond


FROM debian:bookworm-slim

# TLS connections to S3 need the system's root certificates, which the slim image lacks.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/

# All data that must outlive the container is under this directory: mount a volume here. A directory of the host keeps
# its owner, so it must belong to 10001 before the container starts (.ebextensions/40-host.config).
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/millpond
ENV SPOOL_DIR=/var/lib/millpond/spool \
    STORE_DIR=/var/lib/millpond/objects
WORKDIR /var/lib/millpond

COPY --from=builder /build/target/release/millpond /usr/local/bin/millpond

# A number needs no entry in /etc/passwd of the image, and the host can use the same one as the owner of the volume.
USER 10001:10001

# Only the public listener. The admin listener is on the container's loopback, unless ADMIN_ADDR and ADMIN_TOKEN are
# set.
EXPOSE 8080

# Starts a graceful shutdown of up to SHUTDOWN_GRACE. `docker stop` kills after 10 s: give it a `-t` above
# SHUTDOWN_GRACE.
STOPSIGNAL SIGTERM

# No HEALTHCHECK: Docker only displays its result, and it would need an HTTP client in the image. Load balancers and
# orchestrators request GET /health themselves.

ENTRYPOINT ["/usr/local/bin/millpond"]
