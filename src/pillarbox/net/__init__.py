"""Bytes on wires: streams, TLS, name resolution and listening sockets."""
