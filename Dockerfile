# BASE must have Python 3.11 or newer, make and, for a GPU, a driver-compatible host; torch's wheels carry CUDA.
# A CUDA image with Python works as well: --build-arg BASE=...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# One system package, for the Makefile that this image and every other machine are set up with.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 1000 --create-home ds2c \
 && mkdir -p /cache /work \
 && chown 1000 /cache /work
WORKDIR /opt/ds2c
COPY --chown=1000 . .
RUN chown 1000 /opt/ds2c
USER 1000
RUN make install

# Bind a project and a cache: docker run --gpus all -v $PWD:/work -v $HOME/.cache/ds2c:/cache ds2c embed
# As another user than 1000: --user $(id -u):$(id -g). More in docs/cluster.md.
ENV PATH=/opt/ds2c/.venv/bin:$PATH \
    DS2C_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["ds2c"]
CMD ["--help"]
