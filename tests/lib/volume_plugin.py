"""A driver of volumes for the cases, by Docker's plugin protocol: directories below a folder.

volume_plugin.py SOCKET FOLDER

Each call is a line of FOLDER/calls: the method, the volume, the id. A volume with the option `answer`
gives that for the path of its mount; one with `fail` fails to be mounted; a plugin with the file
FOLDER/slow does not answer calls that unmount.
"""

import json
import os
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler

path, folder = sys.argv[1:3]
STATE = os.path.join(folder, "state.json")


def load():
    try:
        with open(STATE) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


volumes = load()


def keep():
    with open(STATE + ".new", "w") as file:
        json.dump(volumes, file)
    os.rename(STATE + ".new", STATE)


def data(name):
    return os.path.join(folder, "data", name)


def described(name):
    volume = volumes[name]
    mountpoint = data(name) if volume["ids"] else ""
    return {"Name": name, "Mountpoint": mountpoint, "CreatedAt": "2026-01-02T03:04:05Z", "Status": {"ids": volume["ids"]}}


def answer(method, request):
    name, identity = request.get("Name", ""), request.get("ID", "")
    with open(os.path.join(folder, "calls"), "a") as log:
        log.write(" ".join(filter(None, (method, name, identity[:12]))) + "\n")
    if method == "Plugin.Activate":
        return {"Implements": ["VolumeDriver"]}
    if method == "VolumeDriver.Capabilities":
        return {"Capabilities": {"Scope": "global"}}
    if method == "VolumeDriver.List":
        return {"Volumes": [described(name) for name in volumes]}
    if method == "VolumeDriver.Create":
        options = request.get("Opts") or {}
        if options.get("size") == "no":
            return {"Err": "no such size"}
        os.makedirs(data(name), exist_ok=True)
        volumes[name] = {"options": options, "ids": []}
        keep()
        return {}
    if name not in volumes:
        return {"Err": "no such volume"}
    volume = volumes[name]
    if method == "VolumeDriver.Get":
        return {"Volume": described(name)}
    if method == "VolumeDriver.Path":
        return {"Mountpoint": data(name)}
    if method == "VolumeDriver.Mount":
        if "fail" in volume["options"]:
            return {"Err": "the disk is on fire"}
        volume["ids"].append(identity)
        keep()
        return {"Mountpoint": volume["options"].get("answer", data(name))}
    if method == "VolumeDriver.Unmount":
        while os.path.exists(os.path.join(folder, "slow")):
            time.sleep(0.2)
        if identity in volume["ids"]:
            volume["ids"].remove(identity)
        keep()
        return {}
    if method == "VolumeDriver.Remove":
        if volume["ids"]:
            return {"Err": "it is mounted"}
        del volumes[name]
        keep()
        return {}
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given = answer(self.path.lstrip("/"), json.loads(body or b"{}"))
        status = 404 if given is None else 500 if given.get("Err") else 200
        text = json.dumps(given or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


os.makedirs(os.path.dirname(path), exist_ok=True)
if os.path.exists(path):
    os.unlink(path)
Server(path, Handler).serve_forever()
