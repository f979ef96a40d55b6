"""The lines for people, on stdout: what is served, and how to try it."""

import argparse
import os
import re
import shlex
import sys
from typing import NoReturn

from app.launcher.child import MISCONFIGURED
from app.launcher.log import error
from app.launcher.output import Output
from app.settings.certificate import Pair
from app.settings.config import Listener, PairFiles, needs_client_certificate, reachable
from app.settings.errors import cut, shown
from app.settings.tables import Server

_out = Output(1)

LABEL = r"(?!-)[\w-]{1,63}(?<!-)"
HOST = re.compile(rf"(\*(?=\.[^.]+\.[^.])|{LABEL})(\.{LABEL})*\.?|[0-9a-f]*:[0-9a-f:]*", re.ASCII)
"""A name of a certificate under which a URL reaches it: of letters, digits, - and _, after a wildcard perhaps, or IPv6."""


class Parser(argparse.ArgumentParser):
    """Arguments of a command; a mistake is one line, and exit status 2, as that of any other setting."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        error(f"configuration: {shown(message)}; see {self.prog} --help")
        sys.exit(MISCONFIGURED)


def say(line: str) -> None:
    """Print a line that says what is served."""
    _out.line(line)


def address(host: str, port: int) -> str:
    """Write host and port as a URL does (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe(server: Server, listener: Listener, pair: Pair | None) -> str:
    """Return the line that says what a listener serves, and where its metrics are."""
    at = listener.metrics
    return _served(server, listener, pair) + (f"; metrics at http://{address(at.host, at.port)}/metrics" if at else "")


def _served(server: Server, listener: Listener, pair: Pair | None) -> str:
    workers = f"{server.workers} worker{'s' if server.workers > 1 else ''}"
    if not listener.application.is_bundled:
        workers += f"; {'WebSockets; ' if listener.websockets else ''}application {listener.application.target} ({listener.application.runs})"
    line = f"{listener.name}: {'https' if pair else 'http'}://{address(server.host, listener.port)}"
    if listener.protocol == "h2c":
        return f"{line} HTTP/2 by prior knowledge, plaintext, no ALPN, {workers}"
    if pair is None:
        return f"{line} HTTP/1.1, plaintext, no ALPN, {workers}"
    protocols = (
        "HTTP/2 or HTTP/1.1 over TLS 1.3, ALPN h2, http/1.1"
        if listener.protocol == "auto"
        else ("HTTP/1.1 over TLS 1.3, ALPN http/1.1")
    )
    return (
        f"{line} {protocols}, {workers}; certificate for"
        f" {cut(', '.join(pair.names))} ({pair.origin}); SHA-256 {pair.fingerprint};"
        f" expires {pair.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC;{_clients(listener)} records encrypted in user"
        f" space"
    )


def _clients(listener: Listener) -> str:
    """Return what clients need, to be put into a line."""
    files = listener.tls
    if not isinstance(files, PairFiles) or files.client_authority is None:
        return ""
    revocations = f", revoked by {files.client_revocations.path}" if files.client_revocations else ""
    return f" clients need a certificate ({files.client_authority.path}{revocations});"


def curl(server: Server, listener: Listener, pair: Pair | None, target: str) -> str:
    """Return a command that gets `target` from a listener and verifies its certificate."""
    host = reachable(server.host)
    if pair is None:
        option = "--http2-prior-knowledge " if listener.protocol == "h2c" else ""
        return f"curl {option}{_quoted(f'http://{address(host, listener.port)}{target}')}"
    if not pair.names:
        return "(the certificate has no names: no client can verify it)"
    own = " --cert client.crt --key client.key" if needs_client_certificate(listener) else ""
    name = next((each for each in pair.names if HOST.fullmatch(each)), None)
    if name is None or os.getppid() <= 1:  # init, or started by it: a container or a unit, whose files are its own
        options = f"--insecure --pinnedpubkey 'sha256//{pair.pin}'{own}"  # verified by its public key alone
        return f"curl {options} {_quoted(f'https://{address(host, listener.port)}{target}')}"
    authority = f"{shlex.quote(str(pair.authority))}{own}"
    if host in pair.names:
        return f"curl --cacert {authority} {_quoted(f'https://{address(host, listener.port)}{target}')}"
    name = name.replace("*", "www")
    return (
        f"curl --cacert {authority} --connect-to '::{address(host, listener.port)}'"
        f" {_quoted(f'https://{address(name, listener.port)}{target}')}"
    )


def _quoted(text: str) -> str:
    """Quote a text for a shell, whether it needs that or not: a certificate may have any name."""
    quoted = shlex.quote(text)
    return quoted if quoted.startswith("'") else f"'{text}'"
