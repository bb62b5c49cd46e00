"""A TCP path that a test can make silently swallow everything, as a firewall does that forgot the connection."""

import pathlib as files
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

import sqlalchemy as sa


class Path:
    """Passes bytes between its own port and `upstream` (a port of 127.0.0.1, a socket's path) while it is entered."""

    def __init__(self, upstream: int | str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallowed: set[socket.socket] = set()
        self._later = False
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()
        for one in [one for pair in self._pairs for one in pair]:
            one.close()

    def swallow(self, *, later: bool = False) -> None:
        """From now on nothing passes on the connections that are there; nobody is told. `later`: nor on new ones."""
        self._later = later
        self._swallowed |= {one for pair in self._pairs for one in pair}

    @property
    def connections(self) -> int:
        """That were ever made."""
        return len(self._pairs)

    def pass_on(self) -> None:
        """What waits, and what comes, passes again."""
        self._later = False
        self._swallowed.clear()

    def _accept(self) -> None:
        while not self._closed.is_set():
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            near = self._listener.accept()[0]
            try:
                far = self._connected()
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            if self._later:
                self._swallowed |= {near, far}
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _connected(self) -> socket.socket:
        if isinstance(self._upstream, int):
            return socket.create_connection(("127.0.0.1", self._upstream))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._upstream)
        return connection

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        while not self._closed.is_set():
            if source in self._swallowed:
                self._closed.wait(0.05)
                continue
            with suppress(OSError, ValueError):  # closed: -1 is no descriptor
                if not select.select([source], [], [], 0.05)[0]:
                    continue
                if data := source.recv(65_536):
                    sink.sendall(data)
                    continue
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
            return


@contextmanager
def path_to_postgres(url: str) -> Iterator[tuple[Path, str]]:
    """A path to the PostgreSQL behind `url`, whose host is a directory of sockets, and the URL that takes it."""
    address = sa.make_url(url)
    (directory,) = [address.query["host"]] if isinstance(address.query["host"], str) else address.query["host"]
    (upstream,) = [str(one) for one in files.Path(directory).glob(".s.PGSQL.*") if one.is_socket()]
    with Path(upstream) as path:
        through = address.set(host="127.0.0.1", port=path.port, query={})
        yield path, through.render_as_string(hide_password=False)
