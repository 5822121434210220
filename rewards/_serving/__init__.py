"""A package that serves a reward over HTTP: server, connections, wire format and client."""
