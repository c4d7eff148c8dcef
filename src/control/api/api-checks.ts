/** What the routes of the control API check requests with. */
import { z } from 'zod';
import { BlockferryError } from '../../io/errors.ts';
import { parseBytes } from '../../volume/names.ts';

/** A parameter of a query that is on or off. */
export const FLAG = z
  .enum(['', 'true', 'false', '1', '0'])
  .default('false')
  .transform((text) => text !== 'false' && text !== '0');
export const NO_QUERY = z.strictObject({});
export const NO_BODY = z.strictObject({});

/** A path below `/v1/volumes/:name`. */
export interface VolumeRoute {
  Params: { name: string };
}

/** The value, if it is as the schema says; unknown fields are not. Throws REQUEST_INVALID. */
export function check<T>(what: 'body' | 'query', schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = [what, ...(issue?.path ?? [])].join('.');
  throw new BlockferryError('REQUEST_INVALID', `${where}: ${issue?.message ?? 'not usable'}`);
}

/** A number of bytes as people write it; null stays null. Throws RANGE_INVALID. */
export function bytesOf(key: string, text: string | null): number | null {
  if (text === null) return null;
  const bytes = parseBytes(text);
  if (bytes !== null && Number.isSafeInteger(bytes)) return bytes;
  const shown = JSON.stringify(text.slice(0, 64));
  throw new BlockferryError('RANGE_INVALID', `the ${key} ${shown} is not a number of bytes`);
}
