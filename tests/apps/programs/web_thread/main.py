"""A web server in a thread that never ends: what many hosts call 'keep alive'."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import discord
from discord.ext import commands
from report import mark


class Alive(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"I am alive")


def serve():
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Alive).serve_forever()


def keep_alive():
    threading.Thread(target=serve, name="keep-alive").start()


intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction):
    await interaction.response.send_message("hello")


keep_alive()
bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
