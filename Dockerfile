# Weighbridge in a container; docs/operations.md says how to build and run it.

FROM python:3.11-slim AS build
WORKDIR /build
# Versions come from the lock file, for the tool that builds the wheel as for what the service needs.
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock hatchling
COPY pyproject.toml README.md LICENSE ./
COPY src src
# The libraries of the models that are to be served, with spaces between them; they too have the versions of the lock.
ARG PACKAGES=""
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist . \
    && python -m venv --without-pip /opt/weighbridge \
    && pip --python /opt/weighbridge install --no-cache-dir --disable-pip-version-check \
       --constraint requirements.lock dist/*.whl $PACKAGES

FROM python:3.11-slim
ARG PACKAGES=""
# libseccomp filters the system calls of models. LightGBM takes OpenMP from the system; other libraries bring their own.
RUN apt-get update && apt-get install -y --no-install-recommends libseccomp2 \
    $(case "$PACKAGES" in *lightgbm*) echo libgomp1 ;; esac) && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/weighbridge /opt/weighbridge
# Inside a container loopback reaches nobody. The delay is what load balancers take to notice a pod that ends.
ENV PATH=/opt/weighbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    WEIGHBRIDGE_HOST=0.0.0.0 \
    WEIGHBRIDGE_DRAIN_DELAY=5
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000
# The admin listener is asked, since it answers however busy the workers are. It is on loopback, in the container too.
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('WEIGHBRIDGE_ADMIN_PORT', '9000')), timeout=3); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["weighbridge"]
CMD ["serve"]
