// The benchmarks' bot on discord.js: the same logic as bots/logic.py. It answers raw events, so that no cache decides
// what it hears, and reports to the sandbox when a handler begins and when it has ended.
//
// BENCH_MODE: "cluster" (under discord-hybrid-sharding, as its README says: events are listened to from the cluster's
// "ready" on) or "pm2" (says "ready" to pm2, and on SIGINT takes nothing new, finishes its handlers and exits).
'use strict';

const { Client, GatewayIntentBits: Intent } = require('discord.js');

const mode = process.env.BENCH_MODE;
const api = process.env.DISCORD_API_URL.replace(/\/v\d+$/, '');
const reports = new URL('/sandbox/handled', api);
const [low, high] = (process.env.BENCH_HANDLER_MS || '0-0').split('-').map(Number);

const options = {
  intents: [Intent.Guilds, Intent.GuildMembers, Intent.GuildMessages, Intent.MessageContent,
    Intent.GuildMessageReactions, Intent.GuildMessageTyping],
  rest: { api },
};
let cluster;
if (mode === 'cluster') {
  const { ClusterClient, getInfo } = require('discord-hybrid-sharding');
  Object.assign(options, { shards: getInfo().SHARD_LIST, shardCount: getInfo().TOTAL_SHARDS });
  cluster = (client) => new ClusterClient(client);
} else {
  options.shards = 'auto';
}

const client = new Client(options);
if (cluster) client.cluster = cluster(client);

async function report(kind, key) {
  const at = Number(process.hrtime.bigint()) / 1e9; // CLOCK_MONOTONIC, as Python's time.monotonic
  const body = JSON.stringify([{ kind, key, by: process.pid, at }]);
  for (let attempt = 0; attempt < 5; attempt += 1) {
    try {
      const answer = await fetch(reports, { method: 'POST', body });
      if (answer.ok) return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50 * 2 ** attempt));
    }
  }
  console.error('REPORT LOST', kind, key);
}

const reaction = (d) => `${d.channel_id}:${d.message_id}:${d.user_id}:${d.emoji.id || d.emoji.name}`;
const keys = {
  MESSAGE_CREATE: (d) => (d.author.bot ? null : ['message', d.id]),
  MESSAGE_UPDATE: (d) => (d.edited_timestamp ? ['edit', `${d.id}:${d.edited_timestamp}`] : null),
  MESSAGE_DELETE: (d) => ['delete', d.id],
  MESSAGE_REACTION_ADD: (d) => ['reaction_add', reaction(d)],
  MESSAGE_REACTION_REMOVE: (d) => ['reaction_remove', reaction(d)],
  TYPING_START: (d) => ['typing', `${d.channel_id}:${d.user_id}:${d.timestamp}`],
  GUILD_MEMBER_UPDATE: (d) => ['member_update', `${d.guild_id}:${d.user.id}:${d.nick || ''}`],
};

const running = new Set();
let ending = false;

async function handle(kind, key) {
  await report('began', `${kind}:${key}`);
  await new Promise((resolve) => setTimeout(resolve, low + Math.random() * (high - low)));
  await report(kind, key);
}

function listen() {
  client.on('raw', (packet) => {
    const found = !ending && keys[packet.t] && keys[packet.t](packet.d);
    if (!found) return;
    const task = handle(...found);
    running.add(task);
    task.finally(() => running.delete(task));
  });
}

client.on('clientReady', async () => {
  if (cluster) client.cluster.triggerReady();
  await report('ready', String(process.pid));
  if (mode === 'pm2' && process.send) process.send('ready');
});
if (cluster) client.cluster.on('ready', listen);
else listen();

process.on('SIGINT', async () => {
  ending = true;
  await Promise.allSettled([...running]);
  await client.destroy();
  process.exit(0);
});

client.login(process.env.DISCORD_TOKEN);
