// A cluster manager of discord-hybrid-sharding: two clusters. "recluster MODE" on standard input restarts them; "done"
// on standard output says that it has ended. Ends with its standard input.
'use strict';

const path = require('node:path');
const readline = require('node:readline');
const { ClusterManager, ReClusterManager } = require('discord-hybrid-sharding');

const delay = Number(process.env.BENCH_SPAWN_DELAY_MS);
const manager = new ClusterManager(path.join(__dirname, 'bot.cjs'), {
  totalShards: Number(process.env.BENCH_SHARDS),
  totalClusters: 2,
  mode: 'process',
  token: process.env.DISCORD_TOKEN,
});
manager.extend(new ReClusterManager());

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const [, restartMode] = line.split(' ');
  try {
    await manager.recluster.start({ restartMode, delay });
    console.log('done');
  } catch (error) {
    console.log(`failed ${error.message}`);
  }
}).on('close', () => {
  for (const cluster of manager.clusters.values()) cluster.kill({ force: true });
  process.exit(0);
});

manager.spawn({ delay, timeout: -1 });
