# The gateway as a small image: one binary, one configuration file, a user without rights.
#
#   docker build -t sluice .
#   docker run -p 8080:8080 -v ./gateway.yaml:/etc/sluice/gateway.yaml:ro sluice
#
# Other base images (a mirror, another distribution) go in as build arguments. The build image needs
# Rust and a C compiler; the run image bash and the same or a newer glibc.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN cargo build --profile dist --locked --bin sluice \
 && strip --strip-debug -o /build/sluice target/dist/sluice

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
