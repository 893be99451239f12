# The image of every role. Build: docker build -t sumu:0.1.0 .
# Changes of the code alone rebuild no dependency: those are a layer that hangs on the manifests only.

FROM rust:1.95.0-slim-bookworm AS rust
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential libssl-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# The manifests alone, and empty crates to hang the dependencies on.
FROM rust AS manifests
COPY . .
RUN mkdir /manifests && scripts/manifests /manifests

FROM rust AS build
COPY --from=manifests /manifests .
RUN cargo build --release --locked -p sumu && rm -rf ./*/src ./*/tests
COPY . .
# Newer than the empty crates.
RUN find . -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p sumu \
 && strip --strip-debug target/release/sumu

FROM debian:12.13-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin sumu
COPY --from=build /src/target/release/sumu /usr/local/bin/sumu
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081
ENTRYPOINT ["sumu"]
CMD ["--help"]
