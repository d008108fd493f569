# The server and its pages; training jobs install `evenkeel-agent` where they run.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/evenkeel
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY dslm dslm
COPY wire wire
COPY trainer_agent trainer_agent
COPY server server
COPY dashboard dashboard
COPY migrations migrations
COPY evenkeel evenkeel
COPY packaging packaging
RUN /opt/evenkeel/bin/pip install --no-cache-dir -c constraints.txt ./packaging/agent '.[export,notify]'

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home evenkeel && install -d -o evenkeel /data
COPY --from=build /opt/evenkeel /opt/evenkeel
ENV PATH=/opt/evenkeel/bin:$PATH PYTHONUNBUFFERED=1 EVENKEEL_DATA_DIR=/data
USER evenkeel
VOLUME /data
EXPOSE 8321
CMD ["evenkeel", "serve"]
