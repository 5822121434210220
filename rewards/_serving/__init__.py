"""A reward behind HTTP: the server, its connections, the bytes, and the client's
requests."""
