"""A real nginx in the foreground, with a configuration of its own; and certificates."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_S = 30

CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events { worker_connections 256; }
http {
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    gzip on;
    server {
        listen 127.0.0.1:PORT ssl;
        ssl_certificate CERT;
        ssl_certificate_key KEY;
        SETTINGS
        location / { proxy_pass http://127.0.0.1:UPSTREAM; }
    }
}
"""
"""Nothing about gsync: the limits, the buffers and the times are nginx's own."""


def find_nginx() -> str | None:
    """Return the program; it lies where the path of a normal user does not lead."""
    more = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which("nginx", path=more)


@dataclass(frozen=True)
class Authority:
    """An authority that a test makes up, and what it has signed, in `folder`."""

    folder: Path
    name: str = "ca"

    @property
    def ca_file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def make(
        self, name: str = "server", *, host: str = "127.0.0.1", valid_days: int = 10
    ) -> tuple[Path, Path]:
        """Write a certificate for `host`, and its key; a negative validity is one that is over."""
        key_file = self.folder / f"{self.name}.key"
        if key_file.exists():
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            own = _certificate(self.name, key, self.name, key, None, 10)
            self.ca_file.write_bytes(own.public_bytes(serialization.Encoding.PEM))
            _write_key(key_file, key)
        own_key = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate(name, own_key, self.name, key, host, valid_days)
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        _write_key(key_path, own_key)
        return cert_path, key_path


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    host: str | None,
    valid_days: int,
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 20 * day)
        .not_valid_after(now + valid_days * day)
        .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if host is not None:
        try:
            names: list[x509.GeneralName] = [x509.IPAddress(ip_address(host))]
        except ValueError:
            names = [x509.DNSName(host)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    else:
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)


@dataclass(frozen=True)
class Nginx:
    """An nginx that runs.

    Attributes:
        base: `https://127.0.0.1:PORT`.
        folder: Its prefix; `access.log` and `error.log` are there.
    """

    base: str
    folder: Path

    def statuses(self) -> list[tuple[str, str, int]]:
        """Return method, path and status of every request so far."""
        lines = (self.folder / "access.log").read_text().splitlines()
        split = (line.split('"') for line in lines)
        return [
            (request.split()[0], request.split()[1], int(rest.split()[0]))
            for _, request, rest, *_ in split
        ]


@contextmanager
def running_nginx(
    folder: Path, authority: Authority, upstream: int, settings: str = ""
) -> Iterator[Nginx]:
    """Start an nginx with TLS before the server at port `upstream`; it is gone after the block."""
    program = find_nginx()
    assert program is not None
    folder.mkdir()
    cert, key = authority.make("nginx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = CONFIG.replace("SETTINGS", settings).replace("PORT", str(port))
    text = text.replace("CERT", str(cert)).replace("KEY", str(key))
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # else its worker could not enter `folder`
    config.write_text(user + text.replace("UPSTREAM", str(upstream)))
    with (folder / "error.log").open("wb") as errors:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
    try:
        _wait_for(port, process, folder)
        yield Nginx(f"https://127.0.0.1:{port}", folder)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(START_S)


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    for _ in range(START_S * 20):
        assert process.poll() is None, (folder / "error.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError((folder / "error.log").read_text())
