#!/usr/bin/python3
"""A client of Kubernetes' CRI for tests: what a kubelet asks of a runtime, one call a command.

    cri.py version
    cri.py runp NAME [JSON]            makes a pod; prints its id
    cri.py create POD NAME [JSON] [-- COMMAND...]
    cri.py run POD NAME [JSON] [-- COMMAND...]     create and start
    cri.py start|rm ID ; stop ID [SECONDS] ; stopp|rmp POD
    cri.py ps [POD] | pods             lines "ID STATE NAME ATTEMPT"
    cri.py inspect|stats ID ; inspectp|statsp POD  JSON
    cri.py wait ID STATE SECONDS       STATE: running, exited, ...; of a pod: ready, notready
    cri.py exec-sync [--timeout S] ID COMMAND...
    cri.py exec [-i] [-t] [--size WxH] [--resize TEXT=WxH]... ID COMMAND...
    cri.py attach [-i] [-t] [--resize TEXT=WxH]... [--until TEXT] ID
    cri.py port-forward POD PORT       on stdin and stdout
    cri.py port-forward POD LOCAL:PORT  serves a port on loopback
    cri.py update ID JSON ; reopen-log ID
    cri.py serve                       takes commands at $CRI_SERVER, see below

$CRI_ENDPOINT is the runtime's socket, $CRI_HOME a folder for what has to be kept (a pod's
configuration), $CRI_IMAGE the image of containers. JSON is laid over a small configuration.

Loading gRPC takes seconds in an emulated machine. So `serve` loads it once, and other commands run in
a child of it where $CRI_SERVER is set, on the streams of whoever calls.
"""
import array
import json
import os
import signal
import socket
import sys

HANDLER = "hull"
# What a kubelet says unless a pod has shareProcessNamespace.
OWN_PROCESSES = {"pid": "CONTAINER"}


# --- commands run in a child of a server ---------------------------------------------------------

def ask_server(path, arguments):
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    fds = array.array("i", [0, 1, 2])
    text = json.dumps([os.getcwd(), arguments]).encode()
    server.sendmsg([len(text).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    server.sendall(text)
    answer = server.recv(1)
    return answer[0] if answer else 125


def serve(path):
    load()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            serve_one(client)
        client.close()


def serve_one(client):
    import threading

    status = 125
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        length, ancillary, _, _ = client.recvmsg(4, socket.CMSG_SPACE(12))
        fds = array.array("i")
        fds.frombytes(ancillary[0][2][:12])
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
            os.close(fd)
        directory, arguments = json.loads(receive(client, int.from_bytes(length, "big")))
        os.chdir(directory)
        # Who has asked may be killed.
        threading.Thread(target=lambda: client.recv(1) or os._exit(125), daemon=True).start()
        status = main(arguments)
    except SystemExit as end:
        print(end, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(bytes([status]))
        os._exit(0)


def receive(client, length):
    data = b""
    while len(data) < length:
        data += client.recv(length - len(data))
    return data


# --- calls ---------------------------------------------------------------------------------------

grpc = json_format = pb = None


def load():
    """Loads gRPC and what cri.proto describes."""
    global grpc, json_format, pb
    if pb:
        return
    import tempfile

    import grpc
    from google.protobuf import json_format
    from grpc_tools import protoc

    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as made:
        if protoc.main(["protoc", f"-I{here}", f"--python_out={made}", f"{here}/cri.proto"]) != 0:
            sys.exit("cri.py: cri.proto can't be compiled")
        sys.path.insert(0, made)
        import cri_pb2 as pb


def call(name, request, answer=None, seconds=300):
    answer = answer or pb.Empty
    endpoint = "unix://" + os.environ["CRI_ENDPOINT"]
    with grpc.insecure_channel(endpoint) as channel:
        method = channel.unary_unary(
            f"/runtime.v1.RuntimeService/{name}", request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString)
        return method(request, timeout=seconds)


def over(base, changes):
    """JSON laid over JSON: objects are merged, all else is replaced."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: over(base.get(key), value) for key, value in changes.items()}}


def show(message):
    print(json_format.MessageToJson(message, preserving_proto_field_name=True, including_default_value_fields=True))


def split(arguments):
    """[JSON] [-- COMMAND...]"""
    changes = json.loads(arguments.pop(0)) if arguments and arguments[0] != "--" else {}
    return changes, arguments[1:]


def kept(pod):
    return os.path.join(os.environ["CRI_HOME"], pod + ".json")


def make_pod(name, arguments):
    changes, _ = split(arguments)
    logs = os.path.join(os.environ["CRI_HOME"], "logs", name)
    os.makedirs(logs, exist_ok=True)
    config = over({
        "metadata": {"name": name, "uid": name, "namespace": "default"},
        "log_directory": logs,
        "linux": {"security_context": {"namespace_options": OWN_PROCESSES}},
    }, changes)
    request = pb.RunPodSandboxRequest(runtime_handler=os.environ.get("CRI_HANDLER", HANDLER))
    json_format.ParseDict(config, request.config)
    pod = call("RunPodSandbox", request, pb.PodId).pod_sandbox_id
    with open(kept(pod), "w") as file:
        json.dump(config, file)
    return pod


def make_container(pod, name, arguments):
    changes, command = split(arguments)
    config = over({
        "metadata": {"name": name},
        "image": {"image": os.environ["CRI_IMAGE"]},
        "command": command,
        "log_path": name + ".log",
        "linux": {"security_context": {"namespace_options": OWN_PROCESSES}},
    }, changes)
    request = pb.CreateContainerRequest(pod_sandbox_id=pod)
    json_format.ParseDict(config, request.config)
    with open(kept(pod)) as file:
        json_format.ParseDict(json.load(file), request.sandbox_config)
    return call("CreateContainer", request, pb.ContainerId).container_id


def status_of(container):
    request = pb.ContainerStatusRequest(container_id=container, verbose=True)
    return call("ContainerStatus", request, pb.ContainerStatusResponse)


def status_of_pod(pod):
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
    return call("PodSandboxStatus", request, pb.PodSandboxStatusResponse)


def state_name(of_pod, some_id):
    if of_pod:
        return pb.PodSandboxState.Name(status_of_pod(some_id).status.state)
    return pb.ContainerState.Name(status_of(some_id).status.state)


def wait(some_id, state, seconds):
    import time

    of_pod = state in ("ready", "notready")
    wanted = ("SANDBOX_" if of_pod else "CONTAINER_") + state.upper()
    deadline = time.monotonic() + float(seconds)
    while True:
        found = state_name(of_pod, some_id)
        if found == wanted:
            return 0
        if deadline < time.monotonic():
            print(f"{some_id} is {found} after {seconds} s, not {wanted}", file=sys.stderr)
            return 1
        time.sleep(0.2)


def options(arguments, flags=(), values=()):
    """Takes the options before what is no option."""
    found = {}
    while arguments and arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in flags:
            found[option] = True
        elif option in values:
            found.setdefault(option, []).append(arguments.pop(0))
        else:
            sys.exit(f"cri.py: no such option: {option}")
    return found


def exec_sync(arguments):
    limit = int(options(arguments, values=["--timeout"]).get("--timeout", ["0"])[0])
    container, *command = arguments
    request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=limit)
    answer = call("ExecSync", request, pb.ExecSyncResponse)
    sys.stdout.buffer.write(answer.stdout)
    sys.stderr.buffer.write(answer.stderr)
    return answer.exit_code


def resizes(found):
    return [tuple(resize.rsplit("=", 1)) for resize in found.get("--resize", [])]


def exec_streams(arguments):
    import cri_streams

    found = options(arguments, ["-i", "-t"], ["--size", "--resize"])
    container, *command = arguments
    stdin, tty = "-i" in found, "-t" in found
    request = pb.ExecRequest(container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
    url = call("Exec", request, pb.StreamUrl).url
    return cri_streams.run(url, stdin, found.get("--size", [None])[0], resizes(found))


def attach(arguments):
    import cri_streams

    found = options(arguments, ["-i", "-t"], ["--resize", "--until"])
    stdin, tty = "-i" in found, "-t" in found
    request = pb.AttachRequest(container_id=arguments[0], tty=tty, stdin=stdin, stdout=True, stderr=not tty)
    url = call("Attach", request, pb.StreamUrl).url
    return cri_streams.run(url, stdin, resizes=resizes(found), until=found.get("--until", [None])[0])


def port_forward(pod, ports):
    import cri_streams

    local, _, port = ports.rpartition(":")

    def url():
        request = pb.PortForwardRequest(pod_sandbox_id=pod, port=[int(port)])
        return call("PortForward", request, pb.StreamUrl).url

    if local:
        cri_streams.forward(url, int(local), int(port))
    cri_streams.forward_here(url(), int(port))


def list_containers(pod):
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod))
    for container in call("ListContainers", request, pb.ListContainersResponse).containers:
        metadata = container.metadata
        print(container.id, pb.ContainerState.Name(container.state), metadata.name, metadata.attempt)


def list_pods():
    for pod in call("ListPodSandbox", pb.Empty(), pb.ListPodSandboxResponse).items:
        print(pod.id, pb.PodSandboxState.Name(pod.state), pod.metadata.name, pod.metadata.attempt)


def command(verb, arguments):
    container = {"start": "StartContainer", "rm": "RemoveContainer", "reopen-log": "ReopenContainerLog"}
    pod = {"stopp": "StopPodSandbox", "rmp": "RemovePodSandbox"}
    if verb in container:
        call(container[verb], pb.ContainerId(container_id=arguments[0]))
    elif verb in pod:
        call(pod[verb], pb.PodId(pod_sandbox_id=arguments[0]))
    elif verb == "version":
        show(call("Version", pb.VersionRequest(), pb.VersionResponse, seconds=5))
    elif verb == "runp":
        print(make_pod(arguments[0], arguments[1:]))
    elif verb == "create":
        print(make_container(*arguments[:2], arguments[2:]))
    elif verb == "run":
        made = make_container(*arguments[:2], arguments[2:])
        call("StartContainer", pb.ContainerId(container_id=made))
        print(made)
    elif verb == "stop":
        limit = int(arguments[1]) if arguments[1:] else 0
        call("StopContainer", pb.StopContainerRequest(container_id=arguments[0], timeout=limit))
    elif verb == "ps":
        list_containers(arguments[0] if arguments else "")
    elif verb == "pods":
        list_pods()
    elif verb == "inspect":
        show(status_of(arguments[0]))
    elif verb == "inspectp":
        show(status_of_pod(arguments[0]))
    elif verb == "stats":
        show(call("ContainerStats", pb.ContainerId(container_id=arguments[0]), pb.ContainerStatsResponse).stats)
    elif verb == "statsp":
        show(call("PodSandboxStats", pb.PodId(pod_sandbox_id=arguments[0]), pb.PodSandboxStatsResponse).stats)
    elif verb == "wait":
        return wait(*arguments)
    elif verb == "exec-sync":
        return exec_sync(arguments)
    elif verb == "exec":
        return exec_streams(arguments)
    elif verb == "attach":
        return attach(arguments)
    elif verb == "port-forward":
        port_forward(*arguments)
    elif verb == "update":
        request = pb.UpdateContainerResourcesRequest(container_id=arguments[0])
        json_format.ParseDict(json.loads(arguments[1]), request.linux)
        call("UpdateContainerResources", request)
    else:
        sys.exit(f"cri.py: no such command: {verb}")
    return 0


def main(arguments):
    load()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import cri_streams

    try:
        return command(arguments[0], arguments[1:])
    except grpc.RpcError as error:
        print(f"cri: {error.code().name}: {error.details()}", file=sys.stderr)
    except cri_streams.StreamError as error:
        print(f"cri: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    server = os.environ.get("CRI_SERVER")
    if sys.argv[1] == "serve":
        serve(server)
    sys.exit(ask_server(server, sys.argv[1:]) if server else main(sys.argv[1:]))
