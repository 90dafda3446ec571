"""The legacy endpoint of the integration tests: an agent service in FastAPI, as users run it.

A request controls its response, so that a test defines both in one place: `/invoke` reads `arguments` (see
`Controls`), the other paths read their query. Received requests are recorded for `GET /seen`.
"""

import asyncio
import base64
import hashlib
import time
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
UNSEEN = {"/seen", "/reset"}

api = FastAPI()
seen: list[dict[str, Any]] = []
received: Counter[str] = Counter()


class Controls(BaseModel, extra="allow"):
    """How the response to a request is to be made. Other keys are ignored."""

    sleep_ms: int = 0
    status: int = 200
    fail_first: int = Field(0, description="answer the first N requests of an idempotency key or test id with 503")
    headers: list[tuple[str, str]] = []
    body: str | None = Field(None, description="the whole body, instead of the usual JSON")
    bytes: int = Field(0, description="the length of `result`")
    die: str | None = Field(None, description="break the connection: `before` the answer, or within its `body`")
    replayed: "Controls | None" = Field(None, description="the controls that replace these for a request that a worker replays")


class Invocation(BaseModel):
    agent: str = "default"
    task: str
    arguments: Controls = Controls()
    context: dict[str, Any] = {}


async def controlled(request: Request, controls: Controls, answer: dict[str, Any]) -> Response:
    """Returns the response with the requested status, headers and body, or breaks the connection."""
    if controls.die:
        return Broken(request, in_body=controls.die == "body")
    status = 503 if request.scope["earlier"] < controls.fail_first else controls.status
    if controls.body is not None:
        response = Response(controls.body, status_code=status, media_type="text/plain; charset=utf-8")
    else:
        response = JSONResponse(answer, status_code=status)
    for name, value in controls.headers:
        response.headers.append(name, value)
    return response


class Broken(Response):
    """Closes the connection, before the response or within its body."""

    def __init__(self, request: Request, in_body: bool) -> None:
        super().__init__()
        self.transport = request.scope["transport"]
        self.in_body = in_body

    async def __call__(self, scope, receive, send) -> None:
        if self.in_body:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            await send({"type": "http.response.body", "body": b"half of", "more_body": True})
            await asyncio.sleep(0.05)  # so that the sent part leaves the socket before the close
        self.transport.abort()


def identity(record: dict[str, Any]) -> str | None:
    return record["idempotency_key"] or record["id"]


def count_request(record: dict[str, Any]) -> int:
    """Counts a request, and returns how many requests with the same identity were received before it."""
    name = identity(record)
    if name is None:
        return 0
    received[name] += 1
    return received[name] - 1


@api.post("/invoke/{agent}")
async def invoke_agent(agent: str, call: Invocation, request: Request) -> Response:
    return await invoke(call.model_copy(update={"agent": agent}), request)


@api.post("/invoke")
async def invoke(call: Invocation, request: Request) -> Response:
    if request.headers.get("x-api-key") == "expired":
        return JSONResponse({"detail": "the API key has expired"}, status_code=401, headers={"www-authenticate": "ApiKey"})
    started = time.perf_counter()
    controls = call.arguments
    if controls.replayed and request.headers.get("x-omnidaemon-attempt"):
        controls = controls.replayed
    await asyncio.sleep(controls.sleep_ms / 1000)
    answer = {
        "result": "x" * controls.bytes or f"{call.task} is done",
        "agent": call.agent,
        "tool": getattr(controls, "tool", "echo"),
        "status": "completed",
        "execution_time_ms": round((time.perf_counter() - started) * 1000, 3),
        "metadata": {"context": call.context},
    }
    return await controlled(request, controls, answer)


@api.post("/build")
async def build(payload: Controls, request: Request) -> Response:
    """Receives the payload of an `http` handler; the keys of the payload are the controls."""
    await asyncio.sleep(payload.sleep_ms / 1000)
    record = request.scope["record"]
    built = payload.model_dump(exclude_unset=True)
    answer = {"built": built, "idempotency_key": record["idempotency_key"], "attempt": record["attempt"]}
    return await controlled(request, payload, answer)


@api.api_route("/echo", methods=METHODS)
@api.api_route("/echo/{rest:path}", methods=METHODS)
async def echo(request: Request) -> dict[str, Any]:
    """Returns the request as it was received, so that a test can see a rewritten path or query."""
    return {
        "method": request.method,
        "path": request.scope["raw_path"].decode("latin-1"),
        "query": request.scope["query_string"].decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
        "body": base64.b64encode(await request.body()).decode(),
        "http_version": request.scope["http_version"],
    }


@api.get("/stream")
async def stream(n: int = 3, ms: int = 0, media: str = "text/plain") -> StreamingResponse:
    """Streams `n` lines, `ms` milliseconds apart, in chunked encoding."""

    async def lines():
        for i in range(n):
            if i:
                await asyncio.sleep(ms / 1000)
            yield f"data: {i}\n\n" if media == "text/event-stream" else f"line {i}\n"

    return StreamingResponse(lines(), media_type=media)


@api.post("/upload")
async def upload(request: Request) -> dict[str, Any]:
    digest, size, chunks = hashlib.sha256(), 0, 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
        chunks += 1
    return {"size": size, "sha256": digest.hexdigest(), "chunks": chunks}


@api.get("/big")
async def big(bytes: int, chunked: bool = False) -> StreamingResponse:
    """Returns a body of `bytes` times `x`, with a content-length or in chunked encoding."""

    async def blocks():
        for at in range(0, bytes, 65536):
            yield b"x" * min(65536, bytes - at)

    headers = {} if chunked else {"content-length": str(bytes)}
    return StreamingResponse(blocks(), media_type="application/octet-stream", headers=headers)


@api.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol=offered[0] if offered else None)
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        return


@api.get("/seen")
async def get_seen() -> dict[str, Any]:
    """Returns every request since the start or the last reset, and the number of requests per id and idempotency key."""

    def counts(field: str) -> dict[str, int]:
        values = [record[field] for record in seen if record[field]]
        return {value: values.count(value) for value in values}

    return {"requests": seen, "by_id": counts("id"), "by_key": counts("idempotency_key")}


@api.post("/reset")
async def reset() -> dict[str, Any]:
    seen.clear()
    received.clear()
    return {}


async def app(scope, receive, send) -> None:
    """Records requests before FastAPI handles them, and passes uvicorn's transport to `Broken`."""
    if scope["type"] != "http" or scope["path"] in UNSEEN:
        return await api(scope, receive, send)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if headers.get("user-agent", "").endswith("(start-up check)"):
        return await api(scope, receive, send)  # a request of the proxy itself, at a time that tests do not control
    record = {
        "method": scope["method"],
        "path": scope["path"],
        "id": headers.get("x-test-id"),
        "idempotency_key": headers.get("idempotency-key"),
        "attempt": headers.get("x-omnidaemon-attempt"),
        "shadow": headers.get("x-omnidaemon-shadow"),
        "status": None,  # set when the response begins
    }
    seen.append(record)

    async def record_status(message) -> None:
        if message["type"] == "http.response.start":
            record["status"] = message["status"]
        await send(message)

    scope["earlier"] = count_request(record)
    scope["record"], scope["transport"] = record, send.__self__.transport
    await api(scope, receive, record_status)
