"""`python -m mybot` of a folder without __init__.py."""

import os

from report import mark

from .bot import bot

bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
