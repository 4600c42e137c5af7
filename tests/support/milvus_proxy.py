"""A gRPC proxy, as it may stand in front of Milvus: it passes requests on, or refuses them."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import grpc


class Proxy(grpc.GenericRpcHandler):
    """Refuses as many requests as it is told to, or never answers; passes the others on."""

    def __init__(self, behind: str) -> None:
        self.uri = ""
        self.code = grpc.StatusCode.OK
        self.refusals = 0  # still to come
        self.methods: tuple[str, ...] = ()  # only these are refused; none: all
        self.hangs = False  # whether these are never answered
        self.ended = Event()
        self.refused: list[str] = []  # methods
        self._channel = grpc.insecure_channel(behind.removeprefix("http://")) if behind else None

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what handles a request."""
        method = call.method.rpartition("/")[2]

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.refusals and (not self.methods or method in self.methods):
                self.refusals -= 1
                self.refused.append(method)
                context.abort(self.code, f"the proxy's\n\x1b[31mwords on {method}")
            if self.hangs and method in self.methods:
                self.refused.append(method)
                self.ended.wait()
            if self._channel is None:
                return b""  # a message whose fields all have their defaults: success
            forward = self._channel.unary_unary(call.method)
            metadata = [(k, v) for k, v in context.invocation_metadata() if k != "user-agent"]
            return bytes(forward(request, metadata=metadata))

        return grpc.unary_unary_rpc_method_handler(handle)


@contextmanager
def running_proxy(behind: str = "", options: Mapping[str, int] | None = None) -> Iterator[Proxy]:
    """Run a proxy on a port of its own; behind: where requests are passed on to."""
    proxy = Proxy(behind)
    options = {"grpc.so_reuseport": 0, **(options or {})}
    server = grpc.server(ThreadPoolExecutor(8), handlers=[proxy], options=list(options.items()))
    proxy.uri = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.stop(0).wait()
