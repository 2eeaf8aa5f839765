"""A local Discord on loopback: gateway, REST, traffic, faults and a journal that tells what was lost or doubled.

    async with Sandbox(SandboxSettings(guilds=4)) as sandbox:
        ...  # start a bot against sandbox.api_url with sandbox.token
        await sandbox.traffic.run(rate=100, seconds=5)
        print(await sandbox.settled(timeout=10))

It knows nothing of the bot under test and imports neither the supervisor nor the bot.
"""

from .emitter import EmitError
from .faults import Fault, FaultError, Nonsense, Refusal
from .gateway import IdentifyRecord
from .journal import KINDS, OBSERVED_KINDS, Entry, Handled, Journal, Refused, RestCall
from .server import Sandbox
from .sessions import Session
from .settings import SandboxSettings, SettingsError
from .traffic import DEFAULT_MIX, TrafficError, TrafficOptions, TrafficReport
from .verdict import Example, KindVerdict, LatencySummary, Second, Verdict

__all__ = [
    "DEFAULT_MIX",
    "KINDS",
    "OBSERVED_KINDS",
    "EmitError",
    "Entry",
    "Example",
    "Fault",
    "FaultError",
    "Handled",
    "IdentifyRecord",
    "Journal",
    "KindVerdict",
    "LatencySummary",
    "Nonsense",
    "Refusal",
    "Refused",
    "RestCall",
    "Sandbox",
    "SandboxSettings",
    "Second",
    "Session",
    "SettingsError",
    "TrafficError",
    "TrafficOptions",
    "TrafficReport",
    "Verdict",
]
