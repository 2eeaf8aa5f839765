"""Where the settings file, the control socket and the health address are.

Kept apart from `settings` so that `status`, `stop` and `healthcheck` find a running supervisor without a token, without
importing msgspec, and even when another part of the file is wrong. It knows the search order and TOML; it knows of no
other keys than ``control.socket`` and ``health.listen``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from bastion.supervisor.reading import SettingsError as SettingsError
from bastion.supervisor.reading import answered, content

CONFIG_NAME = "bastion.toml"
SYSTEM_CONFIG = Path("/etc/bastion") / CONFIG_NAME
MAX_CONFIG_BYTES = 1024 * 1024
MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket in bytes: ``sun_path`` holds 108 with the closing zero (man 7 unix)."""
DEFAULT_HEALTH = "127.0.0.1:9194"
LISTEN_ALLOWED = f'"host:port", "[ipv6]:port", "unix:/path" of at most {MAX_SOCKET_PATH} bytes, or "" for none'
_UNIX = "unix:"


class TcpAddress(NamedTuple):
    """``host`` is a name or an address, without brackets. Port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


HealthAddress: TypeAlias = Path | TcpAddress
"""The path of a Unix socket, or host and port."""


def find_config(explicit: Path | None, *, environ: Mapping[str, str]) -> Path | None:
    """Return the absolute path of the settings file, or None when there is none and the defaults hold.

    ``explicit`` is the value of ``--config``. Raises `SettingsError` when a file that was asked for is missing.
    """
    for path, source in ((explicit, "--config"), (_named(environ, "BASTION_CONFIG"), "$BASTION_CONFIG")):
        if path is None:
            continue
        found = absolute(path, base=current_directory())
        if not _exists(found):
            raise SettingsError(f"{found}: no such file (named by {source})")
        return found
    return next((path for path in (current_directory() / CONFIG_NAME, SYSTEM_CONFIG) if _exists(path)), None)


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises `SettingsError` naming the file, and the line if the syntax is wrong."""
    try:
        written = content(path, what=str(path), limit=MAX_CONFIG_BYTES)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(written) > MAX_CONFIG_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, so not a settings file")
    try:
        return tomllib.loads(written.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def locate_socket(explicit: Path | None, *, environ: Mapping[str, str]) -> Path:
    """Return the control socket's path for the settings file found as in `find_config`. Needs no token.

    Raises `SettingsError` when the file is missing or unreadable, or when the path is not usable.
    """
    config = find_config(explicit, environ=environ)
    if config is None:
        return default_socket(environ=environ)
    control = read_config(config).get("control", {})
    value = control.get("socket", "") if isinstance(control, dict) else control
    if not isinstance(value, str) or "\0" in value:
        raise SettingsError(f"{config}: control.socket = {shown(value)}: allowed is a path")
    return configured_socket(value, config=config, environ=environ)


def locate_health(explicit: Path | None, *, environ: Mapping[str, str]) -> HealthAddress | None:
    """Return where health answers for the settings file found as in `find_config`, None for nowhere. Needs no token.

    Raises `SettingsError` when the file is missing or unreadable, or when the address is none.
    """
    config = find_config(explicit, environ=environ)
    health = read_config(config).get("health", {}) if config else {}
    value = health.get("listen", DEFAULT_HEALTH) if isinstance(health, dict) else health
    try:
        if isinstance(value, str):
            return parse_listen(value)
    except ValueError:
        pass
    raise SettingsError(f"{config}: health.listen = {shown(value)}: allowed is {LISTEN_ALLOWED}")


def locate_shared_ledger(explicit: Path | None, *, environ: Mapping[str, str]) -> Path | None:
    """Return ``ledger.path`` if other supervisors may have it too, None if not; whatever is wrong with all else."""
    try:
        config = find_config(explicit, environ=environ)
        ledger = read_config(config).get("ledger") if config else None
    except SettingsError:
        return None
    if config is None or not isinstance(ledger, dict) or ledger.get("shared") is not True:
        return None
    path = ledger.get("path")
    return absolute(Path(path), base=config.parent) if isinstance(path, str) and path and "\0" not in path else None


def parse_listen(value: str) -> HealthAddress | None:
    """Read ``health.listen``; None is none. Raises `ValueError` for what `LISTEN_ALLOWED` does not name."""
    if value == "":
        return None
    if value.startswith(f"{_UNIX}/") and "\0" not in value:
        path = Path(value.removeprefix(_UNIX))
        if path.name and len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]") and len(host) > len("[]")
    plain = bool(host) and not any(character in "[]:/ \0" for character in host)
    if colon and (bracketed or plain) and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535:
        return TcpAddress(host[1:-1] if bracketed else host, int(port))
    raise ValueError(value)


def configured_socket(value: str, *, config: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the absolute path for ``control.socket``, or the default. Raises `SettingsError` if it is too long."""
    if not value:
        return default_socket(environ=environ)
    where = f"{config}: " if config else ""
    return _fitting(
        absolute(Path(value), base=config.parent if config else current_directory()), source=f"{where}control.socket"
    )


def default_socket(*, environ: Mapping[str, str]) -> Path:
    """Return the socket's default: under $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR, else the temp dir, per user."""
    if runtime := environ.get("RUNTIME_DIRECTORY"):  # systemd joins several with colons; the first is ours
        return _fitting(Path(runtime.split(":")[0]) / "supervisor.sock", source="$RUNTIME_DIRECTORY")
    if session := environ.get("XDG_RUNTIME_DIR"):
        return _fitting(Path(session) / "bastion" / "supervisor.sock", source="$XDG_RUNTIME_DIR")
    temporary = Path(environ.get("TMPDIR") or "/tmp")
    return _fitting(temporary / f"bastion-{os.getuid()}" / "supervisor.sock", source="$TMPDIR")


def absolute(path: Path, *, base: Path) -> Path:
    """Make ``path`` absolute against ``base`` and drop ``.`` and ``..`` parts; symlinks stay as they are."""
    return Path(os.path.normpath(base / path)) if ".." not in path.parts else base / path


def shown(value: object) -> str:
    """Write a TOML value for a message: on one line, short, and without anything that has the shape of a token."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if text.count(".") >= 2 and any(len(word.split(".")) == 3 and len(word) > 50 for word in text.split()):
        return "(a value that looks like a token)"
    return text if len(text) <= 80 else text[:77] + "..."


def shown_path(path: Path) -> str:
    """Write a path for a message: whole, unless its name cannot be printed, is very long, or may be a token."""
    text = str(path)
    return text if text.isprintable() and shown(path.name) == repr(path.name) else shown(text)


def _fitting(path: Path, *, source: str) -> Path:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise SettingsError(
            f"{source}: the path of the control socket is {size} bytes long, "
            f"{MAX_SOCKET_PATH} are allowed: {shown(str(path))}"
        )
    return path


def _named(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value) if value else None


def _exists(path: Path) -> bool:
    try:
        return answered(str(path), path.exists)
    except PermissionError:  # something is there that we may not look at: reading it gives the better message
        return True
    except (OSError, ValueError):
        return False


def current_directory() -> Path:
    """Return the working directory. Raises `SettingsError` when it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise SettingsError(
            "the current directory no longer exists: change to one that does, or use --config"
        ) from None
