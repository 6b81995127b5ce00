# One image per accelerator:
#   docker build -t softprompt-serve .                                    (CPU)
#   docker build -t softprompt-serve:cuda --build-arg ACCELERATOR=cuda .
#
# CPU: torch's CPU build comes from TORCH_INDEX, the address of an index that has it; without it
# the registry's CUDA build is taken, which works too and makes the image several GB larger.
FROM python:3.12-slim-bookworm

ARG ACCELERATOR=cpu
ARG TORCH_INDEX=""

# vLLM's shared libraries, and the compiler torch uses when an engine starts.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ libnuma1 make \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 serve \
 && install --directory --owner=serve /app /data
USER serve
WORKDIR /app

# Dependencies first: this layer changes only with the locks.
COPY --chown=serve requirements requirements
COPY --chown=serve scripts scripts
COPY --chown=serve pyproject.toml README.md LICENSE ./
COPY --chown=serve softprompt_serve/__init__.py softprompt_serve/__init__.py
RUN ACCELERATOR=${ACCELERATOR} TORCH_INDEX=${TORCH_INDEX} PIP_NO_CACHE_DIR=1 \
    python scripts/bootstrap.py

COPY --chown=serve softprompt_serve softprompt_serve

# The catalogue, the blobs and the admin token: mount a volume here.
ENV SOFTPROMPT_HOME=/data \
    PATH=/app/.venv/bin:$PATH
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=300s --interval=10s --timeout=5s \
  CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/softprompts/v1/readyz').raise_for_status()"]

ENTRYPOINT ["softprompt-serve", "serve"]
CMD ["--help"]
