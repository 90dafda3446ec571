"""Shared code of the comparisons: processes that end with the script, free ports, spreads, and the page with the tables."""

import ctypes
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs/performance.md"
PR_SET_PDEATHSIG = 1


class Server:
    """A server process with its own configuration, pinned to `core` if one is given; it is killed when this script ends."""

    def __init__(self, name: str, core: int | None, command: list[str], port: int, directory: Path):
        self.name, self.port = name, port
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            pinned = command if core is None else ["taskset", "-c", str(core), *command]
            self.process = subprocess.Popen(
                pinned, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, preexec_fn=die_with_parent
            )

    def wait_until_accepting(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit(f"{self.name} does not accept on port {self.port}:\n{self.log.read_text()[-2000:]}")

    def cpu_ns(self) -> dict[str, int]:
        """Returns the CPU time of each thread of the process so far."""
        spent = {}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                spent[task.name] = int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:  # the thread ended meanwhile
                pass
        return spent

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(kib) / 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def first_output_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return (done.stdout + done.stderr).splitlines()[0]


def spread(values: list[float], digits: int) -> str:
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def machine() -> str:
    """Returns the machine, the date and the commit as one line."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True).stdout.strip()

    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in cpuinfo if line.startswith("model name")), platform.machine())
    dirty = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    commit = git("rev-parse", "--short", "HEAD") + dirty
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}; {time.strftime('%Y-%m-%d')}, commit {commit}."


def write(name: str, lines: list[str]) -> None:
    """Replaces the lines between the markers `name` of docs/performance.md."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = PAGE.read_text()
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text("\n".join([before + begin, *lines, end + after]))
    print(f"written to {PAGE.relative_to(ROOT)}", file=sys.stderr)
