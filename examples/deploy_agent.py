#!/usr/bin/env python3
"""A `command` handler for genesis.deploy: simulates the steps of a deployment and returns the URL it would have.

The program deploys nothing. It reads the task as JSON from stdin, and writes the result as JSON to stdout and log lines
to stderr. Any exit status other than 0 is a failed attempt. The deployment id is derived from the task's id, so that
repeated attempts of a task return the same deployment.
Try it:  echo '{"payload": {"repo_url": "https://github.com/user/business"}}' | python3 examples/deploy_agent.py
"""
import hashlib
import json
import sys
import time
from urllib.parse import urlsplit

HOSTS = {"vercel": "vercel.app", "netlify": "netlify.app", "railway": "up.railway.app"}


def main() -> None:
    task = json.load(sys.stdin)
    payload = task.get("payload") or {}
    platform = payload.get("platform", "vercel")
    if platform not in HOSTS:
        sys.exit(f"unknown platform {platform!r}: known are {', '.join(HOSTS)}")
    repository = urlsplit(payload.get("repo_url") or "")
    if repository.scheme != "https" or not repository.path.strip("/"):
        sys.exit("repo_url must be an https URL of a repository")
    for step in ("cloning", "building", "uploading", "switching over"):
        print(f"{step} {repository.path.strip('/')}", file=sys.stderr, flush=True)
        time.sleep(0.05)
    name = repository.path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git")
    seed = task.get("task_id") or task.get("id") or repository.geturl()
    json.dump(
        {
            "status": "deployed",
            "platform": platform,
            "deployment_id": "dpl_" + hashlib.sha256(seed.encode()).hexdigest()[:12],
            "url": f"https://{name}.{HOSTS[platform]}",
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
