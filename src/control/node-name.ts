/** Names of nodes. They stand in status and logs, and tell two nodes of a link from each other. */
import { BlockferryError } from '../io/errors.ts';

export const NODE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** @throws BlockferryError NODE_NAME_INVALID */
export function validateNodeName(name: string): void {
  if (NODE_NAME.test(name)) return;
  const shown = JSON.stringify(name.slice(0, 64));
  throw new BlockferryError('NODE_NAME_INVALID', `${shown} is not the name of a node`);
}
