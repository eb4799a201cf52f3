# The kernel's witness (etlt-probe), with the distribution's BCC, which belongs to the distribution's Python.
#
#   docker build -f deploy/etlt-probe.Dockerfile -t etlt-probe .      (from the top of the work tree)
#   docker run --rm --read-only --cap-drop ALL --cap-add BPF --cap-add PERFMON \
#     --security-opt no-new-privileges --pid container:SERVER etlt-probe --once --pid 1
#
# Docker older than 23 knows neither capability: there it takes --cap-add SYS_ADMIN instead.
# It needs no mount, no kernel headers, no tracefs and no network of the host.
# Plain instructions only, so that the classic builder of Docker 20.10 builds it as BuildKit does.
# The base is an argument, to be pinned by digest or mirrored: --build-arg BASE_IMAGE=debian@sha256:...
ARG BASE_IMAGE=debian:trixie-slim

# These two stages are the same, word for word, as in Dockerfile: they are built once for both.
FROM ${BASE_IMAGE} AS python
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*

FROM python AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/etlt
WORKDIR /src
# requirements-bus.lock: with what --bus needs.
ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} requirements.lock
# nkeys, which --bus needs, is pure Python and published as source alone.
RUN /opt/pip/bin/pip --python /opt/etlt/bin/python install --require-hashes --only-binary :all: --no-binary nkeys -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY etltd etltd
COPY loadclient loadclient
COPY ebpf ebpf
RUN /opt/pip/bin/pip --python /opt/etlt/bin/python install --no-deps .
COPY deploy/healthcheck.py /opt/etlt/healthcheck.py

FROM python
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-bpfcc \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
COPY --from=build /opt/etlt /opt/etlt
# dist-packages holds python3-bpfcc here and nothing that could hide what the lock file installed.
ENV PATH=/opt/etlt/bin:$PATH PYTHONPATH=/usr/lib/python3/dist-packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV ETLT_PROBE_HOST=0.0.0.0
# It stays uid 0: an engine gives added capabilities to root alone (there are no ambient ones).
# Of root it has only those two capabilities.
EXPOSE 9701
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python3", "-IS", "/opt/etlt/healthcheck.py", "ETLT_PROBE_PORT", "9701", "/metrics"]
ENTRYPOINT ["etlt-probe"]
CMD ["--comm", "etltd"]
ARG VERSION=0.1.0
ARG COMMIT=
ENV ETLT_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="etlt-probe" \
      org.opencontainers.image.description="Counts what an epoll server does, from the kernel's side and exactly" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
