"""A certificate of the tests' own, as a company's server might have one."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Certificate:
    """Signed by itself, and so its own CA; `file` holds it in PEM form."""

    def __init__(self, folder: Path, *names: str) -> None:
        """For these names, such as ``DNS:host`` or ``IP:127.0.0.1``."""
        self.file, key = folder / "certificate.pem", folder / "key.pem"
        files = ["-out", str(self.file), "-keyout", str(key)]
        subject = ["-subj", "/CN=tests", "-addext", f"subjectAltName={','.join(names)}"]
        command = ["openssl", "req", "-x509", "-days", "2", *KEY, *files, *subject]
        subprocess.run(command, check=True, capture_output=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file, key)
