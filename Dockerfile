# The gateway as a small image: one binary, one configuration file, a user without rights.
#
#   docker build -t sluice .
#   docker run -p 8080:8080 -v ./gateway.yaml:/etc/sluice/gateway.yaml:ro sluice
#
# Other base images (a mirror, another distribution) go in as build arguments. The build image needs
# Rust and a C compiler; the run image bash and the same or a newer glibc.
#
# The binary is built twice, with a load in between that it is then laid out for: a request costs about
# an eighth less (docs/performance.md). That takes two cores, Debian's packages and twice the time;
# `--build-arg PROFILED=` does without.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG PROFILED=1
WORKDIR /build
RUN [ -z "$PROFILED" ] || { \
      apt-get update -qq \
      && apt-get install -y -qq --no-install-recommends nghttp2-client openssl python3 util-linux wrk \
      && { [ -x "$(command -v rustup)" ] && rustup component add llvm-tools || true; } \
    ; } || { echo 'not prepared for a load; --build-arg PROFILED= builds without one' >&2; exit 1; }
COPY . .
RUN if [ -z "$PROFILED" ]; then cargo build --profile dist --locked --bin sluice && built=target/dist/sluice; \
    else built=$(benches/compare/profiled) \
      || { echo 'not built by profile; --build-arg PROFILED= builds without' >&2; exit 1; }; fi \
 && strip --strip-debug -o /build/sluice "$built"

FROM ${RUN_IMAGE}
# A fixed, unprivileged number, so that the owner of a mounted volume can be set from outside.
RUN groupadd --gid 10001 sluice \
 && useradd --uid 10001 --gid sluice --no-create-home --home-dir /var/lib/sluice --shell /usr/sbin/nologin sluice \
 && install -d -o sluice -g sluice -m 0750 /var/lib/sluice
COPY --from=build /build/sluice /usr/local/bin/sluice
COPY gateway.yaml /etc/sluice/gateway.yaml
USER 10001:10001
WORKDIR /var/lib/sluice
EXPOSE 8080
# Liveness over the admin listener, from inside and without a client program: bash opens sockets.
# Another `admin.address` (or none on loopback) needs another SLUICE_ADMIN_PORT.
ENV SLUICE_ADMIN_PORT=9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/bin/bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/$SLUICE_ADMIN_PORT && printf 'GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 2 _ status _ <&3 && [ \"$status\" = 200 ]"]
# The drain begins; give it time with `docker stop --time`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["run", "-c", "/etc/sluice/gateway.yaml"]
