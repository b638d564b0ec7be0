# Laconic's service. Build from the repository root: docker build -t laconic .
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# pip's own settings, for a mirror or for PyTorch's CPU-only wheels; unset by default.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY sdk sdk
COPY codecs codecs
COPY entropy entropy
COPY service service
COPY training training
COPY bench bench
COPY weights weights
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/laconic \
    && /opt/laconic/bin/pip install -c constraints.txt /wheels/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="laconic" \
      org.opencontainers.image.description="Neural codecs for images, audio and video behind one REST service" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin laconic
COPY --from=build /opt/laconic /opt/laconic
# Compiled kernels are cached in /tmp, the only place that must be writable.
ENV PATH=/opt/laconic/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["laconic", "serve", "--host", "0.0.0.0", "--port", "8000"]
