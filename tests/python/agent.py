"""An agent of the Python OmniDaemon, with the package's own SDK: `agent.py '{"topic": …, "name": …}'`.

REDIS_URL and STORAGE_BACKEND configure the connection. The agent appends the id of every task that it begins to the file
`runs`. The content of a task controls it: {"sleep": seconds} waits, {"fail": text} raises an error, {"floats": texts}
returns these numbers; otherwise the agent returns the content. With the option `echo` it returns the content and the
name of its type, whatever the content is.
"""

import asyncio
import json
import logging
import os
import sys

from omnidaemon import AgentConfig, OmniDaemonSDK, SubscriptionConfig
from omnidaemon.event_bus import event_bus

logging.basicConfig(level=logging.INFO)
options = json.loads(sys.argv[1])


def record_run(task_id):
    if runs := options.get("runs"):
        file = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, f"{task_id}\n".encode())
        os.close(file)


async def callback(message):
    record_run(message.get("task_id"))
    content = message["content"]
    if options.get("echo"):
        return {"content": content, "type": type(content).__name__}
    form = "string" if isinstance(content, str) else "object"
    controls = json.loads(content) if isinstance(content, str) else content
    await asyncio.sleep(controls.get("sleep", 0))
    if text := controls.get("fail"):
        raise RuntimeError(text)
    if floats := controls.get("floats"):
        return {"floats": [float(text) for text in floats], "by": message["agent"]}
    return {"content": controls, "form": form, "by": message["agent"]}


async def main():
    # tests need the check for overdue entries every second instead of every thirty seconds
    event_bus.reclaim_interval = options.get("reclaim_interval", 1)
    sdk = OmniDaemonSDK()
    await sdk.register_agent(
        AgentConfig(
            name=options["name"],
            topic=options["topic"],
            callback=callback,
            description="an agent of the integration tests",
            config=SubscriptionConfig(
                reclaim_idle_ms=options.get("reclaim_idle_ms"),
                dlq_retry_limit=options.get("dlq_retry_limit"),
                consumer_count=options.get("consumer_count", 1),
            ),
        )
    )
    await sdk.start()
    print("registered", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
