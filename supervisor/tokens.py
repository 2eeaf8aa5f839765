"""The places of the bot's token, and their order.

Knows the places and the shape of a token. No message shows a token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bastion.supervisor.location import SettingsError, shown_path
from bastion.supervisor.reading import answered, content

TOKEN = "DISCORD_TOKEN"
MAX_TOKEN_BYTES = 4096
SHORTEST_MASKED = 16
"""Characters of a token that the log masks. Discord's have some 60 or more; of one of few letters, which is a
mistake or a test's, each of these letters would be masked."""
WAYS = (
    f"set {TOKEN} in the environment, or name a file that holds it with discord.token_file in bastion.toml, "
    f"or give systemd's LoadCredential=discord_token:FILE, or write {TOKEN} into the file that bot.env_file names"
)


def find_token(token_file: Path | None, *, environ: Mapping[str, str]) -> str:
    """Return the token from the first place with a token, "" without one. ``bot.env_file`` is not looked at.

    Raises `SettingsError` for a file that is named and cannot be read, is empty, or holds no token.
    """
    if token := environ.get(TOKEN, "").strip():
        return checked_token(token, source=TOKEN)
    if token_file is not None:
        return _token_from(token_file, source="discord.token_file")
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(credentials) / "discord_token"
        # One that we may not see is no reason to go on.
        if answered(str(credential), lambda: not os.access(credentials, os.X_OK) or credential.exists()):
            return _token_from(credential, source="systemd credential discord_token")
    return ""


def checked_token(token: str, *, source: str) -> str:
    """Return ``token``. Raises `SettingsError` if Discord's tokens do not look like that."""
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in token):
        raise SettingsError(f'{source}: not a token: it must be one ASCII word, without "Bot " in front')
    return token


def _token_from(path: Path, *, source: str) -> str:
    where = f"{source}: {shown_path(path)}"
    try:
        written = content(path, what=where, limit=MAX_TOKEN_BYTES)
    except OSError as error:
        raise SettingsError(f"{where}: the token cannot be read: {error.strerror or error}") from None
    if len(written) > MAX_TOKEN_BYTES:
        raise SettingsError(f"{where}: larger than {MAX_TOKEN_BYTES} bytes, so not a token file")
    token = written.decode("utf-8", "replace").strip()
    if not token:
        raise SettingsError(f"{where}: the file is empty, it should hold the token")
    return checked_token(token, source=where)
