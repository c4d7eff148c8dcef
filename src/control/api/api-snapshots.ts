/** The control API's routes for snapshots, what changed since them, and merging (docs/reference/control-api.md). */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { BlockferryError } from '../../io/errors.ts';
import { bytesOf, check, FLAG, NO_BODY, NO_QUERY, type VolumeRoute } from './api-checks.ts';
import type { MergeCommands } from '../commands/merges.ts';
import type { SnapshotCommands } from '../commands/snapshots.ts';
import type { VolumeCommands } from '../commands/volumes.ts';

const force = z.boolean().default(false);
const NAME_BODY = z.strictObject({ name: z.string() });
const TOGETHER_BODY = z.strictObject({ volumes: z.array(z.string()).min(1), name: z.string() });
const DELETE_QUERY = z.strictObject({ force: FLAG });
const RESTORE_BODY = z.strictObject({
  offset: z.string().nullable().default(null),
  length: z.string().nullable().default(null),
  force,
});
const REFRESH_BODY = z.strictObject({ force });
const SYNC_BODY = z.strictObject({ from: z.string(), force });
const DIFF_QUERY = z.strictObject({ to: z.string().optional(), offset: z.string().default('0') });
const LIMIT_BODY = z.strictObject({ limit: z.string().nullable() });

interface SnapshotRoute {
  Params: { name: string; snapshot: string };
}

interface Commands {
  readonly commands: VolumeCommands;
  readonly snapshots: SnapshotCommands;
  readonly merges: MergeCommands;
}

export function addSnapshotRoutes(
  app: FastifyInstance,
  { commands, snapshots, merges }: Commands,
): void {
  app.post<SnapshotRoute>('/v1/volumes/:name/snapshots/:snapshot/clone', (request, reply) => {
    const { name } = check('body', NAME_BODY, request.body);
    reply.code(201);
    return commands.clone(request.params.name, request.params.snapshot, name);
  });
  addCollectionRoutes(app, snapshots);
  addContentRoutes(app, snapshots);
  addMergeRoutes(app, merges);
}

function addCollectionRoutes(app: FastifyInstance, snapshots: SnapshotCommands): void {
  app.post('/v1/snapshots', (request, reply) => {
    const { volumes, name } = check('body', TOGETHER_BODY, request.body);
    reply.code(201);
    return snapshots.create(volumes, name).then((created) => ({ snapshots: created }));
  });
  app.get<VolumeRoute>('/v1/volumes/:name/snapshots', (request) => {
    check('query', NO_QUERY, request.query);
    return snapshots.list(request.params.name).then((list) => ({ snapshots: list }));
  });
  app.post<VolumeRoute>('/v1/volumes/:name/snapshots', (request, reply) => {
    const { name } = check('body', NAME_BODY, request.body);
    reply.code(201);
    return snapshots.create([request.params.name], name).then(([created]) => created);
  });
  app.get<SnapshotRoute>('/v1/volumes/:name/snapshots/:snapshot', (request) => {
    check('query', NO_QUERY, request.query);
    return snapshots.show(request.params.name, request.params.snapshot);
  });
  app.delete<SnapshotRoute>('/v1/volumes/:name/snapshots/:snapshot', (request) => {
    const { name, snapshot } = request.params;
    const options = check('query', DELETE_QUERY, request.query);
    return snapshots
      .delete(name, snapshot, options)
      .then(() => ({ deleted: `${name}@${snapshot}` }));
  });
}

function addContentRoutes(app: FastifyInstance, snapshots: SnapshotCommands): void {
  const path = '/v1/volumes/:name/snapshots/:snapshot';
  app.post<SnapshotRoute>(`${path}/restore`, (request) => {
    const { name, snapshot } = request.params;
    const body = check('body', RESTORE_BODY, request.body ?? {});
    const range = {
      offset: bytesOf('offset', body.offset),
      length: bytesOf('length', body.length),
    };
    return snapshots
      .restore(name, snapshot, range, body)
      .then(() => ({ restored: name, from: `${name}@${snapshot}` }));
  });
  app.post<SnapshotRoute>(`${path}/refresh`, (request) => {
    const options = check('body', REFRESH_BODY, request.body ?? {});
    return snapshots.refresh(request.params.name, request.params.snapshot, options);
  });
  app.post<SnapshotRoute>(`${path}/sync`, (request) => {
    const { from, ...options } = check('body', SYNC_BODY, request.body);
    return snapshots.synchronise(request.params.name, from, request.params.snapshot, options);
  });
  app.post<SnapshotRoute>(`${path}/copy`, (request, reply) => {
    const { name } = check('body', NAME_BODY, request.body);
    reply.code(201);
    return snapshots.copy(request.params.name, request.params.snapshot, name);
  });
  app.get<SnapshotRoute>(`${path}/diff`, (request) => {
    const { to = null, offset } = check('query', DIFF_QUERY, request.query);
    const { name, snapshot } = request.params;
    return snapshots.diff(name, snapshot, to, bytesOf('offset', offset) ?? 0);
  });
}

function addMergeRoutes(app: FastifyInstance, merges: MergeCommands): void {
  app.get<VolumeRoute>('/v1/volumes/:name/merge', (request) => {
    check('query', NO_QUERY, request.query);
    return merges.show(request.params.name);
  });
  app.post<VolumeRoute>('/v1/volumes/:name/merge/pause', (request) => {
    check('body', NO_BODY, request.body ?? {});
    return merges.pause(request.params.name);
  });
  app.post<VolumeRoute>('/v1/volumes/:name/merge/resume', (request) => {
    check('body', NO_BODY, request.body ?? {});
    return merges.resume(request.params.name);
  });
  app.post<VolumeRoute>('/v1/volumes/:name/merge/limit', (request) => {
    const { limit } = check('body', LIMIT_BODY, request.body);
    const bytes = bytesOf('limit', limit);
    if (bytes === 0) throw new BlockferryError('REQUEST_INVALID', 'body.limit: pause it instead');
    return merges.limit(request.params.name, bytes);
  });
}
