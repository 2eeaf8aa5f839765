# A bot under its supervisor, which is PID 1. The bot's code comes by a volume at /srv/bastion: new code needs no new
# image, only `docker exec bastion supervisor reload`. Or an image of your own begins with `FROM bastion`: examples/image
# has one. docs/operating.md, "In a container", says more.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# pip's own settings, for a mirror or a directory of wheels.
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
COPY . /src
RUN python3 -m venv /opt/bastion \
    && /opt/bastion/bin/python -m pip install --no-cache-dir --disable-pip-version-check /src \
    && mkdir -p /skeleton/etc/bastion /skeleton/run/bastion /skeleton/srv/bastion /skeleton/var/lib/bastion \
    && ln -s . /skeleton/srv/bastion/current \
    && cp /src/docker/bastion.toml /skeleton/etc/bastion/ \
    && chmod 0700 /skeleton/run/bastion /skeleton/var/lib/bastion \
    && chown 10001:10001 /skeleton/run/bastion /skeleton/var/lib/bastion

FROM ${BASE}
COPY --from=build /skeleton/ /
# With its pip and the image's user as its owner, so that `RUN pip install` of an image FROM this one adds to it.
COPY --from=build --chown=10001:10001 /opt/bastion /opt/bastion
ENV PATH=/opt/bastion/bin:$PATH \
    BASTION_CONFIG=/etc/bastion/bastion.toml \
    RUNTIME_DIRECTORY=/run/bastion \
    STATE_DIRECTORY=/var/lib/bastion \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/bastion
# What a bot that is stopped leaves for the next container; a named volume outlives `docker rm`.
VOLUME /var/lib/bastion
USER 10001:10001
EXPOSE 9194
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=6m --retries=3 CMD ["supervisor", "healthcheck"]
ENTRYPOINT ["supervisor"]
CMD ["run"]
