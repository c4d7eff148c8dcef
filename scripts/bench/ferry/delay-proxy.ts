/**
 * The link of the benchmark as a process of its own: a byte proxy between the two nodes that delays, cuts and counts as its
 * parent says. What it holds is bounded (scripts/drill/proxy.ts). It ends with its parent.
 *
 * Arguments: where it listens, and where that leads to.
 */
import { FaultProxy } from '../../drill/proxy.ts';

/** Carried out in turn; each is answered by a `LinkCount`. */
export type LinkOrder =
  { readonly kind: 'delay'; readonly ms: number } | { readonly kind: 'cut' | 'restore' | 'count' };

/** Bytes that went through, each way, since the proxy began. */
export interface LinkCount {
  readonly toMirror: number;
  readonly toPrimary: number;
}

const [listen = '', target = ''] = process.argv.slice(2);
const proxy = await FaultProxy.start({ listen, target });

function obey(order: LinkOrder): void {
  if (order.kind === 'delay') proxy.delay(order.ms);
  else if (order.kind === 'cut') proxy.cut();
  else if (order.kind === 'restore') proxy.restore();
}

function tell(): void {
  const count: LinkCount = { toMirror: proxy.bytesToTarget, toPrimary: proxy.bytesToClient };
  process.send?.(count);
}

process.on('message', (order: LinkOrder) => {
  obey(order);
  tell();
});
process.on('disconnect', () => process.exit(0));
tell();
