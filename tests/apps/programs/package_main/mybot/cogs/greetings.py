from discord import Interaction, app_commands
from discord.ext import commands


class Greetings(commands.Cog):
    def __init__(self, bot):
        self.bot = bot

    @commands.command()
    async def ping(self, ctx):
        await ctx.reply("hello")

    @app_commands.command(description="Says hello")
    async def hello(self, interaction: Interaction):
        await interaction.response.send_message("hello")


async def setup(bot):
    await bot.add_cog(Greetings(bot))
