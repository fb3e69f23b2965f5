# Two stages: the toolchain stays behind, the final image holds the binary, the CA certificates and a base system.

FROM rust:1.95-bookworm AS builder
WORKDIR /build

# The dependencies, compiled against empty crates: this layer is built again only when a manifest or the lock changes.
# `cargo clean` forgets the empty crate, so that the next layer cannot mistake it for the real one by its time stamps.
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

# TLS to S3 is checked against the system's root certificates, which the slim image lacks.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/

# Whatever must outlive the container lies under this one folder: mount a volume of the host here. A folder of the host
# keeps the host's owner, so it has to belong to 10001 before the container starts (.ebextensions/40-host.config).
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/millpond
ENV SPOOL_DIR=/var/lib/millpond/spool \
    STORE_DIR=/var/lib/millpond/objects
WORKDIR /var/lib/millpond

COPY --from=builder /build/target/release/millpond /usr/local/bin/millpond

# A number: it needs no entry in the image's passwd, and the host can name the same owner.
USER 10001:10001

# The public edge alone. The admin listener stays on the container's loopback.
EXPOSE 8080

# Starts the drain, which takes up to SHUTDOWN_GRACE. `docker stop` kills after 10 s: give it `-t` above the grace.
STOPSIGNAL SIGTERM

# No HEALTHCHECK: Docker only displays its outcome. What acts on health, a load balancer or an orchestrator, asks
# GET /health itself, and the image needs no HTTP client for it.

ENTRYPOINT ["/usr/local/bin/millpond"]
