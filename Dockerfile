# Laconic's service. Build from the repository root: docker build -t laconic .    (docker/README.md has the rest)
ARG BASE=python:3.12-slim

# What Laconic depends on: a layer that changes with pyproject.toml and constraints.txt only.
FROM ${BASE} AS dependencies
# cpu takes torch's CPU build from TORCH_INDEX (or wherever pip's own settings find it), cuda the build that brings CUDA along.
ARG VARIANT=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# pip's own settings, for a mirror; unset by default. They stay in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG PIP_DEFAULT_TIMEOUT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/laconic \
    && /opt/build/bin/pip install 'setuptools>=77' wheel cyclonedx-bom==7.5.0
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN case "$VARIANT" in cpu) torch='==\1+cpu' ;; cuda) torch='===\1' ;; *) echo "VARIANT is cpu or cuda" >&2; exit 2 ;; esac \
    && sed "s/^torch==\(.*\)$/torch$torch/" constraints.txt >pinned.txt \
    && python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*p['dependencies'], *(one for extra in ('cluster', 'otel') for one in p['optional-dependencies'][extra]), sep='\n')" >needed.txt \
    && if [ "$VARIANT" = cpu ]; then export PIP_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL $TORCH_INDEX"; fi \
    && /opt/build/bin/pip --python /opt/laconic/bin/python install --no-compile -c pinned.txt -r needed.txt
# Leave out what only building against these libraries, or testing them, needs; and compile what is imported at start.
COPY docker/slim /build/slim
RUN sh slim /opt/laconic \
    && /opt/laconic/bin/python -c 'import av, fastapi, imagecodecs, numba, PIL.Image, torch, typer, uvicorn'

# Laconic itself: its weights checked, its kernels compiled.
FROM dependencies AS build
COPY README.md LICENSE ./
COPY sdk sdk
COPY codecs codecs
COPY entropy entropy
COPY service service
COPY training training
COPY bench bench
COPY weights weights
COPY docker/start docker/prepare.py docker/
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin laconic \
    && mkdir -p /new/etc /state && cp -p /etc/passwd /etc/group /new/etc
RUN touch /before \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
    && /opt/build/bin/pip --python /opt/laconic/bin/python install --no-deps --no-index --no-compile wheels/*.whl \
    && install -m 755 docker/start /opt/laconic/bin/start \
    && NUMBA_CACHE_DIR=/opt/laconic/kernels /opt/laconic/bin/start /opt/laconic/bin/python docker/prepare.py \
    && mkdir -p /new/usr/share/laconic \
    && /opt/build/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file /new/usr/share/laconic/sbom.json /opt/laconic/bin/python \
    && find /opt/laconic -cnewer /before ! -type d >new.txt \
    && tar -cf new.tar -T new.txt \
    && tar -xf new.tar -C /new

FROM ${BASE}
ARG VARIANT=cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="laconic" \
      org.opencontainers.image.description="Neural codecs for images, audio and video behind one REST service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      laconic.variant="${VARIANT}"
COPY --from=dependencies /opt/laconic /opt/laconic
COPY --from=build /new /
COPY --from=build --chown=10001:10001 /state /var/lib/laconic
# Jobs are kept in LACONIC_STATE_DIR; beside it only /tmp must be writable, for files under way and kernels that are not in the image.
ENV PATH=/opt/laconic/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba LACONIC_STATE_DIR=/var/lib/laconic
VOLUME ["/var/lib/laconic"]
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["start"]
CMD ["laconic", "serve", "--host", "0.0.0.0", "--port", "8000"]
