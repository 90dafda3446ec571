#!/usr/bin/env python3
"""A `command` handler for genesis.qa: runs the requested suites, and compares the coverage with the target.

The program reads the task as JSON from stdin, and writes the result as JSON to stdout and log lines to stderr. Any
exit status other than 0 is a failed attempt. Try it:  echo '{"payload": {"tests": ["unit"]}}' | python3 examples/qa_agent.py
"""
import json
import sys
import time

# Sample values in place of real test runs: the tests of each suite, and the percentage of the code that they cover.
SUITES = {"unit": (120, 71), "integration": (34, 12), "e2e": (9, 5)}


def run(suite: str) -> dict:
    if suite not in SUITES:
        sys.exit(f"unknown suite {suite!r}: known are {', '.join(SUITES)}")
    tests, coverage = SUITES[suite]
    time.sleep(0.05)
    return {"suite": suite, "passed": tests, "failed": 0, "coverage": coverage}


def main() -> None:
    payload = json.load(sys.stdin).get("payload") or {}
    suites = payload.get("tests") or list(SUITES)
    target = payload.get("coverage_target", 80)
    results = []
    for number, suite in enumerate(suites, 1):
        print(f"[{number}/{len(suites)}] running {suite}", file=sys.stderr, flush=True)
        results.append(run(suite))
    coverage = sum(result["coverage"] for result in results)
    json.dump(
        {
            "status": "passed" if coverage >= target else "below_target",
            "coverage": coverage,
            "coverage_target": target,
            "suites": results,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
