# vLLM's official CUDA image, completed with softprompt-serve. For CPU: Dockerfile.cpu.
#
#   docker build -t softprompt-serve:cuda .
#
# A tag can be moved. To build on the very same image again, name its digest too, as
# `docker buildx imagetools inspect vllm/vllm-openai:v0.32.0` shows it:
#
#   docker build --build-arg VLLM_IMAGE=vllm/vllm-openai:v0.32.0@sha256:… -t softprompt-serve:cuda .
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

# Ours goes into an environment that sees the image's packages and changes none of them.
FROM ${VLLM_IMAGE} AS dependencies
WORKDIR /src
RUN python3 -m venv --system-site-packages --without-pip /opt/softprompt-serve
ENV PATH=/opt/softprompt-serve/bin:$PATH
COPY pyproject.toml ./
COPY requirements/cuda.txt requirements/
COPY scripts/complete.py scripts/
RUN python scripts/complete.py requirements/cuda.txt

FROM dependencies AS wheel
RUN python scripts/complete.py requirements/cuda.txt --group build
COPY README.md LICENSE ./
COPY softprompt_serve softprompt_serve
RUN python -m pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir /wheels .

FROM dependencies AS installed
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-deps --no-cache-dir --no-index /wheels/*.whl

# The base's labels would be taken for ours: those that we have no value for are emptied.
FROM ${VLLM_IMAGE} AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="softprompt-serve" \
      org.opencontainers.image.description="Versioned soft prompts, served by vLLM as releases (CUDA)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="" \
      org.opencontainers.image.url=""

RUN useradd --uid 10001 --user-group --create-home serve \
 && install --directory --owner=serve --group=serve --mode=0750 /data
COPY --from=installed /opt/softprompt-serve /opt/softprompt-serve

# Caches of vLLM, Triton, FlashInfer and Hugging Face lie under HOME. USER is what torch asks for where
# the container runs under an id that has no name.
ENV PATH=/opt/softprompt-serve/bin:$PATH \
    HOME=/home/serve \
    USER=serve \
    PYTHONUNBUFFERED=1 \
    SOFTPROMPT_HOME=/data
USER 10001:10001
WORKDIR /home/serve

# The embedded catalogue, tensors and the admin token.
VOLUME /data
EXPOSE 8000

# On another port than 8000 say so in SOFTPROMPT_URL; the command line in the container reads it too.
HEALTHCHECK --start-period=20m --interval=10s --timeout=6s --retries=3 \
  CMD ["python", "-c", "import httpx, os; httpx.get(os.environ.get('SOFTPROMPT_URL', 'http://127.0.0.1:8000') + '/softprompts/v1/readyz', timeout=5, trust_env=False).raise_for_status()"]

ENTRYPOINT ["softprompt-serve", "serve"]
CMD ["--help"]
