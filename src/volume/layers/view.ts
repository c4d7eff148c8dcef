/**
 * The content that a chain of layers shows: the volume's own, or a snapshot's.
 *
 * Invariants:
 * - A block's content is in the youngest layer of the chain that says anything of it; if none does it reads as zeroes.
 * - A view of one layer asks its map; of more, an owner cache, so that long chains cost no more.
 */
import assert from 'node:assert';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Layer, ReadSource } from './layer.ts';
import { NOBODY, OwnerCache } from './owner-cache.ts';

export class View implements ReadSource {
  top: Layer;
  /** Base layer first, `top` last. */
  private chain: readonly Layer[] = [];
  private owners: OwnerCache | null = null;
  /** Null: as large as its top layer. */
  private readonly fixedBytes: number | null;

  /** The view of a volume that takes writes has the size of its top layer; a snapshot's has one of its own. */
  constructor(top: Layer, fixedBytes: number | null) {
    this.top = top;
    this.fixedBytes = fixedBytes;
    this.look(top);
  }

  get sizeBytes(): number {
    return this.fixedBytes ?? this.top.sizeBytes;
  }

  /** There are layers below the top. */
  get layered(): boolean {
    return this.owners !== null;
  }

  get length(): number {
    return this.chain.length;
  }

  /** Layers, sizes or maps below the top are others than before. */
  look(top: Layer): void {
    this.top = top;
    const chain: Layer[] = [];
    for (let layer: Layer | null = top; layer !== null; layer = layer.parent) chain.push(layer);
    this.chain = chain.toReversed();
    const blocks = this.fixedBytes === null ? top.map.blockCount : this.fixedBytes / BLOCK_BYTES;
    this.owners = chain.length === 1 ? null : new OwnerCache(this.chain, blocks);
  }

  runEndAt(offset: number, end: number): number {
    const first = Math.floor(offset / BLOCK_BYTES);
    const limit = Math.ceil(end / BLOCK_BYTES);
    const source = this.owners ?? this.top.map.data;
    return Math.min(end, source.runEnd(first, limit) * BLOCK_BYTES);
  }

  isDataAt(offset: number): boolean {
    const block = Math.floor(offset / BLOCK_BYTES);
    if (this.owners === null) return this.top.map.data.has(block);
    return this.owners.ownerOf(block) !== NOBODY;
  }

  layerAt(offset: number): Layer | null {
    const block = Math.floor(offset / BLOCK_BYTES);
    if (this.owners === null) return this.top.map.data.has(block) ? this.top : null;
    const owner = this.owners.ownerOf(block);
    if (owner === NOBODY) return null;
    const layer = this.chain[owner - 1];
    assert(layer, 'an owner is in the chain');
    return layer;
  }

  /** The top layer holds the block of a byte. */
  isTopAt(offset: number): boolean {
    return this.layerAt(offset) === this.top;
  }

  /** Blocks of the top layer became data, or zeroes. */
  topChanged(first: number, count: number, data: boolean): void {
    this.owners?.changed(first, count, data ? this.chain.length : NOBODY);
  }
}
