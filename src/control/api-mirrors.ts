/** The control API's routes for mirrors (docs/reference/control-api.md). */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { check, type VolumeRoute } from './api-checks.ts';
import type { MirrorCommands } from './mirrors.ts';
import { MIRROR_ACTIONS } from './status.ts';

const ADD_BODY = z.strictObject({
  uri: z.string(),
  mode: z.enum(['async', 'sync']).default('async'),
  stall_policy: z.enum(['degrade', 'block']).default('degrade'),
});
const MIRROR_BODY = z.strictObject({ uri: z.string().optional() });

export function addMirrorRoutes(app: FastifyInstance, mirrors: MirrorCommands): void {
  app.post<VolumeRoute>('/v1/volumes/:name/mirrors', (request, reply) => {
    const body = check('body', ADD_BODY, request.body);
    reply.code(201);
    const { uri, mode, stall_policy: stallPolicy } = body;
    return mirrors.add(request.params.name, { uri, mode, stallPolicy });
  });
  for (const action of MIRROR_ACTIONS) {
    app.post<VolumeRoute>(`/v1/volumes/:name/mirrors/${action}`, (request) => {
      const { uri } = check('body', MIRROR_BODY, request.body ?? {});
      return mirrors.change(request.params.name, action, uri ?? null);
    });
  }
}
