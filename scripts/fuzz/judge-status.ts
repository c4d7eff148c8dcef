/** Judges one chunk of block status: its extents, and what they claim of the content. */
import type { ChunkContent } from '../../test/wire/decoder.ts';
import type { Content } from './content.ts';
import { demand, type JudgedSession } from './judge-facts.ts';
import type { JudgedRequest } from './judge-rules.ts';

const REQ_ONE = 0x08;
const ZERO = 2n;

type Status = Extract<ChunkContent, { kind: 'status' }>;

/** `length`: bytes that the request is about. `content`: what is there, null if that is not known. */
export function judgeStatus(
  { id, extents }: Status,
  request: JudgedRequest,
  length: bigint,
  { contexts, exported }: JudgedSession,
  content: Content | null,
): void {
  const name = contexts.get(id) ?? '';
  const end = request.offset + length;
  let at = request.offset;
  for (const [index, extent] of extents.entries()) {
    demand(extent.length > 0n, 'an extent of no bytes');
    demand(at < end, `an extent that begins at ${at}, past the request`);
    const last = index === extents.length - 1;
    demand(last || at + extent.length < end, 'an extent reaches the end and is not the last');
    demand(at + extent.length <= BigInt(exported.size), 'an extent past the end of the export');
    if (name === 'base:allocation') {
      demand((extent.flags & ~3n) === 0n, `base:allocation says 0x${extent.flags.toString(16)}`);
      if ((extent.flags & ZERO) !== 0n && content !== null) {
        const found = content.firstNonZero(Number(at), Number(extent.length));
        demand(found === null, `byte ${found} is called zero, and is not`);
      }
    }
    at += extent.length;
  }
  if ((request.flags & REQ_ONE) !== 0) {
    demand(extents.length === 1, `${extents.length} extents where one was asked for`);
    demand(at <= end, 'one extent, and longer than was asked for');
  }
}
