# The sidecar's image. Two stages of one base, for a virtual environment links into the Python that made it.
# The tag is for people; the digest is what is built from. To move on, change both here, or name your own base with --build-arg.
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON_IMAGE} AS build
# For those who install from a mirror: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
# Equal sources give equal files: bytecode is checked against nothing, rather than against the time of its source.
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    SOURCE_DATE_EPOCH=315532800
WORKDIR /src
COPY requirements/build.txt requirements/sidecar.txt requirements/
RUN python -m venv --without-pip /build \
    && python -m pip --python /build/bin/python install --require-hashes -r requirements/build.txt
RUN python -m venv --without-pip /opt/datafile-sidecar \
    && python -m pip --python /opt/datafile-sidecar/bin/python install --require-hashes -r requirements/sidecar.txt
COPY sidecar sidecar
WORKDIR /src/sidecar
RUN /build/bin/python -m hatchling build -t wheel -d /wheels \
    && python -m pip --python /opt/datafile-sidecar/bin/python install --no-deps --no-index /wheels/*.whl \
    && /opt/datafile-sidecar/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/datafile-sidecar/lib

FROM ${PYTHON_IMAGE}
# Nothing in the result installs anything. The directory is for those who share a named volume: it takes its owner from here.
RUN find / -xdev \( -path '*-packages/pip' -o -path '*-packages/pip-*' -o -path '*/bin/pip*' -o -path '*/python3*/ensurepip' \) \
        -prune -exec rm -rf {} + \
    && install -d -o 65532 -g 65532 /var/run/datafile
COPY --from=build /opt/datafile-sidecar /opt/datafile-sidecar
# glibc then returns blocks of 64 KiB and more to the system when they are freed. By default it raises this threshold to the
# largest block freed so far, so that memory stays high after large datafiles.
ENV PATH=/opt/datafile-sidecar/bin:$PATH MALLOC_MMAP_THRESHOLD_=65536
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="datafile-sidecar" \
      org.opencontainers.image.description="Keeps Optimizely's datafile fresh on a volume that a pod's containers share" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 8088 8089
# No HEALTHCHECK: /livez and /readyz are for whoever runs it, and Kubernetes ignores one anyway.
ENTRYPOINT ["datafile-sidecar"]
CMD ["run"]
