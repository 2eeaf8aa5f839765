"""The child: makes an unmodified discord.py app hot-swappable under the supervisor."""
