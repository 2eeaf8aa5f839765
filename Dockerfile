# A bot under its supervisor, which is PID 1. The bot's code comes by a volume at /srv/bastion: new code needs no new
# image, only `docker exec bastion supervisor reload`. docs/operating.md, "In a container", says more.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# pip's own settings, for a mirror or a directory of wheels.
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
COPY . /src
RUN python3 -m venv /opt/bastion \
    && /opt/bastion/bin/python -m pip install --no-cache-dir --disable-pip-version-check /src \
    && /opt/bastion/bin/python -m pip uninstall -y -q pip \
    && mkdir -p /skeleton/etc/bastion /skeleton/run/bastion /skeleton/srv/bastion/releases/shipped /skeleton/opt \
    && ln -s releases/shipped /skeleton/srv/bastion/current \
    && cp /src/docker/bastion.toml /skeleton/etc/bastion/ \
    && chmod 0700 /skeleton/run/bastion && chown 10001:10001 /skeleton/run/bastion \
    && mv /opt/bastion /skeleton/opt/

FROM ${BASE}
COPY --from=build /skeleton/ /
ENV PATH=/opt/bastion/bin:$PATH \
    BASTION_CONFIG=/etc/bastion/bastion.toml \
    RUNTIME_DIRECTORY=/run/bastion \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/bastion
USER 10001:10001
EXPOSE 9194
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=5m --retries=3 CMD ["supervisor", "healthcheck"]
ENTRYPOINT ["supervisor"]
CMD ["run"]
