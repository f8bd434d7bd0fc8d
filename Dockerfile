# One static binary on an empty base: the image holds no shell and no library that could be outdated or exploited.
FROM golang:1.26 AS build
WORKDIR /src

# For networks with a module mirror of their own; an empty value leaves the go command its default.
ARG GOPROXY GOSUMDB

# The modules are a layer of their own: otherwise every source change would download them again.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

COPY services services
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/usr/local/bin/balanza ./services/balanza
# os/user finds no name for uid 65532 without a passwd file, and TLS to MongoDB Atlas fails without CA certificates.
RUN mkdir -p /out/etc/ssl/certs \
    && echo 'balanza:x:65532:65532:Balanza:/run/balanza:/sbin/nologin' >/out/etc/passwd \
    && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="Balanza" \
      org.opencontainers.image.description="Load-balanced web application: chat, products and random numbers" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.base.name="scratch"
COPY --from=build /out /
# Control sockets and state: Compose mounts a tmpfs there, since the rest of the container is read-only.
ENV BALANZA_HOME=/run/balanza \
    BALANZA_LOG_FORMAT=json
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# The check runs every 500 ms during the start, so that a stack is healthy within seconds, and every 10 s afterwards.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s --start-interval=500ms CMD ["balanza", "healthcheck"]
ENTRYPOINT ["balanza"]
