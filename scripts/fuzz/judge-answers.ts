/** Judges what answers to options carry: infos, transmission flags and meta contexts (protocol sections 1.5, 1.6, 3.1). */
import { decodeMetaContext, type InfoReply, type OptionReply } from '../../test/wire/decoder.ts';
import { demand, type Form, type JudgedExport } from './judge-facts.ts';
import type { MetaRequest } from './judge-options.ts';

const META_CONTEXT = 4;
const INVALID = 0x80000003;
const TOO_BIG = 0x80000009;
/** More queries than this may be refused. */
const QUERIES_SURE = 16;

/** The infos of one answer; gives the transmission flags. */
export function judgeInfos(
  infos: readonly InfoReply[],
  asked: readonly number[],
  exported: JudgedExport,
): number {
  const kinds = infos.map((each) => each.info);
  demand(new Set(kinds).size === kinds.length, 'an info comes twice');
  if (asked.includes(3)) demand(kinds.includes('block-size'), 'block sizes were asked for');
  if (asked.includes(1)) demand(kinds.includes('name'), 'the name was asked for');
  if (asked.includes(2) && exported.description !== '') {
    demand(kinds.includes('description'), 'the description was asked for');
  }
  let flags = -1;
  for (const each of infos) {
    if (each.info === 'export') {
      demand(each.size === BigInt(exported.size), `tells a size of ${each.size}`);
      flags = each.flags;
    } else if (each.info === 'name') {
      demand(each.text === exported.name, `tells the name ${JSON.stringify(each.text)}`);
    }
  }
  demand(flags >= 0, 'INFO_EXPORT is missing');
  return flags;
}

export function judgeFlags(exported: JudgedExport, form: Form, flags: number): void {
  const structured = form !== 'simple';
  demand((flags & 0x0001) !== 0, 'flags without HAS_FLAGS');
  demand(((flags & 0x0002) !== 0) === exported.readOnly, 'READ_ONLY is wrong');
  demand((flags & 0x0080) === 0 || structured, 'SEND_DF without structured replies');
  demand((flags & 0x0800) === 0 || (flags & 0x0040) !== 0, 'FAST_ZERO without WRITE_ZEROES');
  demand((flags & 0x1000) === 0 || form === 'extended', 'BLOCK_STATUS_PAYLOAD is wrong');
  demand((flags & 0xe200) === 0, `flags that nobody knows: 0x${flags.toString(16)}`);
}

/** Errors that a well-formed request for contexts may get all the same. */
export function metaExcuses(request: MetaRequest): readonly number[] {
  const odd = request.queries.some((query) => query === null || !query.includes(':'));
  const many = request.queries.length > QUERIES_SURE;
  return [...(odd ? [INVALID] : []), ...(many || odd ? [TOO_BIG] : [])];
}

/** The contexts of one answer, by id. */
export function judgeContexts(
  parts: readonly OptionReply[],
  { queries }: MetaRequest,
  { contexts }: JudgedExport,
  setting: boolean,
): ReadonlyMap<number, string> {
  const byId = new Map<number, string>();
  const names = new Set<string>();
  for (const part of parts) {
    demand(part.type === META_CONTEXT, `contexts come with a reply of type ${part.type}`);
    const { id, name } = decodeMetaContext(part.data);
    demand(contexts.includes(name), `a context ${name}`);
    demand(!names.has(name), `the context ${name} comes twice`);
    if (setting) demand(!byId.has(id), `the id ${id} comes twice`);
    names.add(name);
    byId.set(id, name);
  }
  const everything = !setting && queries.length === 0;
  for (const name of contexts) {
    const namespace = name.slice(0, name.indexOf(':') + 1);
    const asked = everything || queries.includes(name);
    const wildcard = !setting && name === 'base:allocation' && queries.includes(namespace);
    if (asked || wildcard) demand(names.has(name), `the context ${name} was asked for`);
    else if (names.has(name)) {
      // Wildcards of other namespaces are the server's own affair.
      const own = queries.some((query) => query !== null && query.startsWith(namespace));
      demand(own && namespace !== 'base:', `the context ${name} was not asked for`);
    }
  }
  return byId;
}
