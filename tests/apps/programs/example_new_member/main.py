"""A client that greets who joins, in the shape of discord.py's `new_member`."""

import discord
from report import handled


class MyClient(discord.Client):
    async def on_ready(self):
        print(f"Logged in as {self.user} (ID: {self.user.id})")

    async def on_member_join(self, member):
        guild = member.guild
        if guild.system_channel is not None:
            await guild.system_channel.send(f"Welcome {member.mention} to {guild.name}!")
        await handled("member_join", f"{guild.id}:{member.id}:{member.joined_at.isoformat()}")


intents = discord.Intents.default()
intents.members = True

client = MyClient(intents=intents)
client.run("sandbox-token")
