/**
 * The container of a base layer under a check: whether it is there, and large enough. What it holds is the content of the
 * volume, whatever it is, so there is nothing to compare.
 */
import { errorText } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Container, Place } from '../containers.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import type { CheckTools } from './check-extents.ts';
import { atFile, finding } from './check-finding.ts';
import type { Finding } from './check-finding.ts';

/** Of a volume that nobody has open. An export is not asked: whether it is there is its server's business. */
export function checkContainer(place: Place, map: LayerMap, tools: CheckTools): Finding[] {
  const { kind, location } = place;
  const { deviceBytes } = tools;
  if (kind === 'nbd' || deviceBytes === undefined) return [notCompared(place)];
  try {
    return [...ofSize(place, deviceBytes(location), map), notCompared(place)];
  } catch (thrown) {
    return [finding('container-unusable', atFile(location), errorText(thrown))];
  }
}

export function checkLiveContainer(container: Container, map: LayerMap): Finding[] {
  const { place, trouble, file } = container;
  if (trouble !== null) return [finding('container-unusable', atFile(place.location), trouble)];
  return [...ofSize(place, file.sizeNow(), map), notCompared(place)];
}

function ofSize({ location }: Place, bytes: number, map: LayerMap): Finding[] {
  const wanted = map.blockCount * BLOCK_BYTES;
  if (bytes >= wanted) return [];
  const what = `it has ${bytes} bytes, and its layer ${wanted}`;
  return [finding('container-short', atFile(location), what)];
}

function notCompared({ location }: Place): Finding {
  const what = 'it holds the base layer; what is there is the content, and nothing says more';
  return finding('container-not-compared', atFile(location), what);
}
