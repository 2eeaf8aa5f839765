"""`python -m mybot`: relative imports, and extensions that are named by the package."""

import asyncio
import os

from report import mark

from .bot import bot


async def main():
    async with bot:
        await bot.load_extension(".cogs.greetings", package=__package__)
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


if __name__ == "__main__":
    asyncio.run(main())
