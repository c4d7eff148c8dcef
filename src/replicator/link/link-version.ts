/**
 * The version of the link: of its frames, its messages and what they mean. A node refuses a peer whose version differs.
 *
 * What came later is a feature: both sides name what they know in the handshake, and a node uses what the other named. A node
 * of the first version refuses a hello that names any, and is asked again without.
 */
export const LINK_VERSION = 1;

export const LINK_FEATURES = [
  /** Snapshots of the primary become snapshots of the mirror, by commands in the stream and by delta runs. */
  'snapshots',
  /** Payloads of DATA and RUN_DATA may come compressed, with that codec. Named by a mirror that has threads to expand them. */
  'brotli',
  /** The messages about a handover and a split. */
  'handover',
  /** A mirror that took writes of its own says where it parted, and which blocks may differ. */
  'rejoin',
  /** The new primary is told of the other mirrors of the old one. */
  'others',
  /** The mirror says what it does not let its primary do, and what it keeps that its primary has no more. */
  'refusals',
  /** The primary says which epochs a request of its host waits for: of others the mirror takes several in one sync. */
  'awaits',
  /** PAYLOAD_CHECKSUM is by XXH64, in both directions. */
  'xxh64',
  /** The primary may ask with a digest for each group of blocks: COMPARE_GROUPS. */
  'groups',
] as const;

export type LinkFeature = (typeof LINK_FEATURES)[number];

/** Whether the side that said this knows it. */
export function hasFeature(
  { features }: { readonly features?: readonly string[] },
  feature: LinkFeature,
): boolean {
  return features?.includes(feature) === true;
}
