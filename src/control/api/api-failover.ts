/** Routes of the control API for who takes the writes of a volume. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { HANDOVER_MS, HANDOVER_MS_MAX, LINK_TEXT_CHARACTERS_MAX } from '../../io/limits.ts';
import { check, type VolumeRoute } from './api-checks.ts';
import type { FailoverCommands } from '../commands/failover.ts';

const PROMOTE_BODY = z.strictObject({
  force: z.boolean().default(false),
  at: z.string().nullable().default(null),
});
const FAILBACK_BODY = z.strictObject({ node: z.string(), force: z.boolean().default(false) });

const HANDOVER = {
  to: z.string().nullable().default(null),
  timeout_seconds: z
    .number()
    .min(1)
    .max(HANDOVER_MS_MAX / 1000)
    .default(HANDOVER_MS / 1000),
};
const SWITCHOVER_BODY = z.strictObject({
  ...HANDOVER,
  back: z.string().max(LINK_TEXT_CHARACTERS_MAX).nullable().default(null),
});
const SPLIT_BODY = z.strictObject(HANDOVER);

export function addFailoverRoutes(app: FastifyInstance, failover: FailoverCommands): void {
  app.post<VolumeRoute>('/v1/volumes/:name/switchover', (request) => {
    const { timeout_seconds: seconds, ...order } = check(
      'body',
      SWITCHOVER_BODY,
      request.body ?? {},
    );
    const withinMs = Math.round(seconds * 1000);
    return failover.switchover(request.params.name, { ...order, withinMs });
  });
  app.post<VolumeRoute>('/v1/volumes/:name/split', (request) => {
    const { timeout_seconds: seconds, to } = check('body', SPLIT_BODY, request.body ?? {});
    const withinMs = Math.round(seconds * 1000);
    return failover.split(request.params.name, { to, withinMs, back: null });
  });
  app.post<VolumeRoute>('/v1/volumes/:name/promote', (request) =>
    failover.promote(request.params.name, check('body', PROMOTE_BODY, request.body ?? {})),
  );
  app.post<VolumeRoute>('/v1/volumes/:name/failback', (request) => {
    const { node, ...options } = check('body', FAILBACK_BODY, request.body);
    return failover.failback(request.params.name, node, options);
  });
}
