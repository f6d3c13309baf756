"""HTTP by hand, for clients that misbehave."""

import http.client
import socket


def connect(daemon, seconds=20):
    return socket.create_connection(("127.0.0.1", daemon.http_port), timeout=seconds)


def head(path, length, content_type="image/jpeg", method="POST", more=""):
    return (f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {length}\r\n{more}\r\n").encode()


def read_response(connection):
    """(status, headers, body) of the next answer, or None when the peer closed or reset without one."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ConnectionError):
        return None
    return response.status, response.headers, body
