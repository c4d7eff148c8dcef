/** Conversations to start from: the client's bytes of a few that are right in every form. */
import * as wire from '../../test/wire/encoder.ts';

const cookie = (number: number): bigint => BigInt(number) << 32n;

const commands = (make: typeof wire.request, writeFlags: number): Buffer =>
  Buffer.concat([
    make(wire.WRITE, {
      cookie: cookie(1),
      flags: writeFlags,
      payload: Buffer.from('sixteen bytes it'),
    }),
    make(wire.READ, { cookie: cookie(2), length: 512n }),
    make(wire.WRITE_ZEROES, {
      cookie: cookie(3),
      flags: wire.FAST_ZERO,
      offset: 4n,
      length: 4096n,
    }),
    make(wire.TRIM, { cookie: cookie(4), offset: 0n, length: 65536n }),
    make(wire.CACHE, { cookie: cookie(5), offset: 0n, length: 65536n }),
    make(wire.BLOCK_STATUS, { cookie: cookie(6), offset: 0n, length: 65536n }),
    make(wire.FLUSH, { cookie: cookie(7) }),
    make(wire.DISC, { cookie: cookie(8) }),
  ]);

export const RECORDINGS: readonly Buffer[] = [
  Buffer.concat([
    wire.clientFlags(),
    wire.list(),
    wire.info('disk0', [0, 1, 2, 3]),
    wire.go('disk0', [3]),
    commands(wire.request, 0),
  ]),
  Buffer.concat([wire.clientFlags(1), wire.exportName('disk0'), commands(wire.request, 0)]),
  Buffer.concat([
    wire.clientFlags(),
    wire.structuredReply(),
    wire.listMetaContext('disk0'),
    wire.setMetaContext('disk0', ['base:allocation', 'x-test:even']),
    wire.go('disk0'),
    commands(wire.request, 0),
  ]),
  Buffer.concat([
    wire.clientFlags(),
    wire.extendedHeaders(),
    wire.setMetaContext('disk0', ['base:allocation']),
    wire.go('disk0', [3]),
    commands(wire.extendedRequest, wire.PAYLOAD_LEN),
  ]),
  Buffer.concat([wire.clientFlags(), wire.startTls(), wire.go('disk0'), wire.abort()]),
];
