"""What is private in discord.py and needed here. Only this package and `bastion.bot.internals` touch it."""
