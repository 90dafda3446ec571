#!/usr/bin/env python3
"""A `command` handler for genesis.build: writes a stub of each requested component, and lists the stubs.

The program reads the task as JSON from stdin, and writes the result as JSON to stdout and log lines to stderr. Any
exit status other than 0 is a failed attempt. Try it:  echo '{"payload": {"components": ["rest_api"]}}' | python3 examples/build_agent.py
"""
import json
import re
import sys


def stub(component: str) -> str:
    name = re.sub(r"\W+", "_", component)
    return f'"""{component}"""\n\n\ndef {name}() -> str:\n    return "{name} is up"\n'


def main() -> None:
    payload = json.load(sys.stdin).get("payload") or {}
    components = [str(component) for component in payload.get("components") or ["dashboard_ui"]]
    files = {}
    for number, component in enumerate(components, 1):
        print(f"[{number}/{len(components)}] building {component}", file=sys.stderr, flush=True)
        source = stub(component)
        compile(source, component, "exec")
        files[f"{component}.py"] = source
    json.dump({"status": "built", "business_type": payload.get("business_type", "saas"), "files": files}, sys.stdout)


if __name__ == "__main__":
    main()
