"""Makes one call of the package's SDK: `sdk.py METHOD '{"argument": …}'` prints the returned value as JSON."""

import asyncio
import json
import sys

from omnidaemon import EventEnvelope, OmniDaemonSDK, PayloadBase


async def main(method, arguments):
    sdk = OmniDaemonSDK()
    if "maxlen" in arguments:
        sdk.event_bus.default_maxlen = arguments.pop("maxlen")
    if method == "publish_tasks":
        return [await publish(sdk, arguments["topic"], content) for content in arguments["contents"]]
    return await getattr(sdk, method)(**arguments)


async def publish(sdk, topic, content):
    envelope = EventEnvelope(topic=topic, payload=PayloadBase(content=content), correlation_id="mine", source="test")
    return await sdk.publish_task(envelope)


print(json.dumps(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))))
