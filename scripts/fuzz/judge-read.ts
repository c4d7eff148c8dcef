/** A request that waits for its answer, and what a READ among them must bring. */
import { demand } from './judge-facts.ts';
import type { JudgedRequest, Verdict } from './judge-rules.ts';

export interface Waiting {
  readonly request: JudgedRequest;
  readonly verdict: Verdict;
  /** What a READ must bring. */
  readonly expected: { readonly bytes: Buffer; mask: Buffer | null } | null;
  /** Parts of a READ that came, as [start, end) from the start of the request. */
  readonly covered: (readonly [number, number])[];
  readonly statuses: Set<number>;
  contentChunks: number;
  error: number | null;
  /** What has changed the content up to this request; -1 while such requests are on their way. */
  readonly changes: number;
  /** Another request with the same cookie waits too: which one a chunk is for cannot be told. */
  ambiguous: boolean;
}

export const nameOf = ({ command, flags, cookie, offset, length }: JudgedRequest): string =>
  `command ${command} flags 0x${flags.toString(16)} cookie 0x${cookie.toString(16)} ` +
  `at ${offset} of ${length} bytes`;

/** What the READ brings where the change is, nobody knows. */
export function blur({ request, expected }: Waiting, change: JudgedRequest): void {
  if (expected === null) return;
  const end = request.offset + request.length;
  const changeEnd = change.offset + change.length;
  if (change.offset >= end || changeEnd <= request.offset) return;
  expected.mask ??= Buffer.alloc(expected.bytes.length);
  const from = change.offset > request.offset ? Number(change.offset - request.offset) : 0;
  const to = changeEnd < end ? Number(changeEnd - request.offset) : expected.bytes.length;
  expected.mask.fill(1, from, to);
}

/** Data, or a hole where `data` is null, in answer to a request. */
export function judgePart(
  entry: Waiting,
  offset: bigint,
  length: number,
  data: Buffer | null,
): void {
  const { request, covered } = entry;
  const what = nameOf(request);
  demand(request.command === 0, `data for ${what}`);
  demand(entry.expected !== null || entry.verdict.errors.size > 0, `data for ${what}`);
  const start = Number(offset - request.offset);
  const inside = start >= 0 && BigInt(start + length) <= request.length;
  demand(inside, `${length} bytes at ${offset} for ${what}`);
  const over = covered.some(([from, to]) => start < to && from < start + length);
  demand(!over, `bytes at ${offset} come twice for ${what}`);
  covered.push([start, start + length]);
  entry.contentChunks++;
  demand((request.flags & 4) === 0 || entry.contentChunks === 1, `two pieces for ${what}`);
  if (entry.expected !== null) compare(entry, start, data ?? Buffer.alloc(length));
}

/** All that a success must bring. */
export function judgeWhole({ request, verdict, covered, statuses }: Waiting): void {
  const what = nameOf(request);
  if (request.command === 0) {
    const total = covered.reduce((sum, [from, to]) => sum + to - from, 0);
    demand(BigInt(total) === request.length, `${total} bytes for ${what}`);
  }
  if (request.command === 7) {
    demand(statuses.size === verdict.ids.length, `${statuses.size} contexts for ${what}`);
  }
}

/** The bytes of a READ from `start` on, against what the device holds. */
export function compare({ request, expected }: Waiting, start: number, data: Buffer): void {
  if (expected === null) return;
  const bytes = expected.bytes.subarray(start, start + data.length);
  if (bytes.equals(data)) return;
  for (let at = 0; at < data.length; at++) {
    if (data[at] === bytes[at] || expected.mask?.[start + at] === 1) continue;
    const where = Number(request.offset) + start + at;
    const text = `byte ${where} is ${data[at]} instead of ${bytes[at]}`;
    demand(false, `${text} in ${nameOf(request)}`);
  }
}
