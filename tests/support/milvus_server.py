"""A real Milvus server for the tests, on ports and in folders of its own, killed at will."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Container
from pathlib import Path

from pymilvus.exceptions import MilvusException

from similar_images.milvus.client import CollectionError
from similar_images.milvus.connection import connect

STARTED_WITHIN = 300  # seconds, on a busy machine; one that has ended is not waited for
RUNTIME_FOLDERS = ("/run/milvus", "/tmp/milvus")  # fixed in its code, whoever has made them
# Intervals at which its parts look for work, in milliseconds: short, since tests wait for them.
SETTINGS = {
    "common.security.authorizationEnabled": "true",
    "common.session.ttl": "5",
    "proxy.timeTickInterval": "50",
    "queryCoord.checkInterval": "100",
    "queryCoord.distPullInterval": "100",
    "queryCoord.checkHandoffInterval": "500",
    "queryNode.stats.publishInterval": "100",
    "quotaAndLimits.enabled": "false",
}
LIMITS = "\n  limits:\n"
OUTPUT = 40 * 2**20  # of its own 100 MB: tests reach it sooner
ETCD = "\netcd:\n"
ETCD_SETTINGS = """
name: default
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def has_runtime_folder() -> bool:
    """Whether Milvus can make and use one of the two folders that it insists on."""
    folders = map(Path, RUNTIME_FOLDERS)
    return any(os.access(f if f.exists() else f.parent, os.W_OK) for f in folders)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """A Milvus server that asks for a password, with all that is its own under one folder."""

    def __init__(self, folder: Path) -> None:
        import milvus
        from milvus import MilvusServer, MilvusServerConfig

        template = folder / "template.yaml"  # the wheel's own, with etcd's ports beside the others
        published = Path(milvus.__file__).parent / "data/config.yaml.template"
        etcd = folder / "etcd.yaml"
        settings = published.read_text().replace(ETCD, f"{ETCD}  config:\n    path: {etcd}\n")
        template.write_text(settings.replace(LIMITS, f"{LIMITS}    maxOutputSize: {OUTPUT}\n"))
        config = MilvusServerConfig(template=str(template))
        config.glog_conf_file = str(published.with_name("glog.conf"))
        names = [name for name in config.configurable_items if name.endswith("_port")]
        *ports, self._web_port, peer_port = free_ports(len(names) + 2)
        client_port = ports[names.index("etcd_port")]
        etcd.write_text(ETCD_SETTINGS.format(client=client_port, peer=peer_port))
        config.update(data_dir=str(folder), **dict(zip(names, ports, strict=True)))
        for name, value in SETTINGS.items():
            config.set(name, value)
        server = MilvusServer(config, wait_for_started=False)
        server.webservice_port = self._web_port
        server.start()
        self._process: subprocess.Popen[bytes] = server.server_proc
        server.server_proc = None  # it would end whatever has this process id later
        self._environ = {  # as start() makes it, for a restart
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._web_port),
            "MILVUS_RUN_DIR": str(folder / "run"),
            "LD_LIBRARY_PATH": str(Path(server.get_milvus_executable_path()).parent),
        }
        self._folder = folder
        self.uri = f"http://127.0.0.1:{config.get('proxy_port')}"
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                health = f"http://127.0.0.1:{self._web_port}/healthz"
                with urllib.request.urlopen(health, timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            except OSError:
                pass
            time.sleep(0.1)
        status = self._process.poll()
        what = f"ended with {status}" if status is not None else "does not answer"
        self.kill()
        logs = sorted(self._folder.glob("logs/milvus-std*.log"), key=lambda log: log.stat().st_size)
        last = logs[-1].read_text(errors="replace").splitlines()[-3:] if logs else []
        raise RuntimeError(f"the Milvus server {what}: {' | '.join(last)[-600:]}")

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start it again with the same data on the same ports."""
        with open(self._folder / "logs/milvus-stderr-restarted.log", "ab") as log:
            self._process = subprocess.Popen(
                self._process.args, env=self._environ, cwd=self._folder, stdout=log, stderr=log
            )

    def collections(self) -> list[str]:
        """The names without "__" and what follows, once it answers; it is restarted if killed."""
        if self._process.poll() is not None:
            self.restart()
            self._wait_until_it_answers()
        while True:
            try:
                with connect(self.uri) as client:
                    return [name.partition("__")[0] for name in client.milvus.list_collections()]
            except (CollectionError, MilvusException):
                assert self._process.poll() is None, "the Milvus server has ended"
                time.sleep(0.2)

    def drop_all(self, but: Container[str] = ()) -> None:
        """Remove all collections but those that these aliases lead to."""
        self.collections()
        with connect(self.uri) as client:
            for name in client.milvus.list_collections():
                aliases = client.milvus.list_aliases(name)["aliases"]
                for alias in aliases:
                    if alias not in but:
                        client.milvus.drop_alias(alias)
                if not {*aliases} & {*but}:
                    client.milvus.drop_collection(name)

    def stop(self) -> None:
        """End it; its data are the test's to delete."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
