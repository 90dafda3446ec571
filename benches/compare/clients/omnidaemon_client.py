"""One process of the queue comparison: the Python OmniDaemon with its own SDK.

The arguments are those of benches/queue/main.rs. uvloop and hiredis are installed and used, which is the fastest
configuration without a change of the package.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time

parser = argparse.ArgumentParser()
for name in ("store", "phase"):
    parser.add_argument(f"--{name}")
for name in ("tasks", "producers", "concurrency", "payload"):
    parser.add_argument(f"--{name}", type=int)
args = parser.parse_args()
os.environ |= {"REDIS_URL": args.store, "STORAGE_BACKEND": "redis", "LOG_LEVEL": "ERROR"}

import uvloop  # noqa: E402
from omnidaemon.event_bus import event_bus  # noqa: E402
from omnidaemon.schemas import AgentConfig, EventEnvelope, PayloadBase, SubscriptionConfig  # noqa: E402
from omnidaemon.sdk import OmniDaemonSDK  # noqa: E402

logging.disable(logging.CRITICAL)
ran = 0
done = asyncio.Event()
content = {"text": "x" * (args.payload - len('{"text":""}'))}


async def handler(message):
    global ran
    ran += 1
    if ran == args.tasks:
        done.set()
    return {"ok": True}


async def produce(sdk):
    made = 0

    async def one():
        nonlocal made
        while made < args.tasks:
            made += 1
            await sdk.publish_task(EventEnvelope(topic="bench", payload=PayloadBase(content=content)))

    await asyncio.gather(*(one() for _ in range(args.producers)))


async def main():
    event_bus.default_maxlen = 10_000_000  # the default of 10,000 would drop tasks that the agent has not read in time
    sdk = OmniDaemonSDK()
    await event_bus.connect()
    if args.phase != "drain":  # the group that the package creates begins at the end of the stream and skips existing tasks
        await event_bus._redis.xgroup_create("omni-stream:bench", "group:bench:bench", id="0", mkstream=True)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    begun = time.monotonic()
    if args.phase != "enqueue":
        config = SubscriptionConfig(consumer_count=args.concurrency)
        await sdk.register_agent(AgentConfig(name="bench", topic="bench", callback=handler, config=config))
    if args.phase != "drain":
        await produce(sdk)
    if args.phase != "enqueue":
        await done.wait()
    print(json.dumps({"seconds": time.monotonic() - begun}), flush=True)
    sys.stdin.readline()  # the comparison closes stdin after it has read the CPU time
    os._exit(0)


uvloop.run(main())
