"""Another event loop: uvloop's policy."""

import asyncio
import os

import discord
import uvloop
from discord.ext import commands
from report import mark

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.tree.command(description="Runs a program of the system")
async def echo(interaction: discord.Interaction):
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    await interaction.response.send_message(out.decode())


bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
