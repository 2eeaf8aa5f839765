"""A pool of processes made by forkserver: they import the program again, and classes of __main__ travel."""

import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import discord
from discord.ext import commands
from report import mark


@dataclass
class Roll:
    sides: int
    value: int = 0


def roll(wanted):
    return Roll(wanted.sides, wanted.sides // 2)


class MyBot(commands.Bot):
    async def setup_hook(self):
        self.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver"))
        await self.tree.sync()


intents = discord.Intents.default()
intents.message_content = True
bot = MyBot(command_prefix="!", intents=intents)


@bot.hybrid_command(description="Rolls the dice")
async def dice(ctx):
    await ctx.defer()
    done = await asyncio.get_running_loop().run_in_executor(bot.pool, roll, Roll(sides=6))
    await ctx.reply(f"{done.value} of {done.sides}")


if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
