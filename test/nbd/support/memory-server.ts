/** `node memory-server.js ADDRESS SIZE_MIB`: serves one memory device as '' until it is killed. */
import { parseAddress } from '../../../src/io/address.ts';
import { systemClock } from '../../../src/io/clock.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { NbdServer } from '../../../src/nbd/server/server.ts';
import { MemoryDevice, sourceOf } from './memory-device.ts';

const [address = 'unix:/tmp/memory-server.sock', sizeMib = '64'] = process.argv.slice(2);
const device = new MemoryDevice(Number(sizeMib) * 1024 * 1024);
device.recordCalls = false;
const server = new NbdServer({
  network: nodeNetwork,
  clock: systemClock,
  exports: sourceOf('', device),
  log: {
    info: (fields, text) => console.log(text, JSON.stringify(fields)),
    warn: (fields, text) => console.log(text, JSON.stringify(fields)),
  },
});
console.log('listening', JSON.stringify(await server.listen(parseAddress(address))));
process.once('SIGTERM', () => void server.close().then(() => console.log('closed')));
