# Redfleet's two images, from one build: `--target worker` and `--target controller`.
# Plain enough for the legacy builder; BuildKit builds it just as well.

ARG RUST_IMAGE=rust:1-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# One layer builds, keeps the two binaries and drops the rest: what compiling leaves behind is
# a hundred times what it makes, and the legacy builder would store it at every change.
ARG PROFILE=release
RUN cargo build --profile ${PROFILE} --locked --target-dir /tmp/target -p worker -p controller \
    && mkdir /out \
    && cp /tmp/target/*/worker /tmp/target/*/ctl /out/ \
    && rm -rf /tmp/target

FROM ${BASE_IMAGE} AS base
RUN groupadd --gid 10001 redfleet \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/redfleet \
        --shell /usr/sbin/nologin redfleet \
    && install -d -o 10001 -g 10001 /var/lib/redfleet /trust /known \
    && install -d -o 10001 -g 10001 -m 700 /key
WORKDIR /var/lib/redfleet
USER 10001:10001

FROM base AS worker
COPY --from=build /out/worker /usr/local/bin/worker
ENTRYPOINT ["worker"]

FROM base AS controller
COPY --from=build /out/ctl /usr/local/bin/ctl
ENTRYPOINT ["ctl"]
