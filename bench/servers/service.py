"""Temporary prototype until app.py exists."""
import asyncio, os
from contextlib import asynccontextmanager
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse
from hub.memory import MemoryHub
from llm.openai import OpenAIProvider
from models import AgentConfig, ChatRequest
from protocols.native import EventsEncoder, WebSocketEncoder
from registry import AgentRegistry, Limits
from tools.tool import tool_from
from settings import load_settings

async def wait(step: int) -> dict:
    """Wait."""
    await asyncio.sleep(0.1)
    return {"step": step}

@asynccontextmanager
async def life(app):
    s = load_settings()
    p = OpenAIProvider(api_key="x", base_url=os.environ["OPENAI_BASE_URL"], default_model="m", max_retries=3, timeout=60, temperature=None, max_tokens=None)
    lim = Limits(max_message_chars=32000, max_active_runs=1000, max_queued_messages=16, max_conversations=10000, max_agents=1000, history_messages=20, run_timeout=600, run_ttl=600, max_runs=10000, tool_workers=256, shutdown_grace=10)
    async with AgentRegistry(provider=p, hub=MemoryHub(ttl=600, max_events=200000, max_bytes=2**28), tools=[tool_from(wait)], limits=lim, instructions="hi") as r:
        app.state.r = r
        if os.environ.get("FRZ"):
            async def later():
                await asyncio.sleep(1.5)
                gc.collect(); gc.freeze()
            t = asyncio.create_task(later())
        yield

app = FastAPI(lifespan=life)

@app.post("/agents/{name}")
async def mk(name: str, c: AgentConfig):
    app.state.r.put_agent(name, c)

@app.post("/chat/stream")
async def cs(req: ChatRequest) -> StreamingResponse:
    r = app.state.r
    run = await r.start(req)
    reader = await r.read(run.id)
    enc = EventsEncoder(reader.epoch)
    async def body():
        while not reader.ended:
            evs = await reader.read()
            yield b"".join(map(enc.encode, evs))
    return StreamingResponse(body(), media_type="text/event-stream")

@app.websocket("/ws")
async def ws(sock: WebSocket):
    await sock.accept()
    r = app.state.r
    try:
        while True:
            f = await sock.receive_json()
            run = await r.start(ChatRequest(**f["data"]))
            reader = await r.read(run.id)
            enc = WebSocketEncoder(reader.epoch, f["request_id"])
            while not reader.ended:
                for e in await reader.read():
                    await sock.send_text(enc.encode(e))
    except WebSocketDisconnect:
        pass

import gc, time, sys
_t=[0]
def _cb(ph,info):
    if ph=="start": _t[0]=time.perf_counter()
    else:
        d=(time.perf_counter()-_t[0])*1e3
        if d>3: print("gc",info["generation"],round(d,1),"ms",file=sys.stderr)
gc.callbacks.append(_cb)
V = os.environ.get("FRZ", "")
import llm.openai as lo
if "A" in V:
    def direct(response):
        content = response.stream._stream._aiohttp_response.content
        async def gen():
            readany = content.readany
            while data := await readany():
                yield data
        return gen()
    lo._bytes_of = direct
if "T" in V:
    import aiohttp.client_proto as cp
    cp.ResponseHandler._reschedule_timeout = lambda self: None
if "B" in V:
    import msgspec
    inner = app
    async def outer(scope, receive, send):
        if scope["type"] != "http" or scope["path"] != "/chat/stream":
            return await inner(scope, receive, send)
        body = (await receive())["body"]
        r = inner.state.r
        run = await r.start(ChatRequest(**msgspec.json.decode(body)))
        reader = await r.read(run.id)
        enc = EventsEncoder(reader.epoch)
        await send({"type":"http.response.start","status":200,"headers":[(b"content-type",b"text/event-stream")]})
        while not reader.ended:
            evs = await reader.read()
            await send({"type":"http.response.body","body":b"".join(map(enc.encode, evs)),"more_body":True})
        await send({"type":"http.response.body","body":b"","more_body":False})
    app = outer
if "L" in V:
    LOOP = "asyncio"
else: LOOP = "uvloop"
if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", loop=LOOP, ws="websockets-sansio", ws_per_message_deflate=False)
