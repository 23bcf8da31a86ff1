# The worker as an image: `make image`. It has one program and what it links to, no shell and no package manager; it runs as
# uid 65532 and writes nowhere.

# The digests of the base images, `sha256:…`. Without one, the name alone counts. Renovate writes them here
# (.github/renovate.json); a release takes those that are missing from the registry, and docs/release.md says so.
# renovate: datasource=docker depName=rust currentValue=1.95.0-slim-bookworm
ARG RUST_DIGEST=
# renovate: datasource=docker depName=gcr.io/distroless/cc-debian12 currentValue=nonroot
ARG BASE_DIGEST=

FROM rust:1.95.0-slim-bookworm${RUST_DIGEST:+@}${RUST_DIGEST} AS build
WORKDIR /build
# Cargo features, separated by commas: fips is TLS by the FIPS module of AWS-LC.
ARG FEATURES=""
# jemalloc is built with make, which the slim image does not hold. A pinned version would be gone with the next Debian.
# hadolint ignore=DL3008
RUN command -v make >/dev/null \
 || (apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*)
# Writes the list of the dependencies into the program, where `cargo audit bin` and scanners of images find it. Unoptimised:
# it only calls the compiler.
RUN CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked cargo-auditable@0.7.7
# The FIPS module is built with cmake and Go.
# hadolint ignore=DL3008
RUN case ",$FEATURES," in *,fips,*) \
      apt-get update && apt-get install -y --no-install-recommends cmake golang-go && rm -rf /var/lib/apt/lists/* ;; \
    esac
# Kernels for ARM may have pages of 64 KiB, and jemalloc runs with none larger than it was built for.
RUN [ "$(uname -m)" != aarch64 ] || echo 'env.JEMALLOC_SYS_WITH_LG_PAGE = "16"' >"$CARGO_HOME/config.toml"

# The dependencies alone: this layer is built again only when a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY tests/kit/Cargo.toml tests/kit/
COPY tests/testbed/Cargo.toml tests/testbed/
COPY tools/demo/Cargo.toml tools/demo/
COPY tools/soak/Cargo.toml tools/soak/
RUN mkdir -p src tests/kit/src tests/testbed/src tools/demo/src tools/soak/src \
 && for member in . tools/demo tools/soak; do echo 'fn main() {}' >"$member/src/main.rs"; done \
 && touch src/lib.rs tests/kit/src/lib.rs tests/testbed/src/lib.rs \
 && cargo auditable build --release --locked --features "$FEATURES" --bin unlocker \
 && rm -r src

COPY config config
COPY templates templates
COPY src src
# Cargo goes by the time of change, and the sources may be older than the placeholders that were built above.
RUN find src -name '*.rs' -exec touch {} + \
 && cargo auditable build --release --locked --features "$FEATURES" --bin unlocker

FROM gcr.io/distroless/cc-debian12:nonroot${BASE_DIGEST:+@}${BASE_DIGEST}
# From Cargo.toml and the commit: scripts/image gives them.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="trackfinity-unlocker" \
      org.opencontainers.image.description="Unlocks Trackfinity customers on request: RabbitMQ in, one PATCH with retry and backoff, outcome out" \
      org.opencontainers.image.source="https://github.com/trackfinity-unlocker/trackfinity-unlocker" \
      org.opencontainers.image.documentation="https://github.com/trackfinity-unlocker/trackfinity-unlocker/blob/main/docs/production.md" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
COPY --from=build /build/target/release/unlocker /unlocker
COPY LICENSE-APACHE LICENSE-MIT /licenses/
# Probes and Prometheus come from outside of the container. With the stack's size set here, the program need not start
# itself once more to set it.
ENV UNLOCKER__OPS__LISTEN=0.0.0.0:9464 \
    RUST_MIN_STACK=1073741824
EXPOSE 9464 8090 8080 9465
USER 65532:65532
ENTRYPOINT ["/unlocker"]
CMD ["run"]
