"""How long children are given where no setting says so.

Knows these times and why they are what they are, nothing else; those that come from the settings are `state.Timing`.
They are read as attributes of this module, so that a test has one place to shorten them.
"""

from __future__ import annotations

ACK_TIMEOUT = 5.0
"""Seconds within which a child answers `Serve` or `Activate`: its loop has one small thing to do."""
MOVE_TIMEOUT = 15.0
"""Seconds within which a mirror that is told to activate has the sessions, beyond those in which an active child that
hangs is found out: three tries of 3 s, a second apart, and Discord's answers."""
SIGN_TIMEOUT = 2.0
"""Seconds between two beats (one a second) of a child that takes sessions: while it hangs nobody has them."""
CATCH_UP = 10.0
"""Seconds for which a child that has had a successor may go on handling before it stands by: until what had come to it
is read, and a shard is back that was between two connections (`bot.runtime`)."""
HELLO_TIMEOUT = 30.0
"""Seconds from spawn to `Hello`: an interpreter and its imports; the app is loaded later."""
RECOVER_TIMEOUT = 30.0
"""Seconds within which a child that is ready has seen to what a dead one left: it may import a checkpoint of the app's
state, waits 15 s at most for Discord's answers, and a second to be sure."""
DRAIN_GRACE = 15.0
"""Seconds that a drained child has, past its limit, to exit: 5 to close its sessions, 3 at least for its program to
clean up, 3 once that is interrupted, 3 for threads that keep it, and one to spare."""
TERM_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL."""
FATAL_GRACE = 3.0
"""Seconds in which a child that reported `Fatal` exits on its own before SIGTERM: its program may clean up."""
DUMP_GRACE = 1.0
"""Seconds in which the stacks of a child that hangs reach the log."""
HURRY_LIMIT = 5.0
"""Seconds that a draining or lingering child has left once a newer release needs its place: enough for an interaction's
first answer (3 s)."""
