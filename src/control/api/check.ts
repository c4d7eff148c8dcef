/** Checks of volumes in use, in the control API (docs/operating/check.md). */
import type { FastifyInstance } from 'fastify';
import { check, NO_BODY, type VolumeRoute } from './api-checks.ts';
import type { VolumeCheckStatus } from './check-status.ts';

/** `POST /v1/volumes/NAME/check`: what is wrong with a volume. */
export function addCheckRoute(
  app: FastifyInstance,
  commands: { check(name: string): Promise<VolumeCheckStatus> },
): void {
  app.post<VolumeRoute>('/v1/volumes/:name/check', (request) => {
    check('body', NO_BODY, request.body ?? {});
    return commands.check(request.params.name);
  });
}
