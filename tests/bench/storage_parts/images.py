"""Images: pulled beside podman and containerd, a second one that shares layers, and one of many layers."""
import random
import shutil
import subprocess
import time

import archives
import measure as rounds_of
from measure import timed

PORT = 5077
HOST = f"127.0.0.1:{PORT}"


def noise(seed, mib):
    return archives.layer(*[archives.entry(f"{seed}/{n}", data=random.Random(f"{seed}{n}").randbytes(1 << 18)) for n in range(4 * mib)])


def images(mib):
    """Name and layers of each, the first below."""
    files = [archives.entry(f"n{n}", data=b"x" * 100) for n in range(119)]
    base = archives.busybox_layer()
    a, b, c, d = (noise(seed, mib) for seed in "abcd")
    return {"first": [base, a, b, c], "second": [base, a, b, d], "flat": [base, archives.layer(*files)],
            "deep": [base, *(archives.layer(file) for file in files)]}


class Registry:
    def __init__(self, work):
        place = work / "registry"
        place.mkdir()
        config = place / "config.yml"
        config.write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                          f"storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}\n"
                          f"http: {{addr: \"{HOST}\"}}\n")
        log = open(place / "log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
        while subprocess.run(["skopeo", "--insecure-policy", "list-tags", "--tls-verify=false", f"docker://{HOST}/none"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr.find("connection refused") >= 0:
            time.sleep(0.2)

    def push(self, work, name, layers):
        archive = work / f"{name}.tar"
        archives.write_image(str(archive), layers)
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci-archive:{archive}",
                        f"docker://{HOST}/{name}:latest"], check=True)
        archive.unlink()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Containerd:
    def __init__(self, work):
        self.socket = work / "containerd.sock"
        log = open(work / "containerd.log", "w")
        config = work / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self.process = subprocess.Popen(["containerd", "--config", config, "--root", work / "containerd", "--state", work / "containerd-run",
                                         "--address", self.socket], stdout=log, stderr=log)
        while not self.socket.exists():
            time.sleep(0.2)

    def ctr(self, *args):
        return timed(["ctr", "-a", str(self.socket), *args])

    def pull(self):
        took = self.ctr("images", "pull", "--plain-http", f"{HOST}/first:latest")
        self.ctr("images", "rm", "--sync", f"{HOST}/first:latest")
        return took

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def podman(work):
    args = ["podman", "--root", str(work / "podman"), "--runroot", str(work / "podman-run")]

    def pull():
        took = timed([*args, "pull", "-q", "--tls-verify=false", f"{HOST}/first"])
        timed([*args, "rmi", "-f", f"{HOST}/first"])
        return took
    return pull


def measure(engine, work, options):
    registry, containerd = Registry(work), None
    hull = lambda *args: timed(["hull", *args], env=engine.env, stderr=subprocess.DEVNULL)  # noqa: E731
    try:
        for name, layers in images(options.mib // 3 + 1).items():
            registry.push(work, name, layers)
        second = []

        def pull():
            took = hull("pull", "-q", f"{HOST}/first")
            second.append(hull("pull", "-q", f"{HOST}/second"))
            hull("rmi", f"{HOST}/first", f"{HOST}/second")
            return took
        pulls = {"hull": pull}
        if shutil.which("podman"):
            pulls["podman"] = podman(work)
        if shutil.which("containerd") and shutil.which("ctr"):
            containerd = Containerd(work)
            pulls["containerd"] = containerd.pull
        pulled = rounds_of.measure(pulls, options.runs)
        pulled["hull, two of three layers there"] = second[1:]
        for name in ("flat", "deep"):
            hull("pull", "-q", f"{HOST}/{name}")
        start = lambda name: lambda: hull("run", "--rm", f"{HOST}/{name}", "true")  # noqa: E731
        started = rounds_of.measure({"one layer": start("flat"), "120 layers": start("deep")}, options.runs)
    finally:
        registry.stop()
        if containerd:
            containerd.stop()
        subprocess.run(["umount", "-R", work / "podman" / "overlay"], stderr=subprocess.DEVNULL)
    return {"a pull of three layers": pulled, "a whole `hull run` of /bin/true": started}
