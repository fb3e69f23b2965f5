# The image has the program, the libraries that it is linked to and the CA certificates: no shell, no package manager.
# To pin the bases: --build-arg RUST_IMAGE=docker.io/library/rust@sha256:… --build-arg DEBIAN_IMAGE=docker.io/library/debian@sha256:…
# The program is compiled on Debian's previous release, so that it also runs on systems with an older C library (2.34).
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:trixie-slim

FROM ${RUST_IMAGE} AS builder
WORKDIR /build
# No path of this stage gets into the program, and no time: the same sources give the same bytes.
ENV CARGO_HOME=/usr/local/cargo \
    RUSTFLAGS="--remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/build=/millpond" \
    SOURCE_DATE_EPOCH=0

# The dependencies, compiled for empty crates: this layer is rebuilt only when a manifest or Cargo.lock changes. `cargo
# clean` removes the empty crate, so that the next layer compiles the real one even if its files are older.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/
RUN mkdir -p src loadtest/src benches/rooms \
    && printf '//! Empty.\n' > src/lib.rs \
    && printf '//! Empty.\nfn main() {}\n' > src/main.rs \
    && cp src/main.rs benches/rooms/ \
    && cp src/lib.rs src/main.rs loadtest/src/ \
    && cargo build --release --locked -p millpond \
    && cargo clean --release -p millpond

COPY src src
RUN cargo build --release --locked -p millpond

# The symbols stay, because CPU profiles name functions by them. The line tables are four fifths of the file: a debugger
# finds them in the second file.
RUN mkdir /out \
    && objcopy --only-keep-debug target/release/millpond /out/millpond.debug \
    && objcopy --strip-debug --add-gnu-debuglink=/out/millpond.debug target/release/millpond /out/millpond \
    && cp /etc/ssl/certs/ca-certificates.crt /out/


# `docker build --target program --output FOLDER .` writes these three files.
FROM scratch AS program
COPY --from=builder /out /


FROM ${DEBIAN_IMAGE} AS files
COPY --from=program /millpond /millpond
# What scanners read to know the versions of the libraries is in status.d. All data that must outlive the container is in /data.
RUN ldd /millpond > /linked \
    && grep -o '/lib[^ ]*' /linked > /libraries \
    && xargs -I '{}' install -D '{}' '/files{}' < /libraries \
    && mkdir -p /files/etc /files/var/lib/dpkg/status.d \
    && echo 'hosts: files dns' > /files/etc/nsswitch.conf \
    && dpkg --status libc6 > /files/var/lib/dpkg/status.d/libc6 \
    && dpkg --status libgcc-s1 > /files/var/lib/dpkg/status.d/libgcc-s1 \
    && install -d -o 10001 -g 10001 -m 0750 /data/millpond


FROM scratch
COPY --from=files /files /
COPY --from=program /ca-certificates.crt /etc/ssl/certs/
# Mount a volume at /var/lib/millpond. A directory of the host keeps its owner, so it must belong to 10001 before the
# container starts (.ebextensions/40-host.config).
COPY --from=files --chown=10001:10001 /data /var/lib
COPY --from=program /millpond /usr/local/bin/

# The root file system may be read-only: temporary files are on the volume too.
ENV SPOOL_DIR=/var/lib/millpond/spool \
    STORE_DIR=/var/lib/millpond/objects \
    TMPDIR=/var/lib/millpond
WORKDIR /var/lib/millpond

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
