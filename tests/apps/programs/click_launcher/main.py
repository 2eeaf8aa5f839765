"""A launcher made with click: it reads sys.argv, and always ends with sys.exit."""

import click
import discord
from discord.ext import commands
from report import mark


@click.group()
def cli():
    pass


@cli.command()
@click.option("--prefix", required=True)
@click.option("--token", envvar="DISCORD_TOKEN", required=True)
def serve(prefix, token):
    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot(command_prefix=prefix, intents=intents)

    @bot.command()
    async def ping(ctx):
        await ctx.reply("pong")

    bot.run(token)
    mark("clean-up")


if __name__ == "__main__":
    cli()
