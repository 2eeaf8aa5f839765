"""A connection in a thread of its own, in the shape of aiosqlite: the thread runs until the connection is closed."""

import asyncio
import queue
import sqlite3
import threading


class Connection(threading.Thread):
    def __init__(self, path):
        super().__init__(name="database")
        self.path = path
        self.orders = queue.SimpleQueue()

    def run(self):
        connection = sqlite3.connect(self.path)
        while (order := self.orders.get()) is not None:
            future, statement = order
            rows = connection.execute(statement).fetchall()
            future.get_loop().call_soon_threadsafe(future.set_result, rows)
        connection.close()

    async def execute(self, statement):
        future = asyncio.get_running_loop().create_future()
        self.orders.put((future, statement))
        return await future

    async def close(self):
        self.orders.put(None)


async def connect(path):
    connection = Connection(path)
    connection.start()
    return connection
