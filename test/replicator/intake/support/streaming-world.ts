/** A mirror whose primary, played by the test, is connected and streams: it has the model's one epoch, and epochs follow. */
import { expect } from 'vitest';
import { MirrorWorld } from './mirror-world.ts';

export async function streaming(seed: number): Promise<MirrorWorld> {
  const world = new MirrorWorld(seed, 16);
  await world.create();
  world.model.write();
  const welcome = await world.connect();
  expect(await world.run(welcome!)).toBe(true);
  world.link!.control({ kind: 'stream-begin', generation: 1, after: world.model.last });
  await world.until('the stream', () => world.mirror!.sourceStatus().state === 'streaming');
  return world;
}
