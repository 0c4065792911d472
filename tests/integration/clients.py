#!/usr/bin/env python3
"""Clients that are not as they should be, against the engine on a UNIX socket.

  wrong SOCKET IMAGE        each field of a container, a network, a volume, an exec with values that it
                            can't have, odd paths and queries: answers of a client's fault, or success
  idle SOCKET COUNT         connections on which nothing, half a head or half a body comes
  deaf SOCKET COUNT IMAGE   streams of events that nobody reads, while containers are made and removed
  hasty SOCKET METHOD PATH SECONDS   sends a request and goes away after that time
  deaf-log SOCKET NAME      follows a container's log without reading, until standard input ends
"""
import json
import re
import socket
import sys
import time
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
from api import Api  # noqa: E402

ODD = [7, -1, 1 << 70, 1e300, "x", "", "\x00", "a\nb", "../..", True, [], [7], [None], ["x"], {}, {"x": 7}, {"x": None}, [[]]]
NETWORK = ["Name", "Driver", "Internal", "Attachable", "Ingress", "IPAM", "EnableIPv6", "Options", "Labels", "Scope", "ConfigFrom"]
VOLUME = ["Name", "Driver", "DriverOpts", "Labels", "ClusterVolumeSpec"]
PATHS = ["/containers/%00/json", "/containers/..%2f..%2fetc/json", "/containers/%ff%fe/json", "/containers/" + "x" * 5000 + "/json",
         "/containers//json", "/images/%00/json", "/images/../json", "/networks/%20", "/volumes/..", "/volumes/%2e%2e%2f", "/exec/x/json",
         "/containers/json?limit=x", "/containers/json?filters={", "/containers/json?filters=[7]", '/containers/json?filters={"status":7}',
         '/containers/json?filters={"name":["("]}', '/images/json?filters={"until":["x"]}', "/events?since=x&until=0", "/events?until=%00",
         '/events?until=0&filters={"type":{"x":7}}', "/containers/json?all=%00", "/system/df?type=x", "/distribution/x%00/json"]


def faults_of_clients(api, method, path, body=None):
    """Asks; the answer is a success, or says in docker's form that the client is wrong."""
    status, text = api.answer(method, path, body)
    told = f"{method} {path[:80]} {json.dumps(body)[:120]}: {status} {text[:200]!r}"
    # 501: what Hull refuses by name.
    if not (200 <= status < 300 or 400 <= status < 500 or status == 501):
        raise SystemExit(f"not the client's fault? {told}")
    if status >= 400 and "message" not in json.loads(text):
        raise SystemExit(f"no message: {told}")
    return status, text


def fields(section):
    """The names in a table of docs/compatibility.md."""
    whole = (ROOT / "docs/compatibility.md").read_text()
    part = whole.split(f"<!-- {section} -->")[1].split(f"<!-- /{section} -->")[0]
    return re.findall(r"^\| `(\w+)`", part, re.M)


def wrong(path, image):
    api, made, asked = Api(path), 0, 0

    def create(body):
        nonlocal made, asked
        asked += 1
        status, text = faults_of_clients(api, "POST", "/containers/create", body)
        if status == 201:
            made += 1
            api.ask("DELETE", f"/containers/{json.loads(text)['Id']}?v=1")

    for value in ODD:
        for name in fields("HostConfig"):
            create({"Image": image, "HostConfig": {name: value}})
        for name in fields("Config"):
            create({"Image": image, name: value})
        for body in ({"Image": image, "HostConfig": value}, {"Image": image, "NetworkingConfig": value},
                     {"Image": image, "NetworkingConfig": {"EndpointsConfig": value}},
                     {"Image": image, "NetworkingConfig": {"EndpointsConfig": {"bridge": value}}}):
            create(body)
        for name in NETWORK:
            status, text = faults_of_clients(api, "POST", "/networks/create", {"Name": "t-odd", name: value})
            if status == 201:
                api.ask("DELETE", f"/networks/{json.loads(text)['Id']}")
        for name in VOLUME:
            status, text = faults_of_clients(api, "POST", "/volumes/create", {name: value})
            if status == 201:
                api.ask("DELETE", f"/volumes/{json.loads(text)['Name']}")
        for body in (value, {"Cmd": value}, {"Cmd": ["x"], "Env": value}, {"Cmd": ["x"], "ConsoleSize": value}):
            faults_of_clients(api, "POST", "/containers/none/exec", body)
        faults_of_clients(api, "POST", "/containers/none/update", value)
        faults_of_clients(api, "POST", "/networks/bridge/connect", value)
        faults_of_clients(api, "POST", "/auth", value)
        faults_of_clients(api, "POST", "/commit?container=none", value)
    for odd in PATHS:
        faults_of_clients(api, "GET", quote(odd, safe="/?=&%"))
    deep = "[" * 100_000
    for body in (deep, '{"Image":' * 50_000, b"\xff\xfe{}", b"\x00"):
        status, text = api.answer("POST", "/containers/create", raw=body)
        if status != 400:
            raise SystemExit(f"{body[:20]!r}...: {status} {text[:200]!r}")
    status, _ = api.answer("POST", "/containers/create", raw=b'{"Image":"' + b"x" * (100 << 20) + b'"}')
    if status not in (400, 413):
        raise SystemExit(f"100 MiB of a name: {status}")
    print(f"{asked} containers were asked for, {made} of them made")


def idle(path, count):
    def half(text):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        one.sendall(text)
        return one

    head = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    kinds = [b"", b"GET /_ping HTT", head]
    held = [half(kinds[number % 3]) for number in range(count)]
    started = time.monotonic()
    for _ in range(20):
        Api(path).ask("GET", "/containers/json?all=1")
    print(f"{len(held)} connections, 20 answers in {time.monotonic() - started:.2f} s")


def deaf(path, count, image):
    held = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(path)
        one.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        held.append(one)
    api = Api(path)
    for number in range(400):
        made = api.ask("POST", "/containers/create", {"Image": image, "Labels": {"long": "x" * 4000}})
        api.ask("DELETE", f"/containers/{made['Id']}")
    # One that reads gets what is new.
    reader = Api(path)
    reader.request("GET", f"/events?since={time.time()}&until={time.time() + 3}")
    answer = reader.getresponse()
    made = api.ask("POST", "/containers/create", {"Image": image})
    api.ask("DELETE", f"/containers/{made['Id']}")
    seen = [json.loads(line)["Action"] for line in answer.read().splitlines()]
    if [action for action in seen if action in ("create", "destroy")] != ["create", "destroy"]:
        raise SystemExit(f"who reads saw {seen}")


def hasty(path, method, target, seconds):
    one = socket.socket(socket.AF_UNIX)
    one.connect(path)
    one.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    time.sleep(float(seconds))
    one.close()


def deaf_log(path, name):
    one = socket.socket(socket.AF_UNIX)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(path)
    one.sendall(f"GET /containers/{name}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    sys.stdin.read()


def main():
    what, *rest = sys.argv[1:]
    match what:
        case "wrong":
            wrong(*rest)
        case "idle":
            idle(rest[0], int(rest[1]))
        case "deaf":
            deaf(rest[0], int(rest[1]), rest[2])
        case "hasty":
            hasty(*rest)
        case "deaf-log":
            deaf_log(*rest)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
