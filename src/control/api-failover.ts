/** Routes of the control API for who takes the writes of a volume. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { check, type VolumeRoute } from './api-checks.ts';
import type { FailoverCommands } from './failover.ts';

const PROMOTE_BODY = z.strictObject({
  force: z.boolean().default(false),
  at: z.string().nullable().default(null),
});
const FAILBACK_BODY = z.strictObject({ node: z.string(), force: z.boolean().default(false) });

export function addFailoverRoutes(app: FastifyInstance, failover: FailoverCommands): void {
  app.post<VolumeRoute>('/v1/volumes/:name/promote', (request) =>
    failover.promote(request.params.name, check('body', PROMOTE_BODY, request.body ?? {})),
  );
  app.post<VolumeRoute>('/v1/volumes/:name/failback', (request) => {
    const { node, ...options } = check('body', FAILBACK_BODY, request.body);
    return failover.failback(request.params.name, node, options);
  });
}
