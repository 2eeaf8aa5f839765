"""The bot's cogs."""
