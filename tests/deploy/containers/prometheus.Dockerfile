# Stands in for prom/prometheus where no registry answers: its paths, user and entry point.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE} AS package
WORKDIR /package
RUN apt-get update && apt-get download prometheus busybox \
 && for package in *.deb; do dpkg-deb -x "$package" .; done \
 && install -d -o 65534 -g 65534 prometheus
FROM ${BASE_IMAGE}
COPY --from=package /package/usr/bin/prometheus /bin/prometheus
COPY --from=package /package/usr/bin/busybox /bin/wget
COPY --from=package --chown=65534:65534 /package/prometheus /prometheus
USER 65534
EXPOSE 9090
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
