"""A program in a folder of its own: what lies beside it is imported by its bare name."""

import os

from answers import bot
from report import mark

if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
