# The control plane as an image: no secret in any layer, and nothing of it writable but /data.
#
#   docker build --build-arg COMMIT="$(git rev-parse HEAD)" --build-arg BUILT_AT="$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
#     --tag ironcage:0.1.0 .

# The minor version of Python that the suite is run with.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Where it will stay: a virtual environment does not move.
RUN python -m venv /opt/ironcage
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN /opt/ironcage/bin/pip install --constraint constraints.txt '.[server]'

FROM python:${PYTHON}
ARG COMMIT=""
ARG BUILT_AT=""
LABEL org.opencontainers.image.title="ironcage" \
      org.opencontainers.image.description="A control plane that lends AI agents a hard budget and a sealed provider key." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${BUILT_AT}"
RUN groupadd --gid 1000 ironcage \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /data --shell /usr/sbin/nologin ironcage \
    && install --directory --owner 1000 --group 1000 --mode 0700 /data
COPY --from=build /opt/ironcage /opt/ironcage
ENV PATH="/opt/ironcage/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE="1" \
    PYTHONUNBUFFERED="1" \
    DATABASE_URL="sqlite:////data/iron.db" \
    SERVER_HOST="0.0.0.0" \
    SERVER_PORT="8080" \
    IRON_DEPLOYMENT_MODE="production" \
    IRON_BUILD_COMMIT="${COMMIT}" \
    IRON_BUILD_TIME="${BUILT_AT}"
USER 1000:1000
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "ironcage api GET /health --url http://127.0.0.1:${SERVER_PORT} || exit 1"]
ENTRYPOINT ["ironcage"]
CMD ["serve"]
