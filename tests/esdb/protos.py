"""The messages and services of the protocol, as whichever client is installed ships them.

esdbclient and kurrentdbclient carry the same definitions under different names, and cannot be
installed together.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

PACKAGE = "esdbclient.protos.Grpc" if find_spec("esdbclient") else "kurrentdbclient.protos.v1"


def definitions(name: str) -> Any:
    return import_module(f"{PACKAGE}.{name}")


gossip = definitions("gossip_pb2")
gossip_grpc = definitions("gossip_pb2_grpc")
persistent = definitions("persistent_pb2")
persistent_grpc = definitions("persistent_pb2_grpc")
shared = definitions("shared_pb2")
status = definitions("status_pb2")
streams = definitions("streams_pb2")
streams_grpc = definitions("streams_pb2_grpc")
