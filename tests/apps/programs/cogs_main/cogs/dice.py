from discord import Interaction, app_commands
from discord.ext import commands


class Dice(commands.Cog):
    def __init__(self, bot):
        self.bot = bot

    @commands.command()
    async def roll(self, ctx):
        await ctx.reply("a four")

    @app_commands.command(description="Rolls the dice")
    async def dice(self, interaction: Interaction):
        await interaction.response.send_message("a four")


async def setup(bot):
    await bot.add_cog(Dice(bot))
