// One process of the queue comparison: BullMQ, used as in its own benchmarks. The arguments are those of
// benches/queue/main.rs.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Queue, Worker } from 'bullmq';

const { values } = parseArgs({
  options: {
    store: { type: 'string' },
    phase: { type: 'string' },
    tasks: { type: 'string' },
    producers: { type: 'string' },
    concurrency: { type: 'string' },
    payload: { type: 'string' },
  },
});
const { hostname: host, port } = new URL(values.store);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const [tasks, producers, concurrency] = [values.tasks, values.producers, values.concurrency].map(Number);
const data = { text: 'x'.repeat(Number(values.payload) - '{"text":""}'.length) };

const queue = new Queue('bench', { connection });
await queue.waitUntilReady();

async function produce() {
  let made = 0;
  const one = async () => {
    while (made++ < tasks) await queue.add('task', data, { attempts: 4 });
  };
  await Promise.all(Array.from({ length: producers }, one));
}

// Results are kept, as in the other libraries.
function drain() {
  return new Promise((resolve) => {
    let ran = 0;
    const worker = new Worker('bench', async () => ({ ok: true }), { connection, concurrency, autorun: false });
    worker.on('completed', () => {
      if (++ran === tasks) resolve(worker);
    });
    worker.run();
  });
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
console.log('ready');
await lines.next();
const begun = process.hrtime.bigint();
const drained = values.phase === 'enqueue' ? undefined : drain();
if (values.phase !== 'drain') await produce();
const worker = await drained;
console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - begun) / 1e9 }));
await lines.next(); // stdin is closed once the CPU time was read
await worker?.close();
await queue.close();
process.exit(0);
