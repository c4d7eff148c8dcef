/** The data of options as a strict reader of the protocol's text takes it apart; null when it may not. */

export interface InfoRequest {
  readonly name: string;
  readonly infos: readonly number[];
}

export interface MetaRequest {
  readonly name: string;
  /** Null for one that is no legal text. */
  readonly queries: readonly (string | null)[];
}

export function textOf(bytes: Buffer): string | null {
  if (bytes.length > 4096 || bytes.includes(0)) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

export function parseInfo(data: Buffer): InfoRequest | null {
  if (data.length < 6) return null;
  const length = data.readUInt32BE(0);
  if (length > data.length - 6) return null;
  const name = textOf(data.subarray(4, 4 + length));
  const count = data.readUInt16BE(4 + length);
  if (name === null || data.length !== 6 + length + 2 * count) return null;
  const infos = Array.from({ length: count }, (_, at) => data.readUInt16BE(6 + length + 2 * at));
  return { name, infos };
}

export function parseMeta(data: Buffer): MetaRequest | null {
  if (data.length < 8) return null;
  const length = data.readUInt32BE(0);
  if (length > data.length - 8) return null;
  const name = textOf(data.subarray(4, 4 + length));
  if (name === null) return null;
  const count = data.readUInt32BE(4 + length);
  const queries: (string | null)[] = [];
  let at = 8 + length;
  for (let left = count; left > 0; left--) {
    if (data.length - at < 4) return null;
    const bytes = data.readUInt32BE(at);
    if (bytes > data.length - at - 4) return null;
    queries.push(textOf(data.subarray(at + 4, at + 4 + bytes)));
    at += 4 + bytes;
  }
  return at === data.length ? { name, queries } : null;
}
