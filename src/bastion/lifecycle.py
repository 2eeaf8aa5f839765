"""What an app may ask about its role: see `bastion.bot.lifecycle`."""

from bastion.bot.lifecycle import Role, in_step, role, wait_until_active

__all__ = ["Role", "in_step", "role", "wait_until_active"]
