/** The control API's routes for mirrors (docs/reference/control-api.md). */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { BlockferryError } from '../../io/errors.ts';
import { LAG_LIMIT_MS_MAX, LAG_LIMIT_MS_MIN, LINK_LANES_MAX } from '../../io/limits.ts';
import type { MirrorPolicy } from '../../replicator/policy/mirror-policy.ts';
import { durationMs, formatDuration, parseSchedule } from '../../replicator/policy/schedule.ts';
import { bytesOf, check, type VolumeRoute } from './api-checks.ts';
import type { MirrorCommands } from '../commands/mirrors.ts';
import { MIRROR_ACTIONS } from '../status.ts';

const COMPRESS = z.enum(['auto', 'off']).optional();
const ADD_BODY = z.strictObject({
  uri: z.string(),
  mode: z.enum(['async', 'sync']).default('async'),
  stall_policy: z.enum(['degrade', 'block']).default('degrade'),
  lanes: z.int().min(1).max(LINK_LANES_MAX).default(1),
  seeded: z.boolean().default(false),
  delta: z.string().optional(),
  lag_limit: z.string().optional(),
  compress: COMPRESS,
});
const SET_BODY = z.strictObject({
  uri: z.string(),
  delta: z.string().optional(),
  lag_limit: z.string().optional(),
  compress: COMPRESS,
});
const MIRROR_BODY = z.strictObject({ uri: z.string().optional() });
const LIMIT_BODY = z.strictObject({ uri: z.string(), limit: z.string().nullable() });
const VERIFY_BODY = z.strictObject({
  uri: z.string().optional(),
  repair: z.boolean().default(false),
});

export function addMirrorRoutes(app: FastifyInstance, mirrors: MirrorCommands): void {
  app.post<VolumeRoute>('/v1/volumes/:name/mirrors', (request, reply) => {
    const body = check('body', ADD_BODY, request.body);
    reply.code(201);
    const { uri, mode, stall_policy: stallPolicy, lanes, seeded, ...policy } = body;
    const mirror = { uri, mode, stallPolicy, lanes, seeded, policy: policyOf(policy) };
    return mirrors.add(request.params.name, mirror);
  });
  app.post<VolumeRoute>('/v1/volumes/:name/mirrors/set', (request) => {
    const { uri, ...policy } = check('body', SET_BODY, request.body);
    return mirrors.set(request.params.name, uri, policyOf(policy));
  });
  app.post<VolumeRoute>('/v1/volumes/:name/mirrors/limit', (request) => {
    const { uri, limit } = check('body', LIMIT_BODY, request.body);
    const bytes = bytesOf('limit', limit);
    if (bytes === 0) throw new BlockferryError('REQUEST_INVALID', 'body.limit: pause it instead');
    return mirrors.limit(request.params.name, uri, bytes);
  });
  app.post<VolumeRoute>('/v1/volumes/:name/mirrors/verify', (request) => {
    const { uri, repair } = check('body', VERIFY_BODY, request.body ?? {});
    return mirrors.verify(request.params.name, uri ?? null, { repair });
  });
  for (const action of MIRROR_ACTIONS) {
    app.post<VolumeRoute>(`/v1/volumes/:name/mirrors/${action}`, (request) => {
      const { uri } = check('body', MIRROR_BODY, request.body ?? {});
      return mirrors.change(request.params.name, action, uri ?? null);
    });
  }
}

/** What of it is said. @throws BlockferryError USAGE */
function policyOf({
  delta,
  lag_limit: lagLimit,
  compress,
}: Omit<z.infer<typeof SET_BODY>, 'uri'>): Partial<MirrorPolicy> {
  return {
    ...(compress === undefined ? {} : { compress }),
    ...(delta === undefined ? {} : { schedule: parseSchedule(delta) }),
    ...(lagLimit === undefined ? {} : { lagLimitMs: lagLimitOf(lagLimit) }),
  };
}

function lagLimitOf(text: string): number | null {
  if (text === 'off') return null;
  const ms = durationMs(text);
  if (ms !== null && ms >= LAG_LIMIT_MS_MIN && ms <= LAG_LIMIT_MS_MAX) return ms;
  const range = `${formatDuration(LAG_LIMIT_MS_MIN)} to ${formatDuration(LAG_LIMIT_MS_MAX)}`;
  const message = `lag_limit ${JSON.stringify(text)} must be off or a time of ${range}`;
  throw new BlockferryError('USAGE', message);
}
