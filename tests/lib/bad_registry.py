#!/usr/bin/env python3
"""usage: bad_registry.py PORT UPSTREAM

A registry on loopback that passes requests on to UPSTREAM (host:port) and misbehaves as the first
part of the repository's name says, such as `limited/busybox`:

  denied     401 without a challenge that could be met
  missing    404 for every manifest
  limited    429 with Retry-After: 1 for the first three requests
  always429  429 for every request
  broken     500 for every request
  cut        blobs end after 60 % of their bytes, every time
  resume     a blob's connection drops after 90 %, once; Range requests are served
  wrong      blobs have one byte changed
  token      needs a bearer token from /token
  identity   the same, which is given for the identity token "of-me" alone
  expires    a token is good for manifests, and has ended when a blob is asked for: then a new one is
  slow       blobs come in pieces, a second for each 256 KiB

GET /_log prints one line per request: time, method, path, status, bytes.
"""
import http.client
import json
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UPSTREAM = sys.argv[2]
LOG, COUNTS = [], {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pause = False

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=None, cut=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = 0
        if self.command != "HEAD":
            whole = body if cut is None else body[:cut]
            for start in range(0, len(whole), 1 << 18):
                sent += self.wfile.write(whole[start:start + (1 << 18)])
                time.sleep(self.pause)
        LOG.append(f"{time.time():.3f} {self.command} {self.path} {status} {sent}")
        if cut is not None:
            self.close_connection = True

    def fault(self, status, code, headers=None):
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self.answer(status, body, {"Content-Type": "application/json", **(headers or {})})

    def upstream(self, path):
        connection = http.client.HTTPConnection(UPSTREAM)
        # A client may send several Accept lines.
        headers = {k: ", ".join(self.headers.get_all(k)) for k in ("Accept", "Range") if k in self.headers}
        connection.request(self.command, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        kept = ("content-type", "docker-content-digest", "content-range", "accept-ranges", "content-length")
        return response.status, body, {k: v for k, v in response.getheaders() if k.lower() in kept}

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        if form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == ["of-me"]:
            return self.answer(200, b'{"access_token":"sesame"}', {"Content-Type": "application/json"})
        self.fault(401, "UNAUTHORIZED")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path == "/_log":
            return self.answer(200, "\n".join(LOG).encode() + b"\n")
        if self.path.startswith("/token"):
            scope = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("scope", [""])[0]
            if "identity/" in scope:
                return self.fault(401, "UNAUTHORIZED")
            if "expires/" in scope:
                COUNTS["tokens"] = COUNTS.get("tokens", 0) + 1
                return self.answer(200, json.dumps({"token": f"t{COUNTS['tokens']}"}).encode(), {"Content-Type": "application/json"})
            return self.answer(200, b'{"token":"sesame","expires_in":60}', {"Content-Type": "application/json"})
        if self.path in ("/v2/", "/v2"):
            return self.answer(200, b"{}")
        mode, _, rest = self.path.removeprefix("/v2/").partition("/")
        COUNTS[mode] = COUNTS.get(mode, 0) + 1
        blob = "/blobs/" in rest
        if mode == "denied":
            return self.fault(401, "UNAUTHORIZED")
        if mode == "missing":
            return self.fault(404, "MANIFEST_UNKNOWN")
        if mode == "always429" or (mode == "limited" and COUNTS[mode] <= 3):
            return self.fault(429, "TOOMANYREQUESTS", {"Retry-After": "1"})
        if mode == "broken":
            return self.fault(500, "UNKNOWN")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        ended = mode == "expires" and (not token.startswith("t") or blob and token == "t1")
        if mode in ("token", "identity") and token != "sesame" or ended:
            realm = f"http://127.0.0.1:{sys.argv[1]}/token"
            return self.fault(401, "UNAUTHORIZED", {
                "WWW-Authenticate": f'Bearer realm="{realm}",service="test",scope="repository:{mode}/{rest}:pull"'})
        status, body, headers = self.upstream("/v2/" + rest)
        if blob and mode == "cut":
            return self.answer(status, body, headers, cut=len(body) * 6 // 10)
        if blob and mode == "resume" and len(body) > 100_000 and not COUNTS.get("dropped"):
            COUNTS["dropped"] = 1
            return self.answer(status, body, headers, cut=len(body) * 9 // 10)
        if blob and mode == "slow":
            self.pause = True
        if len(body) > 50 and blob and mode == "wrong":
            body = body[:50] + bytes([body[50] ^ 1]) + body[51:]
        self.answer(status, body, headers)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
