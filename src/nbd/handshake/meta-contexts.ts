/**
 * Which contexts of a device a client means by its queries (protocol sections 1.10 and 3.1). A name is
 * `namespace:leaf`. Queries for what is not there, unknown namespaces among them, mean nothing and are
 * no error.
 */
import type { StatusContext } from '../../io/device.ts';

/** Every query names a namespace. */
export const areContextQueries = (queries: readonly string[]): boolean =>
  queries.every((query) => query.includes(':'));

/**
 * For LIST: what has the name of a query, and all of a kind for a query that ends in a colon (`base:`).
 * Everything, if nothing in particular is asked for.
 */
export function listedContexts(
  contexts: readonly StatusContext[],
  queries: readonly string[],
): readonly StatusContext[] {
  if (queries.length === 0) return contexts;
  return contexts.filter(({ name }) =>
    queries.some((query) => query === name || (query.endsWith(':') && name.startsWith(query))),
  );
}

/** For SET: what has the name of a query, each once however often it is asked for. No query, no context. */
export function chosenContexts(
  contexts: readonly StatusContext[],
  queries: readonly string[],
): readonly StatusContext[] {
  const names = new Set(queries);
  return contexts.filter(({ name }) => names.has(name));
}
